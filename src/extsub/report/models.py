"""Which models stand in the paper's table: those of sweeps, each at the strength chosen for it, and of evaluations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from extsub.errors import ExtSubError
from extsub.escaping import brief
from extsub.evaluation.groups import Group, Source, read_groups, results_folder
from extsub.evaluation.store import RESULTS, Results, read_results
from extsub.report.reading import MODELS, Sweep, read_sweep
from extsub.sweeping.budget import ScoreName
from extsub.sweeping.selection import half_of
from extsub.sweeping.settings import POSITIONS, RESULT

ORDER = (*MODELS, "subtract", "ext-sub")
"""The lines of the paper; what else there is comes after them."""


class Models(NamedTuple):
    """The models of a table, each a line."""

    groups: tuple[Group, ...]
    alphas: dict[str, str]
    """The strengths of each model that has one, as text."""
    notes: tuple[str, ...]
    target: ScoreName | None
    """The score that the sweeps chose by; None where there is no sweep."""


class _Position(NamedTuple):
    name: str
    alpha: str
    source: Source | None
    """None where no strength keeps the budget."""


def read_models(folders: Sequence[str | Path], groups: Mapping[str, Sequence[str | Path]]) -> Models:
    """The models of sweeps, recipes and evaluations; those of one name are one model.

    Raises:
        ExtSubError: a folder holds nothing of the kind, stands twice, or is of a sweep that chose by another score.
    """
    paths = [_located(folder) for folder in folders]
    if len(set(paths)) < len(paths):
        raise ExtSubError("table: the same folder is given twice")
    sweeps = [read_sweep(folder) for folder in paths if (folder / RESULT).exists()]
    _check_alike(sweeps)
    evaluated = [folder for folder in paths if not (folder / RESULT).exists()]
    if not sweeps and not evaluated and not groups:
        raise ExtSubError("table needs a folder that extsub sweep, run or evaluate wrote")
    positions = [position for sweep in sweeps for position in _positions(sweep)]
    members = {
        name: [position.source for position in positions if position.name == name and position.source]
        for name in sorted(dict.fromkeys(position.name for position in positions), key=_place)
    }
    for folder in evaluated:
        (group,) = read_groups([folder], {}, "table")
        members.setdefault(group.name, []).extend(group.sources)
    for group in read_groups((), groups, "table"):
        members.setdefault(group.name, []).extend(group.sources)
    alphas = {
        name: ", ".join(filter(None, (position.alpha for position in positions if position.name == name)))
        for name in members
    }
    notes = [note for sweep in sweeps for note in _notes(sweep)]
    if sweeps and (evaluated or groups):
        notes.append("what extsub evaluate wrote: over all items")
    lines = tuple(Group(name, tuple(sources)) for name, sources in members.items())
    return Models(lines, alphas, tuple(notes), sweeps[0].target if sweeps else None)


def _check_alike(sweeps: Sequence[Sweep]) -> None:
    """Several sweeps are one experiment with several seeds, and not several deficiencies."""
    for sweep in sweeps[1:]:
        if sweep.target != sweeps[0].target:
            first, other = (f"{brief(each.folder.name)} chose by {each.target}" for each in (sweeps[0], sweep))
            raise ExtSubError(f"table: {first}, {other}: they are not one experiment; give each a table of its own")


def _located(given: str | Path) -> Path:
    """The folder of a sweep or of results; of a recipe that of its sweep."""
    folder = results_folder(given)
    if (folder / RESULT).exists() or (folder / RESULTS).exists():
        return folder
    inside = sorted(path.parent for path in folder.glob(f"*/{RESULT}"))
    if len(inside) > 1:
        names = ", ".join(path.name for path in inside)
        raise ExtSubError(f"{given} has several sweeps ({brief(names)}): give the folder of one of them")
    if not inside:
        raise ExtSubError(f"{given}: no {RESULT} or {RESULTS} in it; give what extsub sweep, run or evaluate wrote")
    return inside[0]


def _positions(sweep: Sweep) -> Iterator[_Position]:
    """The models that it starts from, and every operation at the strength chosen for it."""
    labels = {name: name for name in MODELS}
    labels |= {name: choice["position"] for name, choice in sweep.record["chosen"].items()}
    for name, label in labels.items():
        if label is None:
            yield _Position(name, "none", None)
            continue
        folder, alpha = sweep.folder / POSITIONS / label, sweep.alpha(label)
        results: Results = {"tasks": sweep.positions[label]["tasks"], "runs": read_results(folder).get("runs", {})}
        source = Source(folder, results, lambda item: half_of(item, sweep.seed) == "test")
        yield _Position(name, "" if alpha is None else f"{alpha:g}", source)


def _place(name: str) -> int:
    """The line of a model in the table."""
    return ORDER.index(name) if name in ORDER else len(ORDER)


def _notes(sweep: Sweep) -> Iterator[str]:
    name = brief("/".join(sweep.folder.parts[-2:]))
    yield f"{name}: over the half of the items that did not choose a strength"
    for operation, choice in sweep.record["chosen"].items():
        if choice["position"] is None:
            yield f"{name}: no strength of {operation} keeps the budget; closest is {choice['closest']}"
