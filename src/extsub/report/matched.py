"""Two operations where they are equal in one score, and where they are in the other: by interpolation along their
curves, with a bootstrap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from extsub.evaluation.metrics import resampled
from extsub.report.reading import Sweep
from extsub.report.wording import alone, at, change, figure, named, score
from extsub.sweeping.budget import ScoreName
from extsub.sweeping.selection import half_of

FEWEST = 0.95
"""The part of the draws that must have both curves at a level, or no interval is given."""


@dataclass(frozen=True)
class MatchedPoint:
    """What two curves have at the same level of the other score: first and second, and first minus second."""

    level: float
    values: tuple[float, float]
    intervals: tuple[tuple[float, float], tuple[float, float]]
    difference: float
    ci95: tuple[float, float]
    clipped: bool
    """Whether the level is not what the first has at its place, but the nearest that both reach."""

    def to_dict(self) -> dict[str, Any]:
        """The point as JSON values."""
        return {**vars(self), "values": list(self.values), "intervals": [list(interval) for interval in self.intervals]}


def along(levels: np.ndarray, xs: np.ndarray, ys: np.ndarray, best: str) -> np.ndarray:
    """The y at which a broken line through (x, y) reaches a level of x, for every draw; NaN where it does not.

    Where it reaches the level several times, the best y counts.

    Args:
        levels: (draws,)
        xs, ys: (draws, points), in order of α.
        best: ``higher`` or ``lower`` y.
    """
    result = np.full(levels.shape, np.nan)
    pick = np.fmax if best == "higher" else np.fmin
    for k in range(xs.shape[1]):
        result = pick(result, np.where(xs[:, k] == levels, ys[:, k], np.nan))
    for k in range(xs.shape[1] - 1):
        width = xs[:, k + 1] - xs[:, k]
        with np.errstate(divide="ignore", invalid="ignore"):
            place = (levels - xs[:, k]) / width
        inside = (width != 0) & (place >= 0) & (place <= 1)
        with np.errstate(invalid="ignore"):
            result = pick(result, np.where(inside, ys[:, k] + place * (ys[:, k + 1] - ys[:, k]), np.nan))
    return result


def compare(
    ours: tuple[np.ndarray, np.ndarray], theirs: tuple[np.ndarray, np.ndarray], place: int, best: str
) -> MatchedPoint | None:
    """Compare two curves at the level of x that the first has at ``place``, or the nearest that both reach.

    Args:
        ours, theirs: (xs, ys), each (1 + draws, points) up to the peak; the first row is the figures themselves.

    Returns:
        None where the ranges do not overlap
    """
    low = np.fmax(ours[0].min(1), theirs[0].min(1))
    high = np.fmin(ours[0].max(1), theirs[0].max(1))
    levels = np.where(low <= high, np.clip(ours[0][:, place], low, np.fmax(low, high)), np.nan)
    first, second = along(levels, *ours, best), along(levels, *theirs, best)
    gap = first - second
    if np.isnan(gap[0]) or np.isfinite(gap[1:]).mean() < FEWEST or low[0] == high[0]:
        return None

    def bounds(values: np.ndarray) -> tuple[float, float]:
        ends = np.nanpercentile(values[1:], [2.5, 97.5])
        return float(ends[0]), float(ends[1])

    values = float(first[0]), float(second[0])
    clipped = bool(levels[0] != ours[0][0, place])
    return MatchedPoint(float(levels[0]), values, (bounds(first), bounds(second)), float(gap[0]), bounds(gap), clipped)


@dataclass(frozen=True)
class Matched:
    """An operation compared with another where both are equal in one score, and where they are in the other."""

    operation: str
    at_ability: MatchedPoint | None
    at_target: MatchedPoint | None
    words: tuple[str, str]
    """What each match says of the main operation: better, worse or no difference; empty where there is none."""
    sentences: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON values."""
        matches = {name: point and point.to_dict() for name, point in vars(self).items() if name.startswith("at_")}
        return {"against": self.operation, **matches, "words": list(self.words), "sentences": list(self.sentences)}


