"""What a search between the points of the grid found: a sentence, and its trials."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from extsub.evaluation.tasks import TASKS
from extsub.report.wording import at, change_in_words, named, number, said
from extsub.sweeping.selection import judged
from extsub.tables import Cell, Table, TableRow

OVER = {
    "alpha": "one α for all modules",
    "kinds": "an α for each kind of module",
    "depth": "a slope along the depth",
}
MOST = 10
"""Trials in the table, beside the one that was chosen."""


def search_sentence(record: Mapping[str, Any]) -> str:
    """Whether the search beat the grid's choice on the items that chose neither; empty where there was no search."""
    search = record.get("search")
    if not search:
        return ""
    over = " and ".join(OVER[name] for name in search["over"])
    tried = f"The search tried {len(search['tried'])} further strengths of {named(search['operation'])} ({over})"
    best = search["best"]
    if best["position"] is None:
        return f"{tried}: none keeps the budget."
    if search["grid"] is None:
        return f"{tried}: {_spread(best)} keeps the budget, which no strength of the grid does."
    grid = at(record["positions"][search["grid"]]["alpha"])
    if best["position"] == search["grid"]:
        return f"{tried}: the choice stays {grid} of the grid."
    change = search["against_grid"]
    task, _, score = record["score"].partition(".")
    word = said(judged(change, TASKS[task].measure(score)), f"{grid} of the grid")
    return (
        f"{tried}: the choice among all, {_spread(best)}, {word} on the items that chose neither: "
        f"{change_in_words(change)}."
    )


def search_table(record: Mapping[str, Any]) -> list[Table]:
    """The trials that are best on the items to choose by; none where there was no search."""
    search = record.get("search")
    if not search:
        return []
    task, _, score = record["score"].partition(".")
    sign = 1 if TASKS[task].measure(score).better == "higher" else -1
    order = sorted(
        (trial for trial in search["tried"] if trial["validation"] is not None),
        key=lambda trial: (not trial["within_budget"], -sign * trial["validation"]),
    )
    note = search_sentence(record)
    if search["best"].get("profile"):
        note += " profile.json beside sweep.json holds its factors, for extsub combine --profile."
    rows = [
        TableRow(
            (Cell(_spread(trial)), Cell(number(trial["validation"])), Cell("yes" if trial["within_budget"] else "no")),
            "chosen" if trial["position"] == search["best"]["position"] else "",
        )
        for place, trial in enumerate(order)
        if place < MOST or trial["position"] == search["best"]["position"]
    ]
    head = ("strength", f"{record['score']} on the items to choose by", "within the budget")
    return [Table("Between the points of the grid", note, head, 1, rows)]


def _spread(point: Mapping[str, Any]) -> str:
    """A strength, and how it is spread."""
    profile = point.get("profile")
    if not profile:
        return at(point["alpha"])
    kinds = [f"{kind} {point['alpha'] * factor:.3g}" for kind, factor in profile["kinds"].items()]
    text = "α: " + ", ".join(kinds) if kinds else at(point["alpha"])
    return f"{text}, slope {profile['ramp']:+.2g}".replace("-", "−") if profile["ramp"] else text
