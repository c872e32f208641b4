"""Runs side by side: how they differ, item by item, and whether that could be chance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extsub.errors import ExtSubError
from extsub.escaping import brief
from extsub.escaping import markdown as plain
from extsub.escaping import shown as quoted
from extsub.evaluation.metrics import Difference, Score, difference
from extsub.evaluation.store import RESULTS, FigureRecord, Results, read_items, read_results
from extsub.evaluation.task import scores_of
from extsub.evaluation.tasks import TASKS, check_known, load_task_files
from extsub.files.reading import located
from extsub.formatting import rounded
from extsub.notebooks import table

SIGNIFICANT = 0.05
CONTROLS = {
    "chance": "by chance",
    "longest": "always the longest",
    "shortest": "always the shortest",
    "negated": "always a negation or an evasion",
}
"""What one gets without a model, in words."""


@dataclass(frozen=True)
class Line:
    """One figure of one task in all runs; the differences are from the first run."""

    task: str
    metric: str
    better: str | None
    controls: dict[str, float]
    """Those of ``CONTROLS`` that the task has, with their figures."""
    figures: tuple[FigureRecord | None, ...]
    differences: tuple[Difference | None, ...]

    def verdict(self, run: int) -> str:
        """``better``, ``worse``, ``no difference``, or empty where nobody can say."""
        found = self.differences[run]
        if self.better is None or found is None or found.p is None:
            return ""
        if found.p >= SIGNIFICANT or not found.value:
            return "no difference"
        return "better" if (found.value > 0) == (self.better == "higher") else "worse"

    def cells(self, names: Sequence[str]) -> Iterator[tuple[str, ...]]:
        """For each run: task, score, run, figure, n, difference, p, verdict; what is said above is left blank."""
        head = (self.task, self.metric)
        for run, name in enumerate(names):
            figure = self.figures[run]
            if figure is None:
                continue
            change = _change(self.differences[run])
            yield (*head, name, shown(figure), f"{figure['n']:,}", *change, self.verdict(run))
            head = ("", "")


@dataclass(frozen=True)
class Comparison:
    """Several runs; the first is the one that the others are compared with."""

    names: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]

    def _repr_html_(self) -> str:
        heads = ("task", "score", "run", "figure", "n", "difference", "p", "")
        rows = [cells for line in self.lines for cells in line.cells(self.names)]
        return table(f"compared with {self.names[0]}", heads, rows)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values: ``tasks.<task>.<metric>`` has for each run a figure and its difference from the first."""
        tasks: dict[str, dict[str, Any]] = {}
        for line in self.lines:
            runs = []
            for run, (figure, found) in enumerate(zip(line.figures, line.differences, strict=True)):
                entry: dict[str, Any] = {"figure": figure}
                if found is not None:
                    entry["difference"] = {**found._asdict(), "ci95": list(found.ci95), "verdict": line.verdict(run)}
                runs.append(entry)
            tasks.setdefault(line.task, {})[line.metric] = runs
        return {"runs": list(self.names), "tasks": tasks, "notes": list(self.notes)}


def compare(*results: str | Path, seed: int = 0, task_file: Sequence[str] = ()) -> Comparison:
    """Compare folders that ``evaluate`` wrote, each with the first, on the items that both have.

    The difference has a 95 % interval (paired bootstrap over items) and a two-sided p: exact (McNemar) where items are
    right or wrong, otherwise from random sign flips of the items' differences (``metrics.difference``).

    Args:
        results: folders, or their ``results.json``.
        seed: of bootstrap and test.
        task_file: Python files of your own that register tasks.

    Raises:
        ExtSubError: a folder holds no results, two are the same, a task is unknown, or the data of one differs.
    """
    load_task_files(tuple(task_file))
    folders = [_folder(result) for result in results]
    if len(folders) < 2:
        raise ExtSubError("compare needs two or more folders of results")
    if len(set(folders)) < len(folders):
        raise ExtSubError("compare: the same folder is given twice")
    found = [read_results(folder) for folder in folders]
    for folder, one in zip(folders, found, strict=True):
        if not one:
            raise ExtSubError(f"{folder}: no {RESULTS} in it; give a folder that extsub evaluate wrote")
    for folder, one in zip(folders, found, strict=True):
        check_known(one["tasks"], str(folder))
    tasks = [task for task in TASKS if sum(task in one["tasks"] for one in found) > 1]
    if not tasks:
        raise ExtSubError(
            f"the runs have no task in common: {'; '.join(brief(', '.join(one['tasks'])) for one in found)}"
        )
    lines, notes = [], []
    for task in tasks:
        notes += _notes(task, folders, found)
        lines += _lines(task, folders, found, seed)
    return Comparison(_names(folders), tuple(lines), tuple(notes))


