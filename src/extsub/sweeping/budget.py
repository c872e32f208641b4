"""The score that a user means, and what a choice may cost in it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from extsub.errors import ExtSubError
from extsub.escaping import brief
from extsub.evaluation.metrics import Measure

NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
LIMIT = re.compile(rf"\s*([\w.-]+)\s*(<=|>=)\s*{NUMBER}\s*(?:\*\s*(base|expert))?\s*")
KEEPS = re.compile(rf"\s*keeps\s+{NUMBER}\s*%\s*of\s+([\w.-]+)\s*")


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
    """What a model may cost: ``perplexity <= 1.02 * expert``, or ``keeps 90% of perplexity``."""

    name: ScoreName
    sign: Literal["<=", ">="]
    factor: float
    reference: str | None
    """What the factor multiplies: the figure of ``base`` or ``expert``, the expert's ``gain`` over it, or 1 (None)."""

    @classmethod
    def parse(cls, text: str, known: Sequence[ScoreName]) -> Budget:
        """Read a budget; raises ExtSubError where the text is not one, or names a score that the tasks do not give."""
        if match := KEEPS.fullmatch(text):
            name, factor = find_score("--budget", match[2], known), float(match[1]) / 100
            if factor > 1:
                raise ExtSubError(f'--budget "{brief(text)}": expected at most 100 % of what the expert gained')
            return cls(name, "<=" if name.measure.better == "lower" else ">=", factor, "gain")
        if match := LIMIT.fullmatch(text):
            name = find_score("--budget", match[1], known)
            return cls(name, "<=" if match[2] == "<=" else ">=", float(match[3]), match[4])
        raise ExtSubError(
            f'--budget "{brief(text)}": expected SCORE <= NUMBER * expert ("perplexity <= 1.02 * expert") or '
            'keeps NUMBER% of SCORE ("keeps 90% of perplexity")'
        )

    def limit(self, values: Mapping[str, float]) -> float:
        """The value of the score that a model must not miss; NaN where the expert gained nothing to keep.

        Args:
            values: the figures of ``base`` and ``expert``.
        """
        if self.reference != "gain":
            return self.factor * (values[self.reference] if self.reference else 1.0)
        base, expert = values["base"], values["expert"]
        if not (expert < base if self.sign == "<=" else expert > base):
            return math.nan
        if self.name.measure.perplexity:  # a gain in log-perplexity
            return base * (expert / base) ** self.factor
        return base + self.factor * (expert - base)

    def excess(self, value: float, limit: float) -> float:
        """By how much a value misses the limit; 0 or less within it, also where rounding alone misses it."""
        missed = value - limit if self.sign == "<=" else limit - value
        return 0.0 if abs(missed) <= 1e-12 * abs(limit) else missed


def looked_at(target: ScoreName, budget: Budget | None) -> list[ScoreName]:
    """The scores that a choice looks at, one for each task: the target, and the budget's."""
    names = [target, *([budget.name] if budget else [])]
    return list({name.task: name for name in names}.values())


def kept_part(value: float, base: float, expert: float, measure: Measure) -> float:
    """The part of the expert's gain over the base that a value keeps: 1 is the expert, 0 the base.

    A gain in perplexity is one in its logarithm. NaN where both are the same.
    """
    value, base, expert = (math.log(figure) if measure.perplexity else figure for figure in (value, base, expert))
    return (value - base) / (expert - base) if expert != base else math.nan


def in_words(budget: str) -> str:
    """A budget as a sentence says it."""
    match = KEEPS.fullmatch(budget)
    return f"at least {match[1]} % of the expert's gain over the base in {match[2]}" if match else budget


def find_score(option: str, text: str, known: Sequence[ScoreName]) -> ScoreName:
    """The score that a user means: ``mc2``, or ``truthfulqa-mc.mc2`` where several tasks have one.

    Raises:
        ExtSubError: none is meant, or several.
    """
    meant = [name for name in known if text in (str(name), name.score)]
    if len(meant) != 1:
        which = "no such score" if not meant else "several tasks have it"
        raise ExtSubError(f"{option} {brief(text)}: {which}; there are {', '.join(map(str, known))}")
    return meant[0]
