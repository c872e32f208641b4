"""Figures of evaluations in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from extsub.evaluation.compare import EXPLANATION, Comparison, control_of, shown
from extsub.evaluation.tasks import TASKS
from extsub.report.searched import search_sentence

LEFT = ["task", "score", "model"]
CONTROLS = ["chance", "longest", "shortest"]
WIDE = 160
"""columns where the output is no terminal"""


def print_results(results: list[dict[str, Any]], tasks: list[str]) -> None:
    """A line for each score of each model, and the score's controls beside it."""
    names, known = (
        [_name(one["model"]) for one in results],
        [name for task in tasks for name in results[0]["tasks"][task]],
    )
    kinds = [kind for kind in CONTROLS if any(name.endswith(kind) for name in known)]
    table = new_table(LEFT, ["value", *kinds, "n"])
    for task in tasks:
        figures = results[0]["tasks"][task]
        for metric in (name for name in figures if not TASKS[task].measure(name).control):
            controls = {control_of(task, name, metric): f"{one['value']:.3g}" for name, one in figures.items()}
            head = (task, metric)
            for model, one in zip(names, results, strict=True):
                if (figure := one["tasks"][task].get(metric)) is not None:
                    beside = [controls.get(kind, "") for kind in kinds]
                    table.add_row(*head, model, shown(figure), *beside, f"{figure['n']:,}")
                    head = ("", "")
        table.add_section()
    print_table(table)
    print("in brackets: 95 % intervals" + (f"; {', '.join(kinds)}: what one gets without a model" if kinds else ""))
    _print_notes(results, names, tasks)


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
    """Runs side by side, a line for each."""
    table = new_table(["task", "score", "run"], ["value", "difference", "p", ""])
    before = None
    for line in comparison.lines:
        if before not in (None, line.task):
            table.add_section()
        before = line.task
        for cells in line.cells(comparison.names):
            table.add_row(*cells)
    print_table(table)
    for note in (*EXPLANATION, *comparison.notes):
        print(f"note: {note}")


def print_sweep(record: dict[str, Any]) -> None:
    """A line for each position with every score that can be better or worse, then what was chosen."""
    columns = [
        (task, score)
        for task, scores in record["positions"]["expert"]["tasks"].items()
        for score in scores
        if TASKS[task].measure(score).better
    ]
    table, before = new_table(["operation", "α"], [score for _, score in columns]), None
    for one in record["positions"].values():
        if one["alpha"] is not None and one["operation"] != before:
            table.add_section()
        values = [one["tasks"][task].get(score) for task, score in columns]
        alpha = "" if one["alpha"] is None else f"{one['alpha']:g}"
        head = "" if one["operation"] == before else one["operation"]
        table.add_row(head, alpha, *("" if value is None else f"{value['value']:.4g}" for value in values))
        before = one["operation"]
    print_table(table)
    within = f" within {record['budget']}" if record["budget"] else ""
    print(f"\nBest {record['score']}{within}, chosen on one half of the items, its figures on the other:")
    costs = ["budget's score"] if record["budget"] else []
    chosen = new_table(["operation", "chosen"], [record["score"], "against the expert", "p", *costs])
    for one in record["chosen"].values():
        if one["position"] is None:
            chosen.add_row(one["operation"], f"none; closest {one['closest']}")
            continue
        change = one["against_expert"]
        difference = f"{change['value']:+.3g} [{change['ci95'][0]:+.2g}, {change['ci95'][1]:+.2g}]"
        p = "" if change["p"] is None else f"{change['p']:.3f}"
        cost = [f"{one['budget_test']['value']:.4g}"] if record["budget"] else []
        chosen.add_row(one["operation"], one["position"], shown(one["test"]), difference, p, *cost)
    print_table(chosen)
    if sentence := search_sentence(record):
        print(f"\n{sentence}")
    for note in record["notes"]:
        print(f"  note: {note}")


def _name(model: dict[str, Any]) -> str:
    return (model.get("adapter") or {}).get("name") or model.get("served_name") or model["base"]


def new_table(left: Sequence[str], right: Sequence[str]) -> Table:
    """Columns of names, then columns of figures."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def print_table(table: Table) -> None:
    """As wide as the terminal, or as it needs to be."""
    Console(width=None if sys.stdout.isatty() else WIDE, soft_wrap=False).print(table)
