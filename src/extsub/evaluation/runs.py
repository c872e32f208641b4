"""Folders of results as what they are results of: each a run of its own, or several together a group of seeds."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extsub.errors import ExtSubError
from extsub.escaping import brief
from extsub.escaping import shown as quoted
from extsub.evaluation.metrics import Scores
from extsub.evaluation.seeds import GroupFigure, Items, group_figure
from extsub.evaluation.store import RESULTS, Results, read_items, read_results
from extsub.evaluation.task import scores_of
from extsub.evaluation.tasks import TASKS, check_known
from extsub.files.reading import located


@dataclass(frozen=True, eq=False)
class Run:
    """One model under the name that tables give it; several folders of it are several seeds."""

    name: str
    folders: tuple[Path, ...]
    results: tuple[Results, ...]

    @functools.cache  # noqa: B019  read once, by as many figures as a task has
    def _scores(self, task: str) -> tuple[dict[Any, Scores], ...]:
        """For each folder that has the task the scores of every item, or of every sample of it."""
        return tuple(
            {
                (index, place): one
                for index, row in read_items(folder, task).items()
                for place, one in enumerate(scores_of(row))
            }
            for folder, results in zip(self.folders, self.results, strict=True)
            if task in results["tasks"]
        )

    def items(self, task: str, metric: str) -> tuple[Items, ...]:
        """For each folder that has the task the score of every item."""
        return tuple({key: row.get(metric) for key, row in rows.items()} for rows in self._scores(task))

    def figure(self, task: str, metric: str) -> GroupFigure | None:
        """Of all folders together; None where one of them lacks it."""
        figures = [one["tasks"].get(task, {}).get(metric) for one in self.results]
        known = [one for one in figures if one is not None]
        if len(known) < len(figures):
            return None
        return group_figure(known, self.items(task, metric) if len(known) > 1 else (), TASKS[task].measure(metric))


def read_runs(
    results: Sequence[str | Path], groups: Mapping[str, Sequence[str | Path]], command: str
) -> tuple[Run, ...]:
    """Folders that ``evaluate`` wrote, each a run by itself, then the groups.

    Args:
        results: folders, or their ``results.json``.
        groups: for each name the folders of one model, made with different seeds.
        command: whose arguments these are, for errors.

    Raises:
        ExtSubError: a folder holds no results, or stands twice; two runs have one name; a task is unknown.
    """
    alone = [_folder(result) for result in results]
    named = {name: [_folder(result) for result in several] for name, several in groups.items()}
    folders = [*alone, *(folder for several in named.values() for folder in several)]
    if len(set(folders)) < len(folders):
        raise ExtSubError(f"{command}: the same folder is given twice")
    names = short_names(alone)
    if twice := set(names) & set(named):
        raise ExtSubError(f"{command}: {brief(min(twice))} is a folder and a group: give the group another name")
    found = {folder: _read(folder) for folder in folders}
    for folder, one in found.items():
        check_known(one["tasks"], str(folder))
    runs = {**{name: [folder] for name, folder in zip(names, alone, strict=True)}, **named}
    return tuple(Run(name, tuple(each), tuple(found[folder] for folder in each)) for name, each in runs.items())


def _folder(given: str | Path) -> Path:
    path = located(str(given))
    path = path.parent if path.name == RESULTS else path
    if not path.is_dir():
        raise ExtSubError(f"{given}: no such folder of results")
    return path.resolve()


def _read(folder: Path) -> Results:
    if not (results := read_results(folder)):
        raise ExtSubError(f"{folder}: no {RESULTS} in it; give a folder that extsub evaluate wrote")
    return results


def short_names(folders: Sequence[Path]) -> tuple[str, ...]:
    """As short as they differ."""
    for parts in range(1, max((len(folder.parts) for folder in folders), default=0)):
        names = ["/".join(folder.parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            return tuple(names)
    return tuple(map(str, folders))


def notes_on(task: str, runs: Sequence[Run]) -> Iterator[str]:
    """Where runs were asked otherwise than the first.

    Raises:
        ExtSubError: two were asked other items, and cannot be compared.
    """
    folders = [folder for run in runs for folder in run.folders]
    found = [one["runs"].get(task) if task in one["tasks"] else None for run in runs for one in run.results]
    first = next(one["identity"] for one in found if one)
    for folder, name, run in zip(folders, short_names(folders), found, strict=True):
        if run is None:
            yield f"{name} was not evaluated on {task}"
            continue
        identity = run["identity"]
        if identity["data"] != first["data"]:
            raise ExtSubError(f"{folder}: {task} was evaluated on other data: evaluate both on the same file")
        same = ("model",) if identity["limit"] else ("model", "seed")  # which draws the items
        for key in identity:
            if key not in same and identity[key] != first.get(key):
                yield f"{name}, {task}: {brief(key)} is {quoted(identity[key])}, not {quoted(first.get(key))}"


def notes_on_seeds(runs: Sequence[Run]) -> Iterator[str]:
    """What ± means, and where there is none."""
    groups = [run for run in runs if len(run.folders) > 1]
    if not groups:
        return
    counts = ", ".join(f"{brief(run.name)} {len(run.folders)}" for run in groups)
    yield (
        f"± is the standard deviation over runs of different seeds ({counts}), with n − 1. Intervals and p count both "
        "seeds and items."
    )
    if len(groups) > 1 and len({len(run.folders) for run in groups}) == 1:
        yield "groups are paired seed by seed, in the order in which their folders are given"
    for run in runs:
        if len(run.folders) == 1:
            yield f"{brief(run.name)} is one run: it has no spread over seeds, and p counts none for it"
