"""Laws of the algebra, against dense float64 matrices."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

import oracle
from extsub import OPERATIONS, Delta, ExtSubError, add, amplify, contrast, ext_sub, subtract
from extsub.algebra import truncate

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

seeds = st.integers(0, 2**31)
ranks = st.integers(1, 6)
alphas = st.floats(-3, 3)


tensor = torch.from_numpy


def dense(delta: Delta) -> Tensor:
    return tensor(delta.dense())


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Delta, Delta]:
    """Two deltas of one shape, of any ranks, scalings and dtypes, sometimes of several MoE experts."""
    rows, columns, seed = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(seeds)
    batch = draw(st.sampled_from([(), (3,)]))

    def delta(seed: int) -> Delta:
        rank, dtype = draw(ranks), draw(st.sampled_from(DTYPES))
        B = random(*batch, rows, rank, seed=seed, dtype=dtype)
        A = random(*batch, rank, columns, seed=seed + 1, dtype=dtype)
        return Delta.product(B, A, draw(st.sampled_from([0.25, 1.0, 2.0, -4.0])))

    return delta(seed), delta(seed + 2)


@given(pairs(), alphas, st.sampled_from(sorted(OPERATIONS)))
def test_operations_equal_the_formulas_on_dense_matrices(pair: tuple[Delta, Delta], alpha: float, name: str) -> None:
    expert, anti_expert = pair
    result = OPERATIONS[name](expert, anti_expert, alpha=alpha)
    expected = oracle.combined(name, dense(expert), [dense(anti_expert)], [alpha])
    size = dense(expert).norm() + dense(anti_expert).norm()
    assert (dense(result) - expected).norm() <= 1e-11 * size
    assert result.rank == expert.rank + (anti_expert.rank if name != "amplify" else 0)


@given(pairs())
def test_row_norms_and_dots_equal_those_of_the_dense_matrix(pair: tuple[Delta, Delta]) -> None:
    first, second = pair
    size = dense(first).norm() * (1 + dense(second).norm())
    assert torch.allclose(tensor(first.row_norms()), dense(first).norm(dim=-1), rtol=1e-9, atol=1e-12 * float(size))
    dots = (dense(first) * dense(second)).sum(-1)
    assert torch.allclose(tensor(first.row_dots(second)), dots, rtol=1e-9, atol=1e-12 * float(size))
    both = first + second
    assert torch.allclose(tensor(both.row_norms()), dense(both).norm(dim=-1), rtol=1e-7, atol=1e-7 * float(size))


@given(pairs())
def test_strength_zero_gives_the_expert_bit_for_bit(pair: tuple[Delta, Delta]) -> None:
    expert, anti_expert = pair
    B, A = map(tensor, ext_sub(expert, anti_expert, alpha=0).factors())
    expert_B, expert_A = map(tensor, expert.factors())
    assert torch.equal(B[..., : expert.rank], expert_B)
    assert not B[..., expert.rank :].any()
    assert torch.equal(A[..., : expert.rank, :], expert_A)


@given(pairs(), alphas)
def test_equal_adapters_leave_nothing_to_subtract(pair: tuple[Delta, Delta], alpha: float) -> None:
    expert, _ = pair
    assert oracle.relative_error(dense(ext_sub(expert, expert, alpha=alpha)), dense(expert)) < 1e-12


@given(pairs(), st.floats(0.1, 5), st.floats(0, 3))
def test_an_opposite_anti_expert_is_subtracted_whole(pair: tuple[Delta, Delta], size: float, alpha: float) -> None:
    expert, _ = pair
    result = dense(ext_sub(expert, expert.scale_rows(-size), alpha=alpha))
    assert oracle.relative_error(result, (1 + size * alpha) * dense(expert)) < 1e-12


@given(pairs(), alphas, seeds)
def test_the_choice_of_factors_does_not_matter(pair: tuple[Delta, Delta], alpha: float, seed: int) -> None:
    expert, anti_expert = pair
    B, A = map(tensor, expert.factors())
    M = random(expert.rank, expert.rank, seed=seed) + 3 * torch.eye(expert.rank, dtype=torch.float64)
    assume(torch.linalg.cond(M) < 1e3)
    other = Delta.product(B @ M, torch.linalg.solve(M, A))
    result = dense(ext_sub(expert, anti_expert, alpha=alpha))
    assert (dense(ext_sub(other, anti_expert, alpha=alpha)) - result).norm() <= 1e-9 * (1 + result.norm())


@given(pairs(), st.floats(0.01, 100), st.floats(0, 3))
def test_scaling_both_adapters_scales_the_result(pair: tuple[Delta, Delta], scale: float, alpha: float) -> None:
    expert, anti_expert = pair
    result = dense(ext_sub(expert.scale_rows(scale), anti_expert.scale_rows(scale), alpha=alpha))
    expected = scale * dense(ext_sub(expert, anti_expert, alpha=alpha))
    assert (result - expected).norm() <= 1e-11 * (scale * (dense(expert).norm() + dense(anti_expert).norm()))


@given(pairs(), alphas, alphas)
def test_the_result_is_linear_in_alpha(pair: tuple[Delta, Delta], low: float, high: float) -> None:
    expert, anti_expert = pair
    for operation in OPERATIONS.values():
        at = {alpha: dense(operation(expert, anti_expert, alpha=alpha)) for alpha in (low, high, (low + high) / 2)}
        middle = (at[low] + at[high]) / 2
        assert (at[(low + high) / 2] - middle).norm() <= 1e-11 * (1 + middle.norm() + at[low].norm())


@given(pairs())
def test_what_is_subtracted_is_orthogonal_to_the_bisector(pair: tuple[Delta, Delta]) -> None:
    expert, anti_expert = dense(pair[0]), dense(pair[1])
    bisector = oracle.unit(oracle.unit(expert) + oracle.unit(anti_expert))
    subtracted = expert - dense(ext_sub(*pair))
    assert ((subtracted * bisector).sum(-1).abs() <= 1e-7 * (1 + anti_expert.norm(dim=-1))).all()


@given(pairs(), alphas, alphas)
def test_several_anti_experts_add_up_each_against_the_expert(
    pair: tuple[Delta, Delta], alpha: float, beta: float
) -> None:
    expert, anti_expert = pair
    second = anti_expert.scale_rows(0.3) + expert.scale_rows(-0.2)
    for operation in OPERATIONS.values():
        result = dense(operation(expert, anti_expert, second, alpha=[alpha, beta]))
        changes = [
            dense(operation(expert, a, alpha=x)) - dense(expert) for a, x in ((anti_expert, alpha), (second, beta))
        ]
        expected = dense(expert) + changes[0] + changes[1]
        assert (result - expected).norm() <= 1e-7 * (1 + expected.norm() + dense(anti_expert).norm())


@given(pairs(), st.integers(1, 8))
def test_truncation_is_the_best_of_its_rank(pair: tuple[Delta, Delta], rank: int) -> None:
    delta = pair[0] + pair[1]
    whole = dense(delta)
    S = torch.linalg.svdvals(whole)
    kept, squared_error, squared_norm = truncate(delta, rank)
    assert kept.rank <= (rank if rank < delta.rank else delta.rank)
    best = S[..., rank:].square().sum().item()
    assert (dense(kept) - whole).square().sum().item() == pytest.approx(best, abs=1e-10 * squared_norm)
    if rank < delta.rank:
        assert squared_error == pytest.approx(best, abs=1e-10 * squared_norm)
    assert squared_norm == pytest.approx(whole.square().sum().item(), rel=1e-9)


def test_the_case_done_by_hand() -> None:
    expert = Delta.product(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.eye(2))
    anti_expert = Delta.product(torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.eye(2))
    assert dense(ext_sub(expert, anti_expert)).tolist() == [[0, 0], [1.5, -0.5]]
    assert dense(subtract(expert, anti_expert)).tolist() == [[0, -1], [1, -1]]
    assert dense(add(expert, anti_expert, alpha=2)).tolist() == [[0, 2], [1, 2]]
    assert dense(contrast(expert, anti_expert)).tolist() == [[0, -1], [2, -1]]
    assert dense(amplify(expert, anti_expert, alpha=0.5)).tolist() == [[0, 0], [1.5, 0]]


def test_zero_rows_follow_their_rules() -> None:
    A = torch.eye(2, dtype=torch.float64)
    expert = Delta.product(torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 0.0]]), A)
    anti_expert = Delta.product(torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]), A)
    assert dense(ext_sub(expert, anti_expert)).tolist() == [[3, 4], [0, 0], [0, 0]]


def test_row_norms_survive_nearly_parallel_rows() -> None:
    """The Gram form in float32 is wrong by a factor of 6 here; a row that cancels needs more than float64's."""
    direction = random(64, seed=1)
    A = torch.stack([direction, direction + 1e-7 * random(64, seed=2)])
    B = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
    norms = tensor(Delta.product(B, A).row_norms())
    # 60 digits by hand: the first row is exactly A[0] - A[1]
    exact = torch.stack([(A[0] - A[1]).norm(), (A[0] + A[1]).norm()])
    assert torch.allclose(norms, exact, rtol=1e-7, atol=0)


