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

from evidence_figures import ABILITY
from extsub.files.reading import read_json
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
HEADS = ("recipe", "score", "better", "pairs", "seeds", "position", "mean", "deviation", "kept")
"""Of the CSV file: ``pairs`` of adapters were trained with so many seeds, the deviation is over the pairs."""

Row = dict[str, str]
"""A line of the file, by ``HEADS``."""


def grid(output: Path, figures: Path) -> tuple[list[str], list[list[str]], list[str]]:
    """(heads, rows, recipes that were not run) of one table: a column for each recipe, a row for each position.

    Figures of what was run in ``output`` replace what ``figures`` holds of the same recipes.
    """
    columns: dict[str, dict[str, Row]] = defaultdict(dict)
    if figures.exists():
        for row in csv.DictReader(io.StringIO(figures.read_text(encoding="utf-8"))):
            columns[row["recipe"]][row["position"]] = row
    names = [path.stem for path in sorted(RECIPES.glob("*.yaml"))]
    for name in names:
        if rows := {row["position"]: row for row in _rows(name, output)}:
            columns[name] = rows
    columns = {name: columns[name] for name in names if name in columns}
    _write(figures, columns)
    labels = dict.fromkeys([*ROWS, *(label for rows in columns.values() for label in rows)])
    heads = ["position", *(_head(next(iter(rows.values()))) for rows in columns.values())]
    body = [[label, *(_cell(rows.get(label)) for rows in columns.values())] for label in labels]
    return heads, body, [name for name in names if name not in columns]


def _rows(recipe: str, output: Path) -> Iterator[Row]:
    """What the finished sweeps of a recipe hold; nothing where none is finished."""
    paths = sorted((output / recipe).glob(f"seed-*-half-*/run/sweep/{RESULT}"))
    records = [read_json(path, largest=None) for path in paths]
    labels = dict.fromkeys([*ROWS, *(label for record in records for label in record.get("references", {}))])
    for label in labels:
        there = [record for record in records if label in _positions(record)]
        if not there:
            continue
        score = there[0]["score"]
        task, _, name = score.partition(".")
        scores = [_figure(record, label, score) for record in there]
        yield {
            "recipe": recipe,
            "score": score,
            "better": TASKS[task].measure(name).better or "",
            "pairs": str(len(records)),
            "seeds": str(len({record["settings"]["seed"] for record in records})),
            "position": label,
            "mean": f"{fmean(scores):.4f}",
            "deviation": f"{stdev(scores):.4f}" if len(scores) > 1 else "",
            "kept": f"{fmean(_kept(record, label) for record in there):.3f}",
        }


def _write(figures: Path, columns: Mapping[str, Mapping[str, Row]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, HEADS, lineterminator="\n")
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
    return f"{row['recipe']}, {row['score']} {'↓' if row['better'] == 'lower' else '↑'} ({pairs}, {seeds})"


def _cell(row: Row | None) -> str:
    """The recipe's score, and in brackets the part of what the expert learnt that is left."""
    if row is None:
        return ""
    spread = f" ± {float(row['deviation']):.3f}" if row["deviation"] else ""
    return f"{float(row['mean']):.3f}{spread} ({float(row['kept']):.2f})".replace("-", "−")


def _kept(record: Mapping[str, Any], label: str) -> float:
    values = (_figure(record, name, "perplexity.perplexity") for name in (label, "base", "expert"))
    return kept_part(*values, ABILITY)


def _figure(record: Mapping[str, Any], label: str, score: str) -> float:
    task, _, name = score.partition(".")
    return _positions(record)[label]["tasks"][task][name]["value"]
