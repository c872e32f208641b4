"""Figures with their uncertainty, from the scores of single items; and whether two runs differ.

Every figure is a ratio of two sums over items: a mean has denominators of 1, a token-weighted mean numbers of tokens. A
score is a number (mean), a pair [numerator, denominator], or None where an item has none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Union

import numpy as np

Score = Union[float, Sequence[float], None]  # noqa: UP007  evaluated, also by Python 3.10
Scores = Mapping[str, Score]

DRAWS = 10_000
"""Resamples of a bootstrap, and sign flips of a test."""
FEWEST_DRAWS = 1_000
NUMBERS = 2 * 10**7
"""Draws times items; where there would be more, fewer draws are made."""
ROUNDING = 1e-5
"""Differences up to this count as none: the same model in other batches gives them."""
Z = 1.959963984540054
"""The 97.5 % point of the normal distribution."""


@dataclass(frozen=True)
class Measure:
    """What a score measures, and how a figure is made of it."""

    better: Literal["higher", "lower"] | None = "higher"
    """Which way is better; None for a control or a mere description."""
    control: bool = False
    """Whether it is made from the data alone."""
    proportion: bool = False
    """Whether each item is right or wrong, 0 or 1, so that the figure is a proportion."""
    perplexity: bool = False
    """Whether the figure is exp of the ratio."""


class Figure(NamedTuple):
    """A value with its 95 % interval, in the unit of the score."""

    value: float
    ci95: tuple[float, float]
    n: int

    def to_dict(self) -> Any:
        return {"value": self.value, "ci95": list(self.ci95), "n": self.n}


class Difference(NamedTuple):
    """How a second run differs from a first, item by item."""

    value: float
    """The second figure minus the first."""
    ci95: tuple[float, float]
    p: float | None
    """Two-sided; None where the runs cannot be paired, because their tokens differ."""
    n: int


def figures(rows: Sequence[Scores], measure: Callable[[str], Measure], seed: int) -> dict[str, Figure]:
    """The figure of every score: Wilson's interval for proportions, a percentile bootstrap over items for the rest."""
    scored = {name for row in rows for name, score in row.items() if score is not None}
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name in scored]
    numerator, denominator = _sums(rows, names)
    low, high = np.nanpercentile(_resampled(numerator, denominator, seed), [2.5, 97.5], axis=0)
    result = {}
    for place, name in enumerate(names):
        n = int((denominator[:, place] != 0).sum())
        if not n:
            continue
        value = numerator[:, place].sum() / denominator[:, place].sum()
        interval = (float(low[place]), float(high[place]))
        if measure(name).proportion and _is_zero_or_one(numerator[:, place], denominator[:, place]):
            interval = wilson(int(numerator[:, place].sum()), n)
        if measure(name).perplexity:
            value, interval = math.exp(value), (math.exp(interval[0]), math.exp(interval[1]))
        result[name] = Figure(float(value), interval, n)
    return result


def value_of(scores: Sequence[Score], measure: Measure) -> float:
    """The figure of one score without an interval; NaN where no item has it."""
    numerator, denominator = _sums([{"score": score} for score in scores], ["score"])
    if not denominator.any():
        return math.nan
    value = float(numerator.sum() / denominator.sum())
    return math.exp(value) if measure.perplexity else value


def difference(first: Sequence[Score], second: Sequence[Score], measure: Measure, seed: int) -> Difference:
    """How a second run differs from a first on the same items, in the same order; what one lacks counts for neither.

    The interval is a paired bootstrap. The test is exact (McNemar's) where items are right or wrong, otherwise by
    10,000 random sign flips of the items' differences (Fisher's randomisation).
    """
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    if not pairs:
        return Difference(math.nan, (math.nan, math.nan), None, 0)
    numerator, denominator = _sums([{"first": a, "second": b} for a, b in pairs], ["first", "second"])
    transform = np.exp if measure.perplexity else lambda ratio: ratio
    values = transform(numerator.sum(0) / denominator.sum(0))
    draws = transform(_resampled(numerator, denominator, seed))
    low, high = np.nanpercentile(draws[:, 1] - draws[:, 0], [2.5, 97.5])
    changes = numerator[:, 1] - numerator[:, 0]
    changes[np.abs(changes) <= ROUNDING * np.abs(numerator).max()] = 0.0
    p = _test(changes, seed) if (denominator[:, 0] == denominator[:, 1]).all() else None
    return Difference(float(values[1] - values[0]), (float(low), float(high)), p, len(pairs))


def standard_error(first: Sequence[Score], second: Sequence[Score], measure: Measure) -> float:
    """The standard error of the difference of two runs on the same items, in the same order; NaN below two items.

    For means it is s/√n of the items' differences; for ratios of sums and perplexities their linear approximation.
    """
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    if len(pairs) < 2:
        return math.nan
    first_values, second_values = (item_values([pair[place] for pair in pairs], measure) for place in (0, 1))
    return float((second_values - first_values).std(ddof=1) / math.sqrt(len(pairs)))