def test_a_row_that_cancels_to_rounding_counts_as_zero() -> None:
    A = torch.ones(2, 5) * 0.1
    expert = Delta.product(torch.tensor([[1.0, -1.0], [1.0, 0.0]]), A)
    assert tensor(expert.row_norms()).tolist()[0] == 0
    anti_expert = Delta.product(torch.ones(2, 1), torch.ones(1, 5))
    result = dense(ext_sub(expert, anti_expert))
    assert result[0].abs().max() < 1e-12
    assert torch.isfinite(result).all()


def test_large_matrices_go_through_in_blocks() -> None:
    """More rows than fit into one block."""
    expert, anti_expert = (
        Delta.product(random(70_000, 2, seed=s, dtype=torch.float32), random(2, 3, seed=s + 1)) for s in (0, 2)
    )
    expected = oracle.combined("ext-sub", dense(expert), [dense(anti_expert)], [1.0])
    assert oracle.relative_error(dense(ext_sub(expert, anti_expert)), expected) < 1e-12


@pytest.mark.parametrize(
    ("alpha", "message"),
    [
        ([1.0, 2.0, 3.0], "3 values of alpha for 2 anti-experts: give one, or one for each"),
        (math.nan, "alpha must be a finite number, found nan"),
        (math.inf, "alpha must be a finite number, found inf"),
    ],
)
def test_a_wrong_alpha_is_refused(alpha: float | list[float], message: str) -> None:
    delta = Delta.product(torch.ones(1, 1), torch.ones(1, 1))
    with pytest.raises(ExtSubError, match=message):
        ext_sub(delta, delta, delta, alpha=alpha)
