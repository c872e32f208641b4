"""All recipes of ``examples/evidence`` beside each other: what each position scores, and what is left of the learnt.

Those that were not run are named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from evidence_figures import ABILITY
from extsub.files.reading import read_json
from extsub.sweeping.budget import kept_part
from extsub.sweeping.settings import RESULT

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


def grid(output: Path) -> tuple[list[str], list[list[str]], list[str]]:
    """(heads, rows, recipes that were not run) of one table: a column for each recipe, a row for each position."""
    every = {path.stem: _records(output / path.stem) for path in sorted(RECIPES.glob("*.yaml"))}
    columns = {name: records for name, records in every.items() if records}
    references = (record.get("references", {}) for records in columns.values() for record in records)
    labels = [*ROWS, *dict.fromkeys(label for positions in references for label in positions)]
    rows = [[label, *(_cell(records, label) for records in columns.values())] for label in labels]
    return ["position", *map(_head, columns, columns.values())], rows, [name for name in every if name not in columns]


def _records(folder: Path) -> list[dict[str, Any]]:
    """What every finished sweep of a recipe holds."""
    return [read_json(path, largest=None) for path in sorted(folder.glob(f"seed-*-half-*/run/sweep/{RESULT}"))]


def _positions(record: Mapping[str, Any]) -> dict[str, Any]:
    """With those of reference methods, where the sweep asked for them."""
    return record["positions"] | record.get("references", {})


def _head(name: str, records: Sequence[Mapping[str, Any]]) -> str:
    seeds = len({record["settings"]["seed"] for record in records})
    return f"{name}, {records[0]['score']} ({len(records)} pairs, {seeds} {'seed' if seeds == 1 else 'seeds'})"


def _cell(records: Sequence[Mapping[str, Any]], label: str) -> str:
    """The recipe's score, and in brackets the part of what the expert learnt that is left."""
    there = [record for record in records if label in _positions(record)]
    if not there:
        return ""
    scores = [_figure(record, label, record["score"]) for record in there]
    kept = fmean(_kept(record, label) for record in there)
    spread = f" ± {stdev(scores):.3f}" if len(scores) > 1 else ""
    return f"{fmean(scores):.3f}{spread} ({kept:.2f})".replace("-", "−")


def _kept(record: Mapping[str, Any], label: str) -> float:
    values = (_figure(record, name, "perplexity.perplexity") for name in (label, "base", "expert"))
    return kept_part(*values, ABILITY)


def _figure(record: Mapping[str, Any], label: str, score: str) -> float:
    task, _, name = score.partition(".")
    return _positions(record)[label]["tasks"][task][name]["value"]
