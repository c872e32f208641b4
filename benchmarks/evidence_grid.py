"""All recipes of ``examples/evidence`` beside each other: what each position scores, and what is left of the learnt.

The figures are kept in a CSV file beside the page, so that one machine runs one recipe and another the next. Recipes
that nobody ran are named.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from evidence_figures import ABILITY, SWEEP, Half, change, change_in_words
from extsub.errors import counted
from extsub.evaluation.metrics import Difference
from extsub.sweeping.budget import kept_part
from extsub.sweeping.settings import RESULT
from extsub.tasks import TASKS

RECIPES = Path(__file__).resolve().parents[1] / "examples" / "evidence"
ROWS = (
    "base",
    "expert",
    "anti-expert",
    "ext-sub-0.5",
    "ext-sub-1",
    "ext-sub-2",
    "contrast-0.5",
    "contrast-1",
    "subtract-0.25",
    "subtract-0.5",
    "subtract-1",
    "amplify-1",
    "random-1",
)
COMPARED = ("ext-sub-1", "contrast-1", "subtract-1", "amplify-1", "random-1")
"""Positions whose change against the expert is shown with its interval."""
NAMES = ("recipe", "score", "better", "pairs", "seeds", "items", "position", "mean", "deviation", "kept")
CHANGE = ("change", "low", "high", "p")
PLAIN = tuple(f"plain_{name}" for name in CHANGE)
"""Columns of the CSV file: ``pairs`` of adapters were trained with so many ``seeds``, and those of each were asked so
many ``items``; the deviation is over the pairs. The change against the expert is over the items, and ``plain`` is that
of the score over answers without a negation or an evasion, where the task has one."""

Row = dict[str, str]
"""A line of the file, by these names."""


def grid(output: Path, figures: Path) -> Iterator[str | list[list[str]]]:
    """Sentences and tables, whose first line are the heads: a column for each recipe, a row for each position.

    Figures of what was run in ``output`` replace what ``figures`` holds of the same recipes.
    """
    columns = _columns(output, figures)
    _write(figures, columns)
    yield (
        "The recipes of `examples/evidence`, each with its own score (↑: higher is better, ↓: lower is): the mean over "
        "pairs of adapters ± their standard deviation, and in brackets what is left of what the expert gained over the "
        "base in the perplexity of the recipe's own right answers (*kept*). The same as a file: "
        f"[{figures.name}]({figures.name})."
    )
    heads = ["position", *(_head(next(iter(rows.values()))) for rows in columns.values())]
    labels = dict.fromkeys([*ROWS, *(label for rows in columns.values() for label in rows)])
    yield [heads, *([label, *(_cell(rows.get(label)) for rows in columns.values())] for label in labels)]
    for sentence, names in (
        ("Change against the expert, over items:", CHANGE),
        ("The same over answers without a negation or an evasion, where a score has such:", PLAIN),
    ):
        yield sentence
        lines = ([label, *(_change(rows.get(label), names) for rows in columns.values())] for label in COMPARED)
        yield [["position", *columns], *lines]
    if missing := [name for name in _names() if name not in columns]:
        yield f"Not run: {', '.join(missing)}."


def _names() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def _columns(output: Path, figures: Path) -> dict[str, dict[str, Row]]:
    """recipe -> position -> its line"""
    known: dict[str, dict[str, Row]] = defaultdict(dict)
    if figures.exists():
        for row in csv.DictReader(io.StringIO(figures.read_text(encoding="utf-8"))):
            known[row["recipe"]][row["position"]] = row
    columns = {}
    for name in _names():
        if rows := {row["position"]: row for row in _rows(name, output)} or known[name]:
            columns[name] = rows
    return columns


def _rows(recipe: str, output: Path) -> Iterator[Row]:
    """What the finished sweeps of a recipe hold; nothing where none is finished."""
    folders = sorted((output / recipe).glob("seed-*-half-*"))
    halves = [Half(folder, SWEEP) for folder in folders if (folder / SWEEP / RESULT).exists()]
    labels = dict.fromkeys([*ROWS, *(label for half in halves for label in half.record.get("references", {}))])
    for label in labels:
        there = [half for half in halves if label in _positions(half.record)]
        if not there:
            continue
        score = there[0].record["score"]
        task, _, name = score.partition(".")
        measure = TASKS[task].measure(name)
        points = [_figure(half.record, label, score) for half in there]
        scores = [point["value"] for point in points]
        seeds = len({half.seed for half in there})
        yield {
            "recipe": recipe,
            "score": score,
            "better": measure.better or "",
            "pairs": str(len(there)),
            "seeds": str(seeds),
            "items": str(sum(point["n"] for point in points) // seeds),
            "position": label,
            "mean": f"{fmean(scores):.4f}",
            "deviation": f"{stdev(scores):.4f}" if len(scores) > 1 else "",
            "kept": f"{fmean(_kept(half.record, label) for half in there):.3f}",
            **dict(_changes(there, label, task, name)),
        }


def _changes(halves: Sequence[Half], label: str, task: str, score: str) -> Iterator[tuple[str, str]]:
    """Column and figure of the change against the expert, in the score and in its plain one."""
    measured = halves[0].record["positions"]["expert"]["tasks"][task]
    for name, columns in ((score, CHANGE), (f"{score}_plain", PLAIN)):
        if label != "expert" and name in measured:
            found = change(halves, label, task, name, TASKS[task].measure(name))
            for column, value in zip(columns, (found.value, *found.ci95, found.p), strict=True):
                yield column, "" if value is None else f"{value:.4f}"


def _write(figures: Path, columns: Mapping[str, Mapping[str, Row]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, (*NAMES, *CHANGE, *PLAIN), lineterminator="\n")
    writer.writeheader()
    for rows in columns.values():
        writer.writerows(rows.values())
    figures.write_text(text.getvalue(), encoding="utf-8")


def _positions(record: Mapping[str, Any]) -> dict[str, Any]:
    """With those of reference methods, where the sweep asked for them."""
    return record["positions"] | record.get("references", {})


def _head(row: Row) -> str:
    made = ", ".join(counted(int(row[f"{noun}s"]), noun) for noun in ("pair", "seed"))
    better = "↓" if row["better"] == "lower" else "↑"
    return f"{row['recipe']}, {row['score']} {better} ({made}, {row['items']} items)"


def _cell(row: Row | None) -> str:
    """The recipe's score, and in brackets the part of what the expert learnt that is left."""
    if row is None:
        return ""
    spread = f" ± {float(row['deviation']):.3f}" if row["deviation"] else ""
    return f"{float(row['mean']):.3f}{spread} ({float(row['kept']):.2f})".replace("-", "−")


def _change(row: Row | None, names: Sequence[str]) -> str:
    if row is None or not row.get(names[0]):
        return ""
    value, low, high, p = (float(row[name]) if row[name] else None for name in names)
    return change_in_words(Difference(value, (low, high), p, int(row["items"])))


def _kept(record: Mapping[str, Any], label: str) -> float:
    values = (_figure(record, name, "perplexity.perplexity")["value"] for name in (label, "base", "expert"))
    return kept_part(*values, ABILITY)


def _figure(record: Mapping[str, Any], label: str, score: str) -> dict[str, Any]:
    task, _, name = score.partition(".")
    return _positions(record)[label]["tasks"][task][name]