def _folder(given: str | Path) -> Path:
    path = located(str(given))
    path = path.parent if path.name == RESULTS else path
    if not path.is_dir():
        raise ExtSubError(f"{given}: no such folder of results")
    return path.resolve()


def _names(folders: Sequence[Path]) -> tuple[str, ...]:
    """As short as they differ."""
    for parts in range(1, max(len(folder.parts) for folder in folders)):
        names = ["/".join(folder.parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            return tuple(names)
    return tuple(map(str, folders))


def _notes(task: str, folders: Sequence[Path], found: Sequence[Results]) -> list[str]:
    """Raises where two runs cannot be compared; says where they were asked otherwise."""
    identities = [one["runs"][task]["identity"] if task in one["runs"] else None for one in found]
    first = next(one for one in identities if one)
    notes = []
    for folder, identity in zip(folders, identities, strict=True):
        if identity is None:
            notes.append(f"{folder.name} was not evaluated on {task}")
        elif identity["data"] != first["data"]:
            raise ExtSubError(f"{folder}: {task} was evaluated on other data: evaluate both on the same file")
        else:
            same = ("model",) if identity["limit"] else ("model", "seed")  # which draws the items
            other = [name for name in identity if name not in same and identity[name] != first.get(name)]
            notes += [
                f"{folder.name}, {task}: {brief(name)} is {quoted(identity[name])}, not {quoted(first.get(name))}"
                for name in other
            ]
    return notes


def _lines(task: str, folders: Sequence[Path], found: Sequence[Results], seed: int) -> list[Line]:
    items = [_scores(folder, task) if task in one["tasks"] else {} for folder, one in zip(folders, found, strict=True)]
    lines = []
    for metric in dict.fromkeys(metric for one in found for metric in one["tasks"].get(task, {})):
        measure = TASKS[task].measure(metric)
        if measure.control:  # of the data, which is the same
            continue
        figures = tuple(one["tasks"].get(task, {}).get(metric) for one in found)
        first: dict[Any, Score] = {key: scores.get(metric) for key, scores in items[0].items()}
        differences: list[Difference | None] = [None]
        for other, figure in zip(items[1:], figures[1:], strict=True):
            common = [
                key for key, one in first.items() if one is not None and other.get(key, {}).get(metric) is not None
            ]
            pairs = [first[key] for key in common], [other[key][metric] for key in common]
            differences.append(difference(*pairs, measure, seed) if common and figures[0] and figure else None)
        lines.append(Line(task, metric, measure.better, _controls(task, metric, found), figures, tuple(differences)))
    return lines


def _controls(task: str, metric: str, found: Sequence[Results]) -> dict[str, float]:
    known = next(one["tasks"][task] for one in found if task in one["tasks"])
    return {kind: figure["value"] for name, figure in known.items() if (kind := control_of(task, name, metric))}


def control_of(task: str, name: str, metric: str) -> str | None:
    """Which of ``CONTROLS`` a figure is, of ``metric``; None if it is none."""
    if not TASKS[task].measure(name).control:
        return None
    score, _, kind = name.rpartition("_")
    return kind if score in ("", metric) else None


def _scores(folder: Path, task: str) -> dict[Any, Any]:
    """The scores of every item, or of every sample of it."""
    rows = read_items(folder, task)
    return {(index, place): one for index, row in rows.items() for place, one in enumerate(scores_of(row))}


def markdown(comparison: Comparison) -> str:
    """The comparison as a table for a README or an issue."""
    rows = ["| task | score | run | | n | difference | p | |", "|---|---|---|---:|---:|---:|---:|---|"]
    for line in comparison.lines:
        for cells in line.cells(comparison.names):
            rows.append("| " + " | ".join(map(plain, cells)) + " |")
    notes = [f"- {plain(note)}" for note in (*EXPLANATION, *comparison.notes)]
    return "\n".join([*rows, "", *notes, ""])


EXPLANATION = (
    "In brackets: 95 % intervals. Differences are from the first run, item by item; p is two-sided, and each line's by "
    "itself: of twenty lines without any difference, one has p < 0.05.",
)


def shown(figure: FigureRecord | Mapping[str, Any] | None) -> str:
    """A figure with its interval."""
    if figure is None:
        return ""
    value, interval = rounded(figure["value"], figure["ci95"])
    return f"{value} {interval}" if figure["n"] > 1 else value  # one item has no interval


def shown_change(value: float, ci95: Sequence[float]) -> str:
    """A difference with its interval."""
    return " ".join(rounded(value, ci95, signed=True))


def shown_p(p: float | None) -> str:
    """As far as anybody needs it."""
    return "" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _change(found: Difference | None) -> tuple[str, str]:
    """(a difference with its interval, p)."""
    if found is None or math.isnan(found.value):
        return "", ""
    return shown_change(found.value, found.ci95), shown_p(found.p)
