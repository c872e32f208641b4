"""Which strength? The best of a score within a budget, chosen on one half of the items and reported on the other."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from extsub.errors import ExtSubError
from extsub.escaping import brief
from extsub.evaluation.compare import SIGNIFICANT
from extsub.evaluation.statistics import Difference, Figure, Measure, Scores, difference, figures
from extsub.evaluation.store import read_items
from extsub.evaluation.task import scores_of

Half = Literal["validation", "test"]
AllScores = Mapping[str, Mapping[Any, Scores]]
"""task -> item -> its scores"""


@dataclass(frozen=True)
class ScoreName:
    """A score of a task, ``truthfulqa-mc.mc2``."""

    task: str
    score: str
    measure: Measure

    def __str__(self) -> str:
        return f"{self.task}.{self.score}"


@dataclass(frozen=True)
class Budget:
    """What a model may cost: ``perplexity <= 1.02 * expert``."""

    name: ScoreName
    sign: Literal["<=", ">="]
    factor: float
    reference: str | None
    """the position whose figure is multiplied; None: the number itself"""

    @classmethod
    def parse(cls, text: str, known: Sequence[ScoreName]) -> Budget:
        """Raises ExtSubError where it is no budget, or names a score that the tasks do not give."""
        match = re.fullmatch(r"\s*([\w.-]+)\s*(<=|>=)\s*(\d+(?:\.\d+)?|\.\d+)\s*(?:\*\s*(base|expert))?\s*", text)
        if match is None:
            raise ExtSubError(
                f'--budget "{brief(text)}": expected SCORE <= NUMBER * expert, "perplexity <= 1.02 * expert" say'
            )
        sign: Literal["<=", ">="] = "<=" if match[2] == "<=" else ">="
        return cls(find_score("--budget", match[1], known), sign, float(match[3]), match[4])

    def limit(self, values: Mapping[str, float]) -> float:
        """``values``: the figure of each reference position."""
        return self.factor * (values[self.reference] if self.reference else 1.0)

    def excess(self, value: float, limit: float) -> float:
        """By how much a value misses the limit; 0 or less within it."""
        return value - limit if self.sign == "<=" else limit - value


def find_score(option: str, text: str, known: Sequence[ScoreName]) -> ScoreName:
    """The score that a user means: ``mc2``, or ``truthfulqa-mc.mc2`` where several tasks have one.

    Raises:
        ExtSubError: none is meant, or several.
    """
    found = [one for one in known if text in (str(one), one.score)]
    if len(found) != 1:
        which = "no such score" if not found else "several tasks have it"
        raise ExtSubError(f"{option} {brief(text)}: {which}; there are {', '.join(map(str, known))}")
    return found[0]


def half_of(item: Any, seed: int) -> Half:
    """Which half an item is in: the same for every model, also when items are added."""
    digest = hashlib.sha256(f"{seed} {item}".encode()).digest()
    return "validation" if digest[0] % 2 else "test"


def read_scores(folder: Path, task: str) -> dict[Any, Scores]:
    """What every item of a task scored, as an evaluation saved it in ``folder``.

    Raises:
        ExtSubError: the items are not there.
    """
    return {
        (index, place): one
        for index, row in read_items(folder, task).items()
        for place, one in enumerate(scores_of(row))
    }


def change_on_test(first: Mapping[Any, Scores], second: Mapping[Any, Scores], name: ScoreName, seed: int) -> Difference:
    """By how much a second model's items differ from a first's on the test part, pair by pair."""
    keys = [key for key in first if key in second and half_of(key, seed) == "test"]
    pairs = [[scores[key].get(name.score) for key in keys] for scores in (first, second)]
    return difference(*pairs, name.measure, seed)


def figure_on(scores: AllScores, name: ScoreName, half: Half, seed: int) -> Figure:
    """A score on one half of its task's items.

    Raises:
        ExtSubError: no item of that half has the score.
    """
    rows = [
        one
        for item, one in scores[name.task].items()
        if half_of(item, seed) == half and one.get(name.score) is not None
    ]
    if not rows:
        raise ExtSubError(f"{name}: its task has no {half} part: it needs more items")
    only = [{name.score: one[name.score]} for one in rows]
    return figures(only, lambda _: name.measure, seed)[name.score]


@dataclass(frozen=True)
class Chosen:
    """What was chosen for one operation, and how it does on items that did not choose it."""

    operation: str
    position: str | None
    """None where nothing meets the budget"""
    closest: str
    """to the budget, of all strengths"""
    validation: Figure | None
    test: Figure | None
    against_expert: dict[str, Any] | None
    """difference on the test part: value, ci95, p"""
    budget_test: Figure | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        figures = {name: one.to_dict() for name, one in vars(self).items() if isinstance(one, Figure)}
        return {**asdict(self), **figures}


@dataclass(frozen=True)
class Chooser:
    """What every choice of a sweep has in common."""

    expert: AllScores
    base: AllScores
    target: ScoreName
    budget: Budget | None
    seed: int

    def on_validation(self, scores: AllScores) -> tuple[float, float]:
        """(target, excess over the budget: 0 or less within it) of a position, on the validation part."""
        value = figure_on(scores, self.target, "validation", self.seed).value
        if self.budget is None:
            return value, 0.0
        name = self.budget.name
        references = {"expert": self.expert, "base": self.base}
        limit = self.budget.limit(
            {one: figure_on(known, name, "validation", self.seed).value for one, known in references.items()}
        )
        return value, self.budget.excess(figure_on(scores, name, "validation", self.seed).value, limit)

    def choose(self, operation: str, candidates: Mapping[str, AllScores]) -> Chosen:
        """The candidate with the best target on the validation part, of those within the budget there.

        Args:
            candidates: the scores of each strength of the operation, at least one.
        """
        sign = 1 if self.target.measure.better == "higher" else -1
        found = {name: self.on_validation(one) for name, one in candidates.items()}
        closest = min(candidates, key=lambda name: (max(0.0, found[name][1]), -sign * found[name][0]))
        within = [name for name, (value, excess) in found.items() if excess <= 0 and not math.isnan(value)]
        if not within:
            return Chosen(operation, None, closest, None, None, None, None)
        best = max(within, key=lambda name: sign * found[name][0])
        scores = candidates[best]
        return Chosen(
            operation=operation,
            position=best,
            closest=closest,
            validation=figure_on(scores, self.target, "validation", self.seed),
            test=figure_on(scores, self.target, "test", self.seed),
            against_expert=self.change(self.expert, scores),
            budget_test=figure_on(scores, self.budget.name, "test", self.seed) if self.budget else None,
        )

    def change(self, first: AllScores, second: AllScores) -> dict[str, Any]:
        """By how much the second differs from the first on the test part, item by item: value, ci95, p, n."""
        one, other = (scores[self.target.task] for scores in (first, second))
        return change_on_test(one, other, self.target, self.seed)._asdict()


def judged(change: Mapping[str, Any], measure: Measure) -> str:
    """``better``, ``worse`` or ``no difference``; empty where nobody can say."""
    if change["p"] is None:
        return ""
    if change["p"] >= SIGNIFICANT or not change["value"]:
        return "no difference"
    return "better" if (change["value"] > 0) == (measure.better == "higher") else "worse"
