"""Figures, intervals and tests against published values, full enumeration, SciPy and cases done by hand."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extsub.evaluation import metrics
from extsub.evaluation.metrics import Figure, Measure, Score, difference, figures, value_of, wilson
from extsub.formatting import rounded

MEAN, SHARE, PERPLEXITY = Measure(), Measure(proportion=True), Measure(better="lower", perplexity=True)


def figure(scores: list[Score], measure: Measure = MEAN, seed: int = 0) -> Figure:
    return figures([{"one": score} for score in scores], lambda _: measure, seed)["one"]


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (1, 1, 0.2065, 1.0),
     (263, 817, 0.2908, 0.3547)],
)  # fmt: skip
def test_shares_have_wilsons_interval(right: int, n: int, low: float, high: float) -> None:
    assert wilson(right, n) == pytest.approx((low, high), abs=5e-5)
    measured = figure([1.0] * right + [0.0] * (n - right), SHARE)
    assert measured == (right / n, pytest.approx((low, high), abs=5e-5), n)


@pytest.mark.parametrize(("right", "n"), [(3, 7), (0, 50), (499, 1000)])
def test_wilsons_interval_is_scipys(right: int, n: int) -> None:
    scipy = pytest.importorskip("scipy.stats")
    theirs = scipy.binomtest(right, n).proportion_ci(0.95, method="wilson")
    assert wilson(right, n) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_a_share_that_is_not_of_zeros_and_ones_is_resampled() -> None:
    """Half a point for a tie, say."""
    scores: list[Score] = [1.0, 0.5, 0.0, 1.0, 0.5] * 4
    assert figure(scores, SHARE).ci95 == figure(scores, MEAN).ci95 != wilson(12, 20)


def test_the_interval_of_a_mean_is_nearly_the_normal_one() -> None:
    values = np.random.default_rng(1).gamma(2.0, 3.0, 400)
    measured = figure(list(values))
    half = 1.96 * values.std() / math.sqrt(400)
    assert measured.value == pytest.approx(values.mean())
    assert measured.ci95 == pytest.approx((values.mean() - half, values.mean() + half), abs=0.05 * half)
    assert measured.n == 400


def test_the_interval_of_few_items_is_that_of_all_resamples() -> None:
    """3 items: thrice the least has 1/27, more than 2.5 %. 8 items: none of the four greater has 0.4 %, one 3.1 %."""
    assert figure([0.0, 1.0, 10.0]).ci95 == (0.0, 10.0)
    chances = [math.comb(8, count) / 2**8 for count in range(9)]
    low = next(count for count in range(9) if sum(chances[: count + 1]) > 0.025)
    assert low == 1
    assert figure([0.0, 3.0] * 4).ci95 == pytest.approx((3 * low / 8, 3 * (8 - low) / 8))


def test_many_items_are_resampled_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    values = list(np.random.default_rng(2).normal(size=100))
    whole = figure(values)
    monkeypatch.setattr(metrics, "NUMBERS", 100 * 2000)  # 2,000 draws, 200 at once
    fewer = figure(values)
    assert fewer.value == whole.value
    assert fewer.ci95 != whole.ci95
    assert fewer.ci95 == pytest.approx(whole.ci95, abs=0.03)


def test_perplexity_weighs_every_token_the_same() -> None:
    measured = figure([[3.0, 2], [10.0, 4], [1.0, 10]], PERPLEXITY)
    assert measured.value == pytest.approx(math.exp(14.0 / 16))
    assert measured.n == 3
    assert measured.ci95[0] == pytest.approx(math.exp(0.1))  # thrice the third: 1/27; thrice the second as well
    assert measured.ci95[1] == pytest.approx(math.exp(2.5))


def test_items_without_a_score_count_for_nothing() -> None:
    with_gaps: list[Score] = [1.0, None, 0.0, None, None, 1.0]
    assert (figure(with_gaps, SHARE).value, figure(with_gaps, SHARE).n) == (2 / 3, 3)
    assert figure(with_gaps, SHARE).ci95 == pytest.approx(wilson(2, 3))
    rows = [{"one": 1.0, "two": 4.0}, {"one": 3.0}, {"two": 6.0, "three": None}, {}]
    by_name = figures(rows, lambda _: MEAN, 0)
    assert by_name.keys() == {"one", "two"}
    assert (by_name["two"].value, by_name["two"].n) == (5.0, 2)
    assert by_name["one"].ci95 == (1.0, 3.0)
    assert by_name["one"].to_dict() == {"value": 2.0, "ci95": [1.0, 3.0], "n": 2}


@pytest.mark.parametrize(("gained", "lost", "same"), [(1, 8, 20), (5, 5, 0), (0, 6, 3), (40, 61, 500), (1, 0, 0)])
def test_right_or_wrong_is_tested_as_mcnemar_does(gained: int, lost: int, same: int) -> None:
    scipy = pytest.importorskip("scipy.stats")
    first: list[Score] = [0.0] * gained + [1.0] * lost + [1.0] * same
    second: list[Score] = [1.0] * gained + [0.0] * lost + [1.0] * same
    change = difference(first, second, SHARE, 0)
    assert change.p == pytest.approx(scipy.binomtest(gained, gained + lost).pvalue, rel=1e-9)
    assert change.value == pytest.approx((gained - lost) / (gained + lost + same))
    assert change.n == gained + lost + same


def test_the_test_of_a_mean_is_nearly_that_of_all_signs() -> None:
    for seed, shift in ((0, 0.3), (1, 0.6), (2, 0.0)):
        changes = np.random.default_rng(seed).normal(shift, 1.0, 10)
        sums = [abs(np.dot(signs, changes)) for signs in itertools.product((-1, 1), repeat=10)]
        exact = np.mean([total >= abs(changes.sum()) - 1e-9 for total in sums])
        change = difference([0.0] * 10, list(changes), MEAN, 0)
        assert change.p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 10_000) + 1e-4)
    assert difference([0.0] * 40, [*np.linspace(1.1, 1.5, 40)], MEAN, 0).p == 1 / 10_001  # never 0


def test_the_interval_of_a_difference_is_paired() -> None:
    """Items differ much, and all by nearly as much."""
    random = np.random.default_rng(3)
    first = random.normal(0, 100.0, 400)
    changes = random.normal(1.0, 2.0, 400)
    change = difference(list(first), list(first + changes), MEAN, 0)
    half = 1.96 * changes.std() / 20
    assert change.value == pytest.approx(changes.mean())
    assert change.ci95 == pytest.approx((changes.mean() - half, changes.mean() + half), abs=0.07 * half)


def test_a_difference_of_perplexities_is_that_of_their_values() -> None:
    first: list[Score] = [[3.0, 2], [10.0, 4], [1.0, 10]]
    second: list[Score] = [[2.0, 2], [9.0, 4], [1.5, 10]]
    change = difference(first, second, PERPLEXITY, 0)
    assert change.value == pytest.approx(math.exp(12.5 / 16) - math.exp(14 / 16))
    assert change.ci95[0] == pytest.approx(math.exp(2.25) - math.exp(2.5))  # thrice the second item
    assert change.ci95[1] == pytest.approx(math.exp(0.15) - math.exp(0.1))  # thrice the third
    assert change.p is not None
    other = difference(first, [[2.0, 2], [9.0, 4], [1.5, 11]], PERPLEXITY, 0)  # another tokenizer
    assert other.p is None
    assert other.value == pytest.approx(math.exp(12.5 / 17) - math.exp(14 / 16))


def test_items_that_one_run_lacks_count_for_neither() -> None:
    change = difference([1.0, None, 2.0, 50.0], [2.0, 70.0, 4.0, None], MEAN, 0)
    assert (change.value, change.n) == (1.5, 2)
    assert change.ci95 == (1.0, 2.0)
    nothing = difference([1.0, None], [None, 1.0], MEAN, 0)
    assert math.isnan(nothing.value)
    assert (nothing.p, nothing.n) == (None, 0)


@pytest.mark.parametrize("measure", [MEAN, SHARE, PERPLEXITY])
def test_equal_runs_do_not_differ(measure: Measure) -> None:
    scores: list[Score] = [[0.0, 3], [1.0, 4], [2.5, 4]] if measure.perplexity else [0.0, 1.0, 1.0, 0.0]
    assert difference(scores, scores, measure, 0) == (0.0, (0.0, 0.0), 1.0, len(scores))


def test_rounding_is_no_difference() -> None:
    """The same model in other batches: seven of a million, all one way."""
    first = [-40.0 - number for number in range(30)]
    assert difference(first, [score * (1 - 7e-7) for score in first], MEAN, 0).p == 1.0
    p = difference(first, [score * (1 - 7e-4) for score in first], MEAN, 0).p
    assert p is not None
    assert p < 0.01


def test_figures_and_tests_come_back_with_the_seed() -> None:
    values: list[Score] = [random.Random(number).gauss(0, 1) for number in range(50)]
    others: list[Score] = [random.Random(-number - 1).gauss(0.3, 1) for number in range(50)]
    for make in (lambda seed: figure(values, seed=seed), lambda seed: difference(values, others, MEAN, seed)):
        again: Callable[[int], object] = make
        assert again(5) == again(5) != again(6)
    assert difference(values, others, MEAN, 5).p != difference(values, others, MEAN, 6).p


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_the_interval_of_a_share_holds_it_and_stays_within(right: list[bool]) -> None:
    measured = figure([float(is_right) for is_right in right], SHARE)
    assert measured.value == pytest.approx(sum(right) / len(right))
    assert 0 <= measured.ci95[0] <= measured.value + 1e-12
    assert measured.value - 1e-12 <= measured.ci95[1] <= 1
    mirrored = figure([float(not is_right) for is_right in right], SHARE)
    assert mirrored.ci95 == pytest.approx((1 - measured.ci95[1], 1 - measured.ci95[0]))


numbers = st.floats(-100, 100).map(lambda number: round(number, 3))


@pytest.mark.parametrize("kind", ["mean", "share"])
@settings(max_examples=12)  # 10,000 sign flips take a tenth of a second
@given(pairs=st.lists(st.tuples(numbers, numbers), min_size=1, max_size=30))
def test_swapping_the_runs_turns_the_difference_round(kind: str, pairs: list[tuple[float, float]]) -> None:
    if kind == "share":
        pairs = [(float(a > 0), float(b > 0)) for a, b in pairs]
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    measure = SHARE if kind == "share" else MEAN
    forward, backward = difference(first, second, measure, 0), difference(second, first, measure, 0)
    assert forward.value == pytest.approx(-backward.value, abs=1e-9)
    assert forward.value == pytest.approx(np.mean(second) - np.mean(first), abs=1e-9)
    assert forward.ci95 == pytest.approx((-backward.ci95[1], -backward.ci95[0]), abs=1e-9)
    assert forward.p == backward.p


@pytest.mark.parametrize(
    ("value", "ci95", "signed", "written"),
    [
        (0.08333, (0.0149, 0.354), False, "0.083 [0.015, 0.354]"),
        (0.6123, (0.5901, 0.6349), False, "0.612 [0.590, 0.635]"),
        (3.22134, (3.2102, 3.2321), False, "3.221 [3.210, 3.232]"),
        (1234.5678, (1100, 1400.1), False, "1235 [1100, 1400]"),
        (0.0, (0.0, 0.161), False, "0.00 [0.00, 0.16]"),
        (1.0, (1.0, 1.0), False, "1.000 [1.000, 1.000]"),
        (0.02, (-0.031, 0.07), True, "+0.020 [-0.031, +0.070]"),
        (-0.0001, (-0.03, 0.07), True, "0.000 [-0.030, +0.070]"),
        (1e-6, (5e-7, 2e-6), False, "1.00e-06 [5.00e-07, 2.00e-06]"),
        (math.nan, (math.nan, math.nan), True, "nan [nan, nan]"),
        (3.0, (1.0, math.inf), False, "3 [1, inf]"),
    ],
)
def test_a_figure_and_its_interval_have_the_same_digits(
    value: float, ci95: tuple[float, float], signed: bool, written: str
) -> None:
    assert " ".join(rounded(value, ci95, signed=signed)) == written


@given(st.tuples(*[st.floats(-1e6, 1e6)] * 3).map(sorted), st.booleans())
def test_what_is_written_is_as_near_as_its_last_digit(numbers: list[float], signed: bool) -> None:
    low, value, high = numbers
    text, interval = rounded(value, (low, high), signed=signed)
    written = [text, *interval.strip("[]").split(", ")]
    assert len({len(part.partition("e")[0].partition(".")[2]) for part in written}) == 1
    for number, part in zip((value, low, high), written, strict=True):
        mantissa, _, exponent = part.partition("e")
        unit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
        assert abs(float(part) - number) <= 0.500001 * unit
        assert part.startswith("+") == (signed and float(part) > 0)
        assert not (part.startswith("-") and float(part) == 0)


@pytest.mark.parametrize("measure", [MEAN, SHARE, PERPLEXITY])
@pytest.mark.parametrize("scores", [[0.0, 1.0, 1.0], [[3.5, 2], [1.0, 4], [2.5, 1]], [None, 0.25, None]])
def test_a_value_without_an_interval_is_the_figures(scores: list[Score], measure: Measure) -> None:
    assert value_of(scores, measure) == figure(scores, measure).value


def test_no_score_is_no_number() -> None:
    assert math.isnan(value_of([None, None], MEAN))
