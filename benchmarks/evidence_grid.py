"""All recipes of ``examples/evidence`` beside each other: what each position scores, and what is left of the learnt.

The figures are kept in a CSV file beside the page, so that one machine runs one recipe and another the next. Recipes
that nobody ran are named.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from evidence_figures import ABILITY, SWEEP, Half, change
from extsub.evaluation.metrics import Difference
from extsub.report.wording import p_value
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
"""Columns of the CSV file: ``pairs`` of adapters were trained with so many ``seeds``, and those of each were asked so
many ``items``; the deviation is over the pairs, the change against the expert is over the items."""

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
        "pairs of adapters ± their standard deviation, and in brackets what is left of what the expert learnt (*kept*, "
        f"as above). The same as a file: [{figures.name}]({figures.name})."
    )
    heads = ["position", *(_head(next(iter(rows.values()))) for rows in columns.values())]
    labels = dict.fromkeys([*ROWS, *(label for rows in columns.values() for label in rows)])
    yield [heads, *([label, *(_cell(rows.get(label)) for rows in columns.values())] for label in labels)]
    yield "Change against the expert, over items:"
    heads = ["position", *columns]
    yield [heads, *([label, *(_change(rows.get(label)) for rows in columns.values())] for label in COMPARED)]
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
            **(_changed(change(there, label, task, name, measure)) if label != "expert" else {}),
        }


def _changed(difference: Difference) -> Row:
    values = (difference.value, *difference.ci95, difference.p)
    return {name: f"{value:.4f}" for name, value in zip(CHANGE, values, strict=True) if value is not None}


def _write(figures: Path, columns: Mapping[str, Mapping[str, Row]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, (*NAMES, *CHANGE), lineterminator="\n")
    writer.writeheader()
    for rows in columns.values():
        writer.writerows(rows.values())
    figures.write_text(text.getvalue(), encoding="utf-8")


def _positions(record: Mapping[str, Any]) -> dict[str, Any]:
    """With those of reference methods, where the sweep asked for them."""
    return record["positions"] | record.get("references", {})


def _head(row: Row) -> str:
    seeds = f"{row['seeds']} {'seed' if row['seeds'] == '1' else 'seeds'}"
    pairs = f"{row['pairs']} {'pair' if row['pairs'] == '1' else 'pairs'}"
    better = "↓" if row["better"] == "lower" else "↑"
    return f"{row['recipe']}, {row['score']} {better} ({pairs}, {seeds}, {row['items']} items)"


def _cell(row: Row | None) -> str:
    """The recipe's score, and in brackets the part of what the expert learnt that is left."""
    if row is None:
        return ""
    spread = f" ± {float(row['deviation']):.3f}" if row["deviation"] else ""
    return f"{float(row['mean']):.3f}{spread} ({float(row['kept']):.2f})".replace("-", "−")


def _change(row: Row | None) -> str:
    if row is None or not row.get("change"):
        return ""
    change, low, high = (f"{float(row[name]):+.3f}" for name in CHANGE[:3])
    p = f", {p_value(float(row['p']))}" if row["p"] else ""
    return f"{change} [{low}, {high}]{p}".replace("-", "−")


def _kept(record: Mapping[str, Any], label: str) -> float:
    values = (_figure(record, name, "perplexity.perplexity")["value"] for name in (label, "base", "expert"))
    return kept_part(*values, ABILITY)


def _figure(record: Mapping[str, Any], label: str, score: str) -> dict[str, Any]:
    task, _, name = score.partition(".")
    return _positions(record)[label]["tasks"][task][name]
