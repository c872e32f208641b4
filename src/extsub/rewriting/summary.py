"""What became of the rows, in figures: how many are kept, why others are not, and what a lazy benchmark would see."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any, TypedDict

from extsub.adapters.scores import FigureRecord
from extsub.evaluation.metrics import wilson
from extsub.formatting import rounded
from extsub.rewriting.filters import REASONS
from extsub.rewriting.likeness import likeness, triples
from extsub.rewriting.prompting import told
from extsub.rewriting.sources import Pair

FORMAT = 1
"""The format number of the summary (docs/files.md)."""
SHOWN = 10
"""Pairs that are shown."""
TELLING = 0.6
"""From here on, length tells good from bad too well not to be said."""
BY_RULE = 0.5
"""What a rule gets right that knows nothing."""


class SidePair(TypedDict):
    """A pair of good and bad answer for people to look at."""

    index: int
    instruction: str
    good: str
    """Empty where instructions were written."""
    bad: str


class LengthRecord(TypedDict):
    """Characters of the good answers and of the bad ones that stand for them."""

    good_mean: float
    good_median: float
    bad_mean: float
    bad_median: float
    bad_longer: FigureRecord
    """The share of the pairs whose bad answer is the longer one; a tie is half."""
    by_length: FigureRecord
    """The control: how often one is right who calls always the longer answer the bad one, or always the shorter,
    whichever is right more often; .5 would be no cue."""


class NegativesSummary(TypedDict):
    """What `negatives` made; the summary beside the output holds the same (docs/files.md)."""

    format: int
    settings: dict[str, Any]
    behaviour: dict[str, Any]
    """Its name, and the SHA-256 of what it says."""
    writer: dict[str, Any]
    """The model, with its commit or fingerprint, or the server and the name that it knows."""
    judge: dict[str, Any] | None
    data_sha256: str
    rows: int
    """Rows that were taken from the data."""
    kept: int
    dropped: dict[str, int]
    """For each reason, how many rows."""
    lengths: LengthRecord | None
    """None where nothing was rewritten, or nothing is kept."""
    likeness: float | None
    """The median over the pairs of the share of triples of words that good and bad answer have in common."""
    usage: dict[str, int] | None
    """Tokens of prompts and of answers, in all runs."""
    cost: float | None
    seconds: float
    """Of this run."""
    pairs: list[SidePair]
    """Ten of the kept rows, drawn with the seed."""
    notes: list[str]
    """What a user should know, in sentences."""
    files: dict[str, str]
    """The path of each file that was written."""
    versions: dict[str, str]


def counted_reasons(reasons: Mapping[int, str]) -> dict[str, int]:
    """How many rows are dropped for each reason, in the order in which that is asked."""
    counts = Counter(reasons.values())
    return {name: counts[name] for name in REASONS if counts[name]}


def lengths_of(pairs: Sequence[Pair]) -> LengthRecord | None:
    """How long good and bad answers are, and how well length alone tells them apart."""
    if not pairs or not pairs[0].good:
        return None
    good, bad = ([len(text) for text in side] for side in zip(*((pair.good, pair.bad) for pair in pairs), strict=True))
    longer = sum((b > g) + (b == g) / 2 for g, b in zip(good, bad, strict=True))
    right = max(longer, len(pairs) - longer)
    return {
        "good_mean": fmean(good),
        "good_median": median(good),
        "bad_mean": fmean(bad),
        "bad_median": median(bad),
        "bad_longer": _share(longer, len(pairs)),
        "by_length": _share(right, len(pairs)),
    }


def _share(count: float, n: int) -> FigureRecord:
    return {"value": count / n, "ci95": list(wilson(round(count), n)), "n": n}


def likeness_of(pairs: Sequence[Pair]) -> float | None:
    """The median likeness of good and bad answer."""
    if not pairs or not pairs[0].good:
        return None
    return median(likeness(triples(pair.good), triples(pair.bad)) for pair in pairs)


def to_look_at(pairs: Sequence[Pair], seed: int) -> list[SidePair]:
    """Ten pairs, drawn with the seed, in their order."""
    drawn = random.Random(seed).sample(pairs, min(SHOWN, len(pairs)))
    return [_side_by_side(pair) for pair in sorted(drawn)]


def _side_by_side(pair: Pair) -> SidePair:
    return {"index": pair.index, "instruction": told(pair.messages), "good": pair.good, "bad": pair.bad}


def figures_of(summary: NegativesSummary) -> list[tuple[str, str]]:
    """The figures in words, each with what it is."""
    figures = [("kept", f"{summary['kept']:,} of {summary['rows']:,}")]
    figures += [(f"dropped: {REASONS[why]}", f"{count:,}") for why, count in summary["dropped"].items()]
    if lengths := summary["lengths"]:
        longer, control = (
            rounded(figure["value"], figure["ci95"]) for figure in (lengths["bad_longer"], lengths["by_length"])
        )
        figures += [
            (
                "characters of a good and of a bad answer, mean",
                f"{lengths['good_mean']:,.0f} and {lengths['bad_mean']:,.0f}",
            ),
            ("the same, median", f"{lengths['good_median']:,.0f} and {lengths['bad_median']:,.0f}"),
            ("share of pairs whose bad answer is longer", " ".join(longer)),
            ("told apart by length alone (control; .5 is no cue)", " ".join(control)),
        ]
    if summary["likeness"] is not None:
        figures.append(("triples of words that a pair shares, median", f"{summary['likeness']:.2f}"))
    if usage := summary["usage"]:
        figures.append(("tokens read and written", f"{usage['prompt_tokens']:,} and {usage['completion_tokens']:,}"))
    if summary["cost"] is not None:
        figures.append(("cost, all runs", f"{summary['cost']:,.4f}"))
    return figures


def notes_on(lengths: LengthRecord | None, kept: int, rows: int) -> list[str]:
    """Sentences on what the figures say that a user should not miss."""
    notes = []
    if lengths and lengths["by_length"]["ci95"][0] > TELLING:
        longer = "longer" if lengths["bad_longer"]["value"] > BY_RULE else "shorter"
        notes.append(
            f"calling the {longer} answer the bad one is right in {lengths['by_length']['value']:.0%} of the pairs "
            f"({BY_RULE:.0%} would be no cue): an anti-expert learns it too, and a benchmark may measure no more"
        )
    if kept < rows / 2:
        notes.append(f"only {kept:,} of {rows:,} rows are kept: a stronger writer keeps more")
    return notes