def item_values(scores: Sequence[Score], measure: Measure) -> np.ndarray:
    """(items,): numbers whose mean is the figure and whose spread is what it owes to the items, to first order.

    For a mean they are the scores themselves; for ratios of sums and perplexities the figure and what each item would
    move it by. Every item must have the score.
    """
    numerator, denominator = _sums([{"score": score} for score in scores], ["score"])
    ratio = numerator.sum() / denominator.sum()
    value, slope = (math.exp(ratio),) * 2 if measure.perplexity else (ratio, 1.0)
    return (value + slope * (numerator - ratio * denominator) / denominator.mean())[:, 0]


def have_same_weights(first: Sequence[Score], second: Sequence[Score]) -> bool:
    """Whether each item counts alike in both runs: where tokens are counted, whether they have the same tokens."""
    names = ["first", "second"]
    _, weights = _sums([dict(zip(names, pair, strict=True)) for pair in zip(first, second, strict=True)], names)
    return bool((weights[:, 0] == weights[:, 1]).all())


def resampled(rows: Sequence[Scores], names: Sequence[str], measure: Measure, seed: int) -> np.ndarray:
    """(1 + draws, scores): the figures, then those of resampled items, drawn once for all scores."""
    numerator, denominator = _sums(rows, names)
    with np.errstate(invalid="ignore"):
        ratios = np.concatenate(
            [(numerator.sum(0) / denominator.sum(0))[None], _resampled(numerator, denominator, seed)]
        )
    return np.exp(ratios) if measure.perplexity else ratios


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson, 1927)."""
    proportion, square = successes / n, Z * Z / n
    middle = (proportion + square / 2) / (1 + square)
    half = Z / (1 + square) * math.sqrt(proportion * (1 - proportion) / n + square / (4 * n))
    return (middle - half if successes else 0.0), (middle + half if successes < n else 1.0)


def _sums(rows: Sequence[Scores], names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(numerator, denominator), each (items, scores); 0 / 0 where an item has no such score."""
    numerator, denominator = np.zeros((len(rows), len(names))), np.zeros((len(rows), len(names)))
    for number, row in enumerate(rows):
        for place, name in enumerate(names):
            score = row.get(name)
            if isinstance(score, Sequence):
                numerator[number, place], denominator[number, place] = score
            elif score is not None:
                numerator[number, place], denominator[number, place] = score, 1.0
    return numerator, denominator


def _resampled(numerator: np.ndarray, denominator: np.ndarray, seed: int) -> np.ndarray:
    """(draws, scores): the ratios of as many items, drawn with replacement."""
    items, random = len(numerator), np.random.default_rng(seed)
    results = []
    for size in _parts(_draws(items), items):
        chosen = random.integers(items, size=(size, items)) + items * np.arange(size)[:, None]
        counts = np.bincount(chosen.ravel(), minlength=size * items).reshape(size, items).astype(float)
        with np.errstate(invalid="ignore"):
            results.append((counts @ numerator) / (counts @ denominator))
    return np.concatenate(results)


def _draws(items: int) -> int:
    return int(np.clip(NUMBERS // items, FEWEST_DRAWS, DRAWS))


def _parts(draws: int, items: int) -> Iterator[int]:
    """So many draws at once that they do not fill the memory."""
    at_once = max(1, NUMBERS // 10 // items)
    for start in range(0, draws, at_once):
        yield min(at_once, draws - start)


def _is_zero_or_one(numerator: np.ndarray, denominator: np.ndarray) -> bool:
    return bool(np.isin(denominator, (0.0, 1.0)).all() and np.isin(numerator, (0.0, 1.0)).all())


def _test(differences: np.ndarray, seed: int) -> float:
    """Two-sided p of "each item's difference could as well have the other sign"."""
    differences = differences[differences != 0]
    if not len(differences):
        return 1.0
    if np.isin(differences, (-1.0, 1.0)).all():
        return _binomial(int(min((differences > 0).sum(), (differences < 0).sum())), len(differences))
    random, observed = np.random.default_rng(seed), abs(differences.sum())
    draws, extreme = _draws(len(differences)), 0
    for size in _parts(draws, len(differences)):
        signs = random.integers(0, 2, (size, len(differences))) * 2 - 1
        extreme += int((np.abs(signs @ differences) >= observed * (1 - 1e-12)).sum())
    return (extreme + 1) / (draws + 1)


def _binomial(fewer: int, n: int) -> float:
    """Of n fair coins, at most ``fewer`` on either side."""
    terms = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(fewer + 1)]
    return min(1.0, 2 * math.fsum(math.exp(term - n * math.log(2)) for term in terms))
