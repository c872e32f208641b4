"""Figures of evaluations in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from extsub.evaluation.compare import EXPLANATION, Comparison, changed, probability, shown
from extsub.evaluation.task import Task
from extsub.evaluation.tasks import TASKS

WIDE = 160
"""columns where the output is no terminal"""


def print_results(results: list[dict[str, Any]], tasks: list[str]) -> None:
    """One table: a line for each score, a column for each model, and the score's controls beside it."""
    names = [_name(one["model"]) for one in results]
    found = [(name, _split(TASKS[name], results[0]["tasks"][name])) for name in tasks]
    kinds = list(dict.fromkeys(kind for _, (_, controls) in found for kind in controls))
    table = _table(["task", "score", *names, *kinds, "n"])
    for name, (scores, controls) in found:
        for metric, figure in scores.items():
            beside = [controls.get(kind, {}).get(metric) or controls.get(kind, {}).get("") for kind in kinds]
            cells = [shown(one["tasks"][name].get(metric)) for one in results]
            cells += ["" if one is None else f"{one['value']:.3g}" for one in beside]
            table.add_row(name, metric, *cells, f"{figure['n']:,}")
        table.add_section()
    _print(table)
    print("in brackets: 95 % intervals" + ("; at the right: what one gets without a model" if kinds else ""))
    _print_notes(results, names, tasks)


def _split(task: Task, figures: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """(scores, controls as {kind: {score that it belongs to, or nothing for all: figure}})."""
    scores, controls = {}, {}
    for name, figure in figures.items():
        if task.measure(name).control:
            metric, _, kind = name.rpartition("_")
            controls.setdefault(kind, {})[metric] = figure
        else:
            scores[name] = figure
    return scores, controls


def _print_notes(results: list[dict[str, Any]], names: list[str], tasks: list[str]) -> None:
    """A note once, with the models that it is true of."""
    whose: dict[str, list[str]] = {}
    for one, name in zip(results, names, strict=True):
        for task in tasks:
            for note in one["runs"][task]["notes"]:
                whose.setdefault(f"{task}: {note}", []).append(name)
    for note, models in whose.items():
        print(f"  note: {note}" if len(models) == len(names) else f"  note: {', '.join(models)}, {note}")


def print_comparison(comparison: Comparison) -> None:
    """Runs side by side."""
    first, *others = comparison.names
    table = _table(["task", "score", first, *(cell for name in others for cell in (name, "difference", "p"))])
    before = None
    for line in comparison.lines:
        if before not in (None, line.task):
            table.add_section()
        before, cells = line.task, [shown(line.figures[0])]
        for run in range(1, len(comparison.names)):
            cells += [shown(line.figures[run]), changed(line, run), probability(line.differences[run])]
        table.add_row(line.task, line.metric, *cells)
    _print(table)
    for note in (*EXPLANATION, *comparison.notes):
        print(f"  note: {note}")


def _name(model: dict[str, Any]) -> str:
    return (model.get("adapter") or {}).get("name") or model.get("served_name") or model["base"]


def _table(head: list[str]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for place, name in enumerate(head):
        table.add_column(name, justify="left" if place < 2 else "right", no_wrap=True)
    return table


def _print(table: Table) -> None:
    Console(width=None if sys.stdout.isatty() else WIDE, soft_wrap=False).print(table)
