"""docs/survival.md from the scores that ``benchmarks/survival.py`` found; what is above the line ``FIGURES`` stays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from extsub.evaluation.compare import shown, shown_change, shown_p
from extsub.evaluation.metrics import Measure, difference, figures, resampled
from extsub.tables import Cell, Table, TableRow, markdown_rows

FIGURES = "<!-- Figures: make survival writes all below. -->"
MEASURES = {"mc2": Measure(), "perplexity": Measure(better="lower", perplexity=True)}
QUANTISED = ("Q4_0", "int8")
Scores = Mapping[str, Mapping[str, Sequence[Any]]]
"""model and form -> score -> its value for every item"""


def write_page(path: Path, scores: Scores, what: str, errors: Mapping[str, float]) -> None:
    """Replace what stands below the line; ``errors`` are those of the truncations."""
    ours = path.read_text(encoding="utf-8").partition(FIGURES)[0] if path.exists() else "# Survival\n\n"
    path.write_text(ours + "\n".join([FIGURES, "", what, "", *_page(scores, errors)]) + "\n", encoding="utf-8")
    print(f"written: {path}")


def _page(scores: Scores, errors: Mapping[str, float]) -> Iterator[str]:
    forms = [form for form in ("full", *QUANTISED) if f"expert, {form}" in scores]
    pairs = [form for form in forms[1:] if f"ext-sub, {form}" in scores]
    yield "### In each form\n"
    head = ("model", *(f"{score}, {form}" for score in MEASURES for form in forms))
    rows = [
        [model, *(_figure(scores.get(f"{model}, {form}"), score) for score in MEASURES for form in forms)]
        for model in ("base", "expert", "ext-sub")
    ]
    yield from _table(head, rows)
    yield "\n### What quantising does, and what it leaves of the gain\n"
    yield (
        "Each model quantised against itself in full, item by item. Gain left: (ext-sub − expert) quantised / (ext-sub "
        "− expert) in full, with a bootstrap over items drawn once for all four.\n"
    )
    head = ("form", "score", "expert changes", "ext-sub changes", "gain in full", "gain quantised", "gain left")
    yield from _table(head, [_loss(scores, form, score) for form in pairs for score in MEASURES])
    yield "\n### Rank\n"
    yield "Ext-sub truncated to a smaller rank, in full; the change is against the exact result.\n"
    head = ("rank", "relative error", *(text for score in MEASURES for text in (score, "change", "p")))
    yield from _table(
        head, [_rank(scores, name, errors.get(name)) for name in ("ext-sub", *errors) if f"{name}, full" in scores]
    )


def _figure(scores: Mapping[str, Sequence[Any]] | None, score: str) -> str:
    if scores is None:  # not asked yet
        return ""
    rows = [{score: value} for value in scores[score]]
    return shown(figures(rows, MEASURES.get, 0)[score].to_dict())


def _change(scores: Scores, first: str, second: str, score: str) -> tuple[str, str]:
    change = difference(scores[first][score], scores[second][score], MEASURES[score], 0)
    return shown_change(change.value, change.ci95), shown_p(change.p)


def _loss(scores: Scores, form: str, score: str) -> list[str]:
    losses = [_change(scores, f"{model}, full", f"{model}, {form}", score)[0] for model in ("expert", "ext-sub")]
    gains = [_change(scores, f"expert, {kind}", f"ext-sub, {kind}", score)[0] for kind in ("full", form)]
    return [form, score, *losses, *gains, _left(scores, form, score)]


def _left(scores: Scores, form: str, score: str) -> str:
    """Quantised against full, where there is a gain (or a cost) at all: where its interval keeps clear of zero."""
    names = [f"{model}, {kind}" for kind in (form, "full") for model in ("expert", "ext-sub")]
    columns = [scores[name][score] for name in names]
    rows = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
    draws = resampled(rows, names, MEASURES[score], 0)
    quantised, full = draws[:, 1] - draws[:, 0], draws[:, 3] - draws[:, 2]
    low, high = np.percentile(full[1:], [2.5, 97.5])
    if low <= 0 <= high:
        return "no gain in full to speak of"
    low, high = np.percentile((quantised / full)[1:], [2.5, 97.5])
    return f"{quantised[0] / full[0]:.0%} [{low:.0%}, {high:.0%}]"


def _rank(scores: Scores, name: str, error: float | None) -> list[str]:
    """Of the exact result there is no error and no change."""
    key, cells = f"{name}, full", []
    for score in MEASURES:
        change = ("", "") if error is None else _change(scores, "ext-sub, full", key, score)
        cells += [_figure(scores[key], score), *change]
    return ["exact" if error is None else name, "" if error is None else f"{error:.1%}", *cells]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield from markdown_rows(Table("", "", tuple(head), 1, [TableRow(tuple(map(Cell, row))) for row in rows]))
