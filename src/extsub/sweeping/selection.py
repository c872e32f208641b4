"""Which strength? The best or one as good, within a budget: chosen on one half of the items, reported on the other."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from extsub.errors import ExtSubError
from extsub.evaluation.compare import SIGNIFICANT
from extsub.evaluation.metrics import (
    Difference,
    Figure,
    Measure,
    Score,
    Scores,
    difference,
    figures,
    standard_error,
    value_of,
)
from extsub.sweeping.budget import Budget, ScoreName, in_words, looked_at
from extsub.sweeping.settings import Rule

if TYPE_CHECKING:
    from extsub.sweeping.grid import SweepPoint

Half = Literal["validation", "test"]
AllScores = Mapping[str, Mapping[Any, Scores]]
"""The scores of each item of each task."""
FEWEST = 50
"""The fewest items that a strength can be chosen by."""


def half_of(item: Any, seed: int) -> Half:
    """Which half an item is in: the same for every model, also when items are added."""
    digest = hashlib.sha256(f"{seed} {item}".encode()).digest()
    return "validation" if digest[0] % 2 else "test"


def change_on_test(first: Mapping[Any, Scores], second: Mapping[Any, Scores], name: ScoreName, seed: int) -> Difference:
    """By how much a second model's items differ from a first's on the test part, pair by pair."""
    return difference(*_pairs(first, second, name, "test", seed), name.measure, seed)


def _pairs(
    first: Mapping[Any, Scores], second: Mapping[Any, Scores], name: ScoreName, half: Half, seed: int
) -> tuple[list[Score], list[Score]]:
    keys = [key for key in first if key in second and half_of(key, seed) == half]
    first_values, second_values = ([scores[key].get(name.score) for key in keys] for scores in (first, second))
    return first_values, second_values


def too_few(scores: Mapping[Any, Scores], name: ScoreName, seed: int) -> str:
    """A sentence where there are too few items to choose by; empty where there are enough.

    Args:
        scores: (item, sample) -> its scores, of any model.
    """
    count = len({
        item[0]
        for item, item_scores in scores.items()
        if half_of(item, seed) == "validation" and item_scores.get(name.score) is not None
    })  # fmt: skip
    if count >= FEWEST:
        return ""
    items = f"{count} item{'s' * (count != 1)} of {name.task}"
    return f"only {items} to choose by, and fewer than {FEWEST} are too few to choose by"


def figure_on(scores: AllScores, name: ScoreName, half: Half, seed: int) -> Figure:
    """A score on one half of its task's items.

    Raises:
        ExtSubError: no item of that half has the score.
    """
    only = [{name.score: row[name.score]} for row in _rows_on(scores, name, half, seed)]
    return figures(only, lambda _: name.measure, seed)[name.score]


def value_on(scores: AllScores, name: ScoreName, half: Half, seed: int) -> float:
    """The value of `figure_on`, without its interval, which takes a hundred times as long.

    Raises:
        ExtSubError: no item of that half has the score.
    """
    return value_of([row[name.score] for row in _rows_on(scores, name, half, seed)], name.measure)


def _rows_on(scores: AllScores, name: ScoreName, half: Half, seed: int) -> list[Scores]:
    rows = [
        row
        for item, row in scores[name.task].items()
        if half_of(item, seed) == half and row.get(name.score) is not None
    ]
    if not rows:
        raise ExtSubError(f"{name}: its task has no {half} part: it needs more items")
    return rows


@dataclass(frozen=True)
class Chosen:
    """What was chosen for one operation, and how it does on items that did not choose it."""

    operation: str
    position: str | None
    """The label of the chosen position; None where nothing meets the budget."""
    closest: str
    """The position closest to the budget, of all strengths."""
    best: str | None
    """The best within the budget, on the items that choose: what ``position`` is, or is as good as."""
    validation: Figure | None
    test: Figure | None
    against_expert: dict[str, Any] | None
    """The difference on the test part: value, ci95, p."""
    budget_test: Figure | None

    def to_dict(self) -> dict[str, Any]:
        """The choice as JSON values."""
        figures = {name: value.to_dict() for name, value in vars(self).items() if isinstance(value, Figure)}
        return {**asdict(self), **figures}


@dataclass(frozen=True)
class Chooser:
    """What every choice of a sweep has in common."""

    expert: AllScores
    base: AllScores
    target: ScoreName
    budget: Budget | None
    seed: int
    rule: Rule

    @functools.cached_property
    def limit(self) -> float:
        """The limit that the budget sets on the validation part.

        Raises:
            ExtSubError: the expert gained nothing there that could be kept.
        """
        assert self.budget
        name = self.budget.name
        base, expert = (value_on(model, name, "validation", self.seed) for model in (self.base, self.expert))
        limit = self.budget.limit({"base": base, "expert": expert})
        if self.budget.reference == "gain" and math.isnan(limit):
            raise ExtSubError(
                f"--budget keeps {100 * self.budget.factor:g}% of {name.score}: on the items to choose by the expert "
                f"({expert:.4g}) is not better than the base ({base:.4g}), so there is no gain to keep; give a limit, "
                f'"{name.score} {self.budget.sign} {1.02 if self.budget.sign == "<=" else 0.98} * expert" say'
            )
        return limit

    def notes(self) -> Iterator[str]:
        """Sentences on what people must know of the choice."""
        if self.budget and self.budget.reference == "gain":
            name = self.budget.name.score
            words = in_words(f"keeps {100 * self.budget.factor:g}% of {name}")
            yield f"the budget, {words}, is {name} {self.budget.sign} {self.limit:.4g} on the items to choose by"
        for name in looked_at(self.target, self.budget):
            if note := too_few(self.expert[name.task], name, self.seed):
                yield note

    def on_validation(self, scores: AllScores) -> tuple[float, float]:
        """(target, excess over the budget: 0 or less within it) of a position, on the validation part."""
        value = value_on(scores, self.target, "validation", self.seed)
        if self.budget is None:
            return value, 0.0
        cost = value_on(scores, self.budget.name, "validation", self.seed)
        return value, self.budget.excess(cost, self.limit)

    def choose(self, operation: str, candidates: Mapping[SweepPoint, AllScores]) -> Chosen:
        """Of the candidates within the budget on the validation part the one with the best target there, or the
        smallest strength that is within one standard error of it.

        Args:
            candidates: the scores of each strength of the operation, at least one.
        """
        sign = 1 if self.target.measure.better == "higher" else -1
        measured = {point: self.on_validation(scores) for point, scores in candidates.items()}
        closest = min(candidates, key=lambda point: (max(0.0, measured[point][1]), -sign * measured[point][0])).label
        within = [point for point, (value, excess) in measured.items() if excess <= 0 and not math.isnan(value)]
        if not within:
            return Chosen(operation, None, closest, None, None, None, None, None)
        best = picked = max(within, key=lambda point: sign * measured[point][0])
        if self.rule == "one-se":
            behind = {point: sign * (measured[best][0] - measured[point][0]) for point in within}
            as_good = [point for point in within if behind[point] <= self._error(candidates[point], candidates[best])]
            picked = min([best, *as_good], key=lambda point: (point.strength, behind[point]))
        scores = candidates[picked]
        return Chosen(
            operation=operation,
            position=picked.label,
            closest=closest,
            best=best.label,
            validation=figure_on(scores, self.target, "validation", self.seed),
            test=figure_on(scores, self.target, "test", self.seed),
            against_expert=self.change(self.expert, scores),
            budget_test=figure_on(scores, self.budget.name, "test", self.seed) if self.budget else None,
        )

    def _error(self, first: AllScores, second: AllScores) -> float:
        """The standard error of their difference in the target on the validation part, item by item."""
        first_scores, second_scores = (scores[self.target.task] for scores in (first, second))
        return standard_error(
            *_pairs(first_scores, second_scores, self.target, "validation", self.seed), self.target.measure
        )

    def change(self, first: AllScores, second: AllScores) -> dict[str, Any]:
        """By how much the second differs from the first on the test part, item by item: value, ci95, p, n."""
        first_scores, second_scores = (scores[self.target.task] for scores in (first, second))
        return change_on_test(first_scores, second_scores, self.target, self.seed)._asdict()


def judged(change: Mapping[str, Any], measure: Measure) -> str:
    """``better``, ``worse`` or ``no difference``; empty where nobody can say."""
    if change["p"] is None:
        return ""
    if change["p"] >= SIGNIFICANT or not change["value"]:
        return "no difference"
    return "better" if (change["value"] > 0) == (measure.better == "higher") else "worse"
