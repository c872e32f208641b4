"""What ``benchmarks/evidence.py`` left, pooled over halves and seeds."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from extsub.evaluation.metrics import Difference, Figure, Measure, Score, difference, figures
from extsub.evaluation.store import read_items
from extsub.files.reading import read_json
from extsub.report.wording import p_value
from extsub.sweeping.budget import kept_part
from extsub.sweeping.selection import half_of
from extsub.sweeping.settings import RESULT

DONE = "done"
"""In a folder, once all was asked there."""
SWEEP, REFERENCES = "run/sweep", "references"
"""In a folder: the recipe's sweep, and the one that has methods of reference too."""
ABILITY = Measure(better="lower", perplexity=True)

Rows = dict[str, dict[str, list[Score]]]
"""question -> score -> its value for every seed"""
Items = dict[tuple[int, str], dict[str, Score]]
"""(index, question) -> scores"""


@cache
def _scores(folder: Path, task: str) -> Items:
    rows = read_items(folder, task)
    return {(index, json.dumps(row.get("question", row.get("messages")))): row["scores"] for index, row in rows.items()}


class Half:
    """What the adapters of one half of the questions said to the other half."""

    def __init__(self, folder: Path, part: str) -> None:
        self.folder, self.part = folder, part
        self.seed = int(folder.name.split("-")[1])
        self.record = read_json(folder / part / RESULT, largest=None)

    @cached_property
    def chosen(self) -> dict[str, str]:
        """operation: the position that keeps the budget"""
        return {name: choice["position"] for name, choice in self.record["chosen"].items() if choice["position"]}

    def scores(self, label: str, task: str, part: str | None = None) -> Items:
        """Of one position; of the half's own part unless another is named."""
        return _scores(self.folder / (part or self.part) / "positions" / label, task)

    def asked(self, name: str, task: str) -> dict[int, dict[str, Any]]:
        """What a model that was combined to disk answered; nothing where no strength was chosen."""
        folder = self.folder / "asked" / name / task
        return read_items(folder, task) if folder.exists() else {}


def pooled(halves: Iterable[Half], label: str, task: str, part: str | None = None) -> Rows:
    """What one position said to every question, of all halves."""
    rows: Rows = defaultdict(lambda: defaultdict(list))
    for half in halves:
        for (_, question), scores in half.scores(label, task, part).items():
            for name, score in scores.items():
                rows[question][name].append(score)
    return rows


def change(halves: Sequence[Half], label: str, task: str, name: str, measure: Measure) -> Difference:
    """Of one position against the expert, over all questions, each with its mean over seeds."""
    first, second = (pooled(halves, model, task) for model in ("expert", label))
    pairs = [(_mean(first[question][name]), _mean(second[question][name])) for question in first]
    return difference([a for a, _ in pairs], [b for _, b in pairs], measure, 0)


def change_in_words(change: Difference) -> str:
    low, high = change.ci95
    return f"{change.value:+.3f} [{low:+.3f}, {high:+.3f}], {p_value(change.p)}".replace("-", "−")


class Evidence:
    """One part of all halves that have it, pooled: the recipe's sweep, or the one with references."""

    def __init__(self, output: Path, part: str = SWEEP) -> None:
        folders = sorted(output.glob("seed-*-half-*"))
        self.halves = [
            Half(folder, part) for folder in folders if (folder / DONE).exists() and (folder / part / RESULT).exists()
        ]
        self.seeds = sorted({half.seed for half in self.halves})
        every = [half.record["positions"] | half.record.get("references", {}) for half in self.halves]
        self.positions = {label: point for points in every for label, point in points.items()}
        if part == SWEEP:  # general instructions were asked at its positions
            every += [read_json(half.folder / "general" / RESULT, largest=None)["positions"] for half in self.halves]
        common = set.intersection(*map(set, every)) if every else set()  # some tried more strengths
        self.labels = [label for label in self.positions if label in common]

    def pooled(self, label: str, task: str, part: str | None = None) -> Rows:
        return pooled(self.halves, label, task, part)

    def figure(self, label: str, name: str) -> Figure:
        """Over questions, each with its mean over seeds."""
        rows = [{name: _mean(scores[name])} for scores in self.pooled(label, "truthfulqa-mc").values()]
        return figures(rows, lambda _: Measure(), 0)[name]

    def perplexity(self, label: str, part: str | None = None) -> Figure:
        rows = [
            {"perplexity": _mean(scores["perplexity"])} for scores in self.pooled(label, "perplexity", part).values()
        ]
        return figures(rows, lambda _: ABILITY, 0)["perplexity"]

    def by_seed(self, label: str, name: str) -> list[float]:
        """The figure of every seed, over the questions of both its halves."""
        return [_ratio(self._of_seed(seed, label, "truthfulqa-mc", name)) for seed in self.seeds]

    def perplexities(self, label: str, part: str | None = None) -> list[float]:
        return [math.exp(_ratio(self._of_seed(seed, label, "perplexity", "perplexity", part))) for seed in self.seeds]

    def _of_seed(self, seed: int, label: str, task: str, name: str, part: str | None = None) -> list[Score]:
        halves = [half for half in self.halves if half.seed == seed]
        return [scores.get(name) for half in halves for scores in half.scores(label, task, part).values()]

    def kept(self, label: str) -> list[float]:
        """The part of the expert's gain in log-perplexity of neutral answers that is left, for every seed."""
        values = zip(*(self.perplexities(model) for model in (label, "base", "expert")), strict=True)
        return [kept_part(*three, ABILITY) for three in values]

    def change(self, label: str, name: str) -> Difference:
        """Against the expert, over all questions."""
        return change(self.halves, label, "truthfulqa-mc", name, Measure())

    def change_chosen(self, operation: str, name: str) -> Difference | None:
        """Of the chosen strengths against the expert, on the items that did not choose."""
        pairs: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for half in self.halves:
            if (label := half.chosen.get(operation)) is None:
                continue
            expert, ours = (half.scores(model, "truthfulqa-mc") for model in ("expert", label))
            for (index, question), scores in expert.items():
                both = scores.get(name), ours[index, question].get(name)
                if half_of((index, 0), half.seed) == "test" and None not in both:
                    pairs[question].append(both)
        if not pairs:
            return None
        means = [[fmean(pair[place] for pair in several) for several in pairs.values()] for place in (0, 1)]
        return difference(*means, Measure(), 0)

    def alphas(self, operation: str) -> list[float | None]:
        """The chosen strengths, of every half."""
        return [
            self.positions[half.chosen[operation]]["alpha"] if operation in half.chosen else None
            for half in self.halves
        ]

    def share(self, name: str, task: str, of: str) -> tuple[list[float], int]:
        """(mean of a score for every seed, items of all): of a model that was combined to disk."""
        values = {
            seed: [
                row["scores"][of]
                for half in self.halves
                if half.seed == seed
                for row in half.asked(name, task).values()
                if row["scores"].get(of) is not None
            ]
            for seed in self.seeds
        }
        return [fmean(scores) for scores in values.values() if scores], sum(map(len, values.values()))


def _mean(scores: Sequence[Score]) -> Score:
    """Over seeds; of a pair (above, below), both."""
    there = [score for score in scores if score is not None]
    if not there:
        return None
    if isinstance(there[0], Sequence):
        return [fmean(pair[place] for pair in there) for place in (0, 1)]
    return fmean(there)


def _ratio(scores: Iterable[Score]) -> float:
    pairs = [score if isinstance(score, Sequence) else (score, 1.0) for score in scores if score is not None]
    return sum(above for above, _ in pairs) / sum(below for _, below in pairs)
