"""Runs side by side: how they differ, item by item, and whether that could be chance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extsub.errors import ExtSubError
from extsub.escaping import brief
from extsub.evaluation.groups import Group, notes_on, notes_on_seeds, read_groups
from extsub.evaluation.metrics import Difference
from extsub.evaluation.seeds import GroupFigure, group_difference
from extsub.evaluation.store import FigureRecord
from extsub.evaluation.tasks import TASKS, load_task_files
from extsub.formatting import rounded, spread
from extsub.notebooks import table
from extsub.tables import Cell, Table, TableRow, to_csv

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
    figures: tuple[GroupFigure | None, ...]
    differences: tuple[Difference | None, ...]

    def verdict(self, run: int) -> str:
        """``better``, ``worse``, ``no difference``, or empty where nobody can say."""
        difference = self.differences[run]
        if self.better is None or difference is None or difference.p is None:
            return ""
        if difference.p >= SIGNIFICANT or not difference.value:
            return "no difference"
        return "better" if (difference.value > 0) == (self.better == "higher") else "worse"

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

    def numbers(self, names: Sequence[str]) -> Iterator[list[str | float | None]]:
        """For each run: task, score, run, value, sd, interval, n, difference, its interval, p, verdict."""
        for run, name in enumerate(names):
            figure, difference = self.figures[run], self.differences[run]
            if figure is None:
                continue
            is_known = difference is not None and not math.isnan(difference.value)
            change = [difference.value, *difference.ci95, difference.p] if difference and is_known else [None] * 4
            sd = figure.get("sd")
            yield [self.task, self.metric, name, figure["value"], sd, *figure["ci95"], figure["n"], *change,
                   self.verdict(run)]  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """What several runs scored; the first is the one that the others are compared with."""

    names: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]
    folders: tuple[tuple[Path, ...], ...]
    """Of every run; several are a group."""

    def table(self) -> Table:
        """A table with a line for each figure of each run."""
        head = ("task", "score", "run", "value", "n", "difference", "p", "")
        rows, task = [], None
        for line in self.lines:
            for cells in line.cells(self.names):
                kind = "first" if line.task != task else ""
                rows.append(TableRow(tuple(map(Cell, cells)), kind))
                task = line.task
        return Table(f"compared with {self.names[0]}", EXPLANATION, head, 3, rows)

    def to_csv(self) -> str:
        """The table as CSV, with bare numbers."""
        head = "task score run value sd low high n difference difference_low difference_high p verdict".split()
        rows = (row for line in self.lines for row in line.numbers(self.names))
        return to_csv(head, rows)

    def _repr_html_(self) -> str:
        compared = self.table()
        return table(compared.title, compared.head, [[cell.text for cell in row.cells] for row in compared.rows])

    def to_dict(self) -> dict[str, Any]:
        """As JSON values: ``tasks.<task>.<metric>`` has for each run a figure and its difference from the first."""
        tasks: dict[str, dict[str, Any]] = {}
        for line in self.lines:
            runs = []
            for run, (figure, difference) in enumerate(zip(line.figures, line.differences, strict=True)):
                entry: dict[str, Any] = {"figure": figure}
                if difference is not None:
                    entry["difference"] = {
                        **difference._asdict(),
                        "ci95": list(difference.ci95),
                        "verdict": line.verdict(run),
                    }
                runs.append(entry)
            tasks.setdefault(line.task, {})[line.metric] = runs
        folders = [list(map(str, members)) for members in self.folders]
        return {"runs": list(self.names), "folders": folders, "tasks": tasks, "notes": list(self.notes)}


def compare(
    *results: str | Path,
    groups: Mapping[str, Sequence[str | Path]] | None = None,
    seed: int = 0,
    task_file: Sequence[str] = (),
) -> Comparison:
    """Compare folders that ``evaluate`` wrote, each with the first, on the items that both have.

    The difference has a 95 % interval (paired bootstrap over items) and a two-sided p: exact (McNemar) where items are
    right or wrong, otherwise from random sign flips of the items' differences (``metrics.difference``). Where several
    folders are one group, both count seeds and items (``seeds.group_difference``).

    Args:
        results: folders, or their ``results.json``.
        groups: for each name the folders of one model, made with different seeds; they come after ``results``.
        seed: of bootstrap and test.
        task_file: Python files of your own that register tasks.

    Raises:
        ExtSubError: a folder holds no results, two are the same, a task is unknown, or the data of one differs.
    """
    load_task_files(tuple(task_file))
    runs = read_groups(results, groups or {}, "compare")
    if len(runs) < 2:
        raise ExtSubError("compare needs two or more folders of results, or groups of them")
    tasks = [task for task in TASKS if sum(_has(run, task) for run in runs) > 1]
    if not tasks:
        named = "; ".join(brief(", ".join(source.results["tasks"])) for run in runs for source in run.sources)
        raise ExtSubError(f"the runs have no task in common: {named}")
    lines, notes = [], list(notes_on_seeds(runs))
    for task in tasks:
        notes += notes_on(task, runs)
        lines += _lines(task, runs, seed)
    folders = tuple(tuple(source.folder for source in run.sources) for run in runs)
    return Comparison(tuple(run.name for run in runs), tuple(lines), tuple(notes), folders)


def _has(run: Group, task: str) -> bool:
    return any(task in source.results["tasks"] for source in run.sources)


def _lines(task: str, runs: Sequence[Group], seed: int) -> Iterator[Line]:
    known = [source.results["tasks"].get(task, {}) for run in runs for source in run.sources]
    for score in dict.fromkeys(score for figures in known for score in figures):
        measure = TASKS[task].measure(score)
        if measure.control:  # of the data, which is the same
            continue
        figures = tuple(run.figure(task, score) for run in runs)
        differences: list[Difference | None] = [None]
        for run, figure in zip(runs[1:], figures[1:], strict=True):
            pair = (runs[0].items(task, score), run.items(task, score)) if figures[0] and figure else ()
            differences.append(group_difference(*pair, measure, seed) if pair else None)
        controls = _controls(task, score, next(recorded for recorded in known if recorded))
        yield Line(task, score, measure.better, controls, figures, tuple(differences))


def _controls(task: str, metric: str, known: Mapping[str, FigureRecord]) -> dict[str, float]:
    return {kind: figure["value"] for name, figure in known.items() if (kind := control_of(task, name, metric))}


def control_of(task: str, name: str, metric: str) -> str | None:
    """Which of ``CONTROLS`` of ``metric`` a figure is; None if it is not a control of it."""
    if not TASKS[task].measure(name).control:
        return None
    score, _, kind = name.rpartition("_")
    return kind if score in ("", metric) else None


EXPLANATION = (
    "In brackets: 95 % intervals. Differences are from the first run, item by item; p is two-sided, and each line's by "
    "itself: of twenty lines without any difference, one has p < 0.05."
)


def shown(figure: Mapping[str, Any] | None) -> str:
    """A figure with its interval, or with ± its standard deviation over seeds."""
    if figure is None:
        return ""
    if "sd" in figure:
        return " ± ".join(spread(figure["value"], figure["sd"]))
    value, interval = rounded(figure["value"], figure["ci95"])
    return f"{value} {interval}" if figure["n"] > 1 else value  # one item has no interval


def shown_change(value: float, ci95: Sequence[float]) -> str:
    """A difference with its interval."""
    return " ".join(rounded(value, ci95, signed=True))


def shown_p(p: float | None) -> str:
    """A p value to as many digits as anybody needs."""
    return "" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _change(difference: Difference | None) -> tuple[str, str]:
    """(a difference with its interval, p)."""
    if difference is None or math.isnan(difference.value):
        return "", ""
    return shown_change(difference.value, difference.ci95), shown_p(difference.p)
