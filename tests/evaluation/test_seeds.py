"""Groups of seeds: Student's t by its closed forms, variances by hand, how often equal models are called different."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extsub.evaluation.metrics import Measure, difference, item_values, value_of
from extsub.evaluation.seeds import group_difference, group_figure, student, student_point

MEAN = Measure()


def run(values: Sequence[object]) -> dict[int, object]:
    return dict(enumerate(values))


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0, 2.5, 12.0, 300.0])
def test_students_t_has_its_closed_forms(t: float) -> None:
    assert student(t, 1) == pytest.approx(1 - 2 / math.pi * math.atan(t))
    assert student(t, 2) == pytest.approx(1 - t / math.sqrt(2 + t * t), abs=1e-12)
    below = t / math.sqrt(4 + t * t)
    assert student(t, 4) == pytest.approx(1 - below * (3 - below**2) / 2, abs=1e-12)
    assert student(t, math.inf) == pytest.approx(math.erfc(t / math.sqrt(2)))
    assert student(t, 9e5) == pytest.approx(student(t, math.inf), rel=1e-4, abs=1e-15)


@pytest.mark.parametrize(("freedom", "point"), [(1, 12.7062), (2, 4.3027), (10, 2.2281), (math.inf, 1.95996)])
def test_the_points_of_the_tables(freedom: float, point: float) -> None:
    assert student_point(freedom) == pytest.approx(point, abs=1e-4)


def test_seeds_that_move_all_items_alike_are_a_paired_t_test() -> None:
    """Differences 1, 2, 3 by seed: t = 2 / (1 / sqrt(3)), with two degrees of freedom."""
    first = [run([seed] * 5) for seed in (0.0, 4.0, 8.0)]
    second = [run([value] * 5) for value in (1.0, 6.0, 11.0)]
    change = group_difference(first, second, MEAN, 0)
    assert change is not None
    t = 2 * math.sqrt(3)
    assert (change.value, change.n) == (pytest.approx(2), 5)
    assert change.p == pytest.approx(1 - t / math.sqrt(2 + t * t))
    assert change.ci95 == pytest.approx([2 - 4.30265 / math.sqrt(3), 2 + 4.30265 / math.sqrt(3)], rel=1e-5)


def test_groups_of_different_size_are_welchs_test() -> None:
    """Seeds 0, 2 against 1, 2, 3: variances 2/2 and 1/3, freedom (4/3)^2 / (1 + (1/3)^2 / 2)."""
    first, second = ([run([value] * 4) for value in values] for values in ((0.0, 2.0), (1.0, 2.0, 3.0)))
    change = group_difference(first, second, MEAN, 0)
    assert change is not None
    freedom = (4 / 3) ** 2 / (1 + 1 / 18)
    assert change.value == pytest.approx(1)
    assert change.p == pytest.approx(student(math.sqrt(3 / 4), freedom))
    assert change.ci95[1] - 1 == pytest.approx(student_point(freedom) * math.sqrt(4 / 3))


def test_seeds_that_agree_leave_the_items() -> None:
    """The mean of 0, 1, 2, 3 has the variance (5/3) / 4, and the normal distribution."""
    change = group_difference([run([0.0] * 4)] * 2, [run([0.0, 1.0, 2.0, 3.0])] * 2, MEAN, 0)
    assert change is not None
    assert change.p == pytest.approx(math.erfc(1.5 / math.sqrt(5 / 12) / math.sqrt(2)))


def test_seeds_and_items_add_up() -> None:
    """Items 0 and 2, seeds 0 and 1, nothing of both: 2/2 for the items, 0.5/2 for the seeds."""
    figure = group_figure(
        [{"value": value, "ci95": [0.0, 0.0], "n": 2} for value in (1.0, 2.0)], [run([0.0, 2.0]), run([1.0, 3.0])], MEAN
    )
    half = student_point(1.25**2 / 0.25**2) * math.sqrt(1.25)
    assert figure == {
        "value": 1.5, "ci95": pytest.approx([1.5 - half, 1.5 + half]), "n": 2,
        "sd": pytest.approx(math.sqrt(0.5)), "values": [1.0, 2.0],
    }  # fmt: skip


def test_without_a_common_item_the_interval_is_that_of_the_seeds() -> None:
    figures = [{"value": value, "ci95": [0.0, 0.0], "n": 1} for value in (1.0, 2.0, 3.0)]
    figure = group_figure(figures, [{seed: 1.0 + seed} for seed in range(3)], MEAN)
    assert figure["ci95"] == pytest.approx([2 - 4.30265 / math.sqrt(3), 2 + 4.30265 / math.sqrt(3)], rel=1e-5)


@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=2, max_size=12))
def test_one_run_each_is_the_test_without_seeds(pairs: list[tuple[float, float]]) -> None:
    first, second = zip(*pairs, strict=True)
    assert group_difference([run(first)], [run(second)], MEAN, 0) == difference(first, second, MEAN, 0)


@given(st.lists(st.tuples(st.floats(0, 9), st.integers(1, 5)), min_size=2, max_size=9), st.booleans())
def test_the_mean_of_the_items_values_is_the_figure(pairs: list[tuple[float, int]], perplexity: bool) -> None:
    measure = Measure(better="lower", perplexity=perplexity)
    scores = [list(pair) for pair in pairs]
    assert item_values(scores, measure).mean() == pytest.approx(value_of(scores, measure))


def test_what_cannot_be_paired_has_no_p() -> None:
    """Other tokens: the same items count otherwise."""
    first, second = [run([[1.0, 2], [3.0, 4]])] * 2, [run([[1.0, 2], [3.0, 5]])] * 2
    change = group_difference(first, second, Measure(perplexity=True), 0)
    assert change is not None
    assert change.p is None
    assert change.value == pytest.approx(math.exp(4 / 7) - math.exp(4 / 6))
    assert group_difference([run([1.0, None])], [run([None, 1.0]), run([None, 2.0])], MEAN, 0) is None


@pytest.mark.parametrize(("seed_sd", "items"), [(0.0, 60), (0.05, 60), (0.1, 300)])
def test_equal_models_are_seldom_called_different(seed_sd: float, items: int) -> None:
    """Three seeds, 400 experiments: near 5 %; a test over items alone is fooled by what seeds do."""
    random = np.random.default_rng(0)
    different = fooled = 0
    for _ in range(400):
        both = random.normal(0, 0.3, items)
        groups = [
            [both + random.normal(0, seed_sd / math.sqrt(2)) + random.normal(0, 0.2, items) for _ in range(3)]
            for _ in range(2)
        ]
        change = group_difference(*([run(list(values)) for values in group] for group in groups), MEAN, 0)
        assert change is not None
        assert change.p is not None
        different += change.p < 0.05
        means = np.mean(groups[1], 0) - np.mean(groups[0], 0)
        fooled += abs(means.mean()) > 1.96 * means.std(ddof=1) / math.sqrt(items)
    assert different <= 0.09 * 400
    assert fooled > 0.5 * 400 if seed_sd == 0.1 else True