def matched(sweep: Sweep, others: Sequence[str] = ("subtract", "contrast")) -> list[Matched]:
    """The main operation against others, on the test half; the rising branches end at the validation half's peaks."""
    main, ability = sweep.main, sweep.ability
    if ability is None or (sweep.alpha(sweep.result) or 0.0) <= 0:  # the curves that are compared rise from α = 0
        return []
    branches = {name: _branch(sweep, name) for name in (main, *others) if name in sweep.operations}
    curve = sweep.curve(main)
    if sweep.result not in branches[main]:  # the peak lies beyond the budget, before it
        branches[main] = curve[: curve.index(sweep.result) + 1]
    labels = list(dict.fromkeys(label for branch in branches.values() for label in branch))
    xs = _draws(sweep, ability, labels, 1 if ability.task != sweep.target.task else 0)
    ys = _draws(sweep, sweep.target, labels, 0)
    size = min(len(xs), len(ys))
    curves = {}
    for name, branch in branches.items():
        columns = [labels.index(label) for label in branch]
        curves[name] = xs[:size, columns], ys[:size, columns]
    ours = branches[main]
    place = ours.index(sweep.result)
    return [_pair(sweep, name, curves, place) for name in others if name in curves and name != main]


def _branch(sweep: Sweep, operation: str) -> list[str]:
    """From α = 0 to the best of the validation half."""
    labels = [label for label in sweep.curve(operation) if (sweep.alpha(label) or 0.0) >= 0]
    sign = 1 if sweep.target.measure.better == "higher" else -1
    values = [sign * sweep.value_on_half(label, sweep.target, "validation") for label in labels]
    return labels[: int(np.nanargmax(values)) + 1]


def _draws(sweep: Sweep, name: ScoreName, labels: Sequence[str], stream: int) -> np.ndarray:
    """(1 + draws, labels): the figures on the test half, then those of resampled items, the same for all labels."""
    scores: list[Mapping[Any, Any]] = [sweep.scores(label, name.task) for label in labels]
    keys = [key for key in scores[0] if half_of(key, sweep.seed) == "test" and all(key in items for items in scores)]
    rows = [{label: items[key].get(name.score) for label, items in zip(labels, scores, strict=True)} for key in keys]
    return resampled(rows, labels, name.measure, sweep.seed + stream)


def _pair(sweep: Sweep, other: str, curves: Mapping[str, tuple[np.ndarray, np.ndarray]], place: int) -> Matched:
    main, ability, target = sweep.main, sweep.ability, sweep.target
    assert ability is not None
    ours, theirs = curves[main], curves[other]
    at_ability = compare(ours, theirs, place, str(target.measure.better))
    at_target = compare(ours[::-1], theirs[::-1], place, str(ability.measure.better))
    sentences = (
        _sentence(sweep, other, ability, target, at_ability),
        _sentence(sweep, other, target, ability, at_target),
    )
    words = _word(at_ability, target), _word(at_target, ability)
    return Matched(other, at_ability, at_target, words, sentences)


def _word(point: MatchedPoint | None, asked: ScoreName) -> str:
    """By whether the interval of the difference holds 0."""
    if point is None:
        return ""
    low, high = point.ci95
    if low <= 0 <= high:
        return "no difference"
    return "better" if (low > 0) == (asked.measure.better == "higher") else "worse"


def level_of(sweep: Sweep, same: ScoreName, point: MatchedPoint) -> str:
    """The level at which two curves are compared, written as the result's figure is."""
    return alone(sweep.on_half(sweep.result, same).to_dict(), point.level)


def _sentence(sweep: Sweep, other: str, same: ScoreName, asked: ScoreName, point: MatchedPoint | None) -> str:
    """In words."""
    main = sweep.main
    if point is None:
        return (
            f"At equal {score(same)}: the rising branches of {named(main)} and {other} have no range of it in common, "
            "so they cannot be compared there."
        )
    word = _word(point, asked)
    if word == "no difference":
        word = f"no difference between {named(main)} and {other}"
    else:
        word = f"{named(main)} is {word} than {other}"
    first, second = (" ".join(figure(*side)) for side in zip(point.values, point.intervals, strict=True))
    has = f"what {named(main)} has at {at(sweep.alpha(sweep.result) or 0.0)}"
    where = f"{level_of(sweep, same, point)}, {f'the nearest to {has} that both reach' if point.clipped else has}"
    gap = " ".join(change(point.difference, point.ci95))
    return f"At equal {score(same)} ({where}): {word} in {score(asked)}, {first} against {second}, difference {gap}."
