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
    found = record.get("search")
    if not found:
        return ""
    over = " and ".join(OVER[one] for one in found["over"])
    tried = f"The search tried {len(found['tried'])} further strengths of {named(found['operation'])} ({over})"
    best = found["best"]
    if best["position"] is None:
        return f"{tried}: none keeps the budget."
    if found["grid"] is None:
        return f"{tried}: {_spread(best)} keeps the budget, which no strength of the grid does."
    grid = at(record["positions"][found["grid"]]["alpha"])
    if best["position"] == found["grid"]:
        return f"{tried}: the choice stays {grid} of the grid."
    change = found["against_grid"]
    task, _, score = record["score"].partition(".")
    word = said(judged(change, TASKS[task].measure(score)), f"{grid} of the grid")
    return (
        f"{tried}: the choice among all, {_spread(best)}, {word} on the items that chose neither: "
        f"{change_in_words(change)}."
    )


def search_table(record: Mapping[str, Any]) -> list[Table]:
    """The trials that are best on the items to choose by; none where there was no search."""
    found = record.get("search")
    if not found:
        return []
    task, _, score = record["score"].partition(".")
    sign = 1 if TASKS[task].measure(score).better == "higher" else -1
    order = sorted(
        (one for one in found["tried"] if one["validation"] is not None),
        key=lambda one: (not one["within_budget"], -sign * one["validation"]),
    )
    note = search_sentence(record)
    if found["best"].get("profile"):
        note += " profile.json beside sweep.json holds its factors, for extsub combine --profile."
    rows = [
        TableRow(
            (Cell(_spread(one)), Cell(number(one["validation"])), Cell("yes" if one["within_budget"] else "no")),
            "chosen" if one["position"] == found["best"]["position"] else "",
        )
        for place, one in enumerate(order)
        if place < MOST or one["position"] == found["best"]["position"]
    ]
    head = ("strength", f"{record['score']} on the items to choose by", "within the budget")
    return [Table("Between the points of the grid", note, head, 1, rows)]


def _spread(one: Mapping[str, Any]) -> str:
    """A strength, and how it is spread."""
    profile = one.get("profile")
    if not profile:
        return at(one["alpha"])
    kinds = [f"{kind} {one['alpha'] * factor:.3g}" for kind, factor in profile["kinds"].items()]
    text = "α: " + ", ".join(kinds) if kinds else at(one["alpha"])
    return f"{text}, slope {profile['ramp']:+.2g}".replace("-", "−") if profile["ramp"] else text
