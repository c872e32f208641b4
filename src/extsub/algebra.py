"""Exact arithmetic on deltas. A delta is what an adapter adds to one weight: ``B @ A``.

Every operation gives two numbers per row, ``result = x*e + y*a``, and scaling the rows of ``B @ A`` is scaling the
rows of ``B``. So results stay factored, nothing of the size of the base weight is built, and ``A`` passes through
unchanged. This file knows nothing of files, PEFT or configs. The proofs are in docs/method.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from extsub.errors import ExtSubError, counted

# Smallest to largest eigenvalue of A A^T. Below it the Gram form of a row norm could lose more than 6 of 16 digits.
GRAM_LIMIT = 1e-6

# Numbers of B at a time: what fits a processor's cache in float64. Whole matrices took five times as long.
BLOCK = 1 << 16

Weight = Tensor | float


class Term(NamedTuple):
    """``diag(weights) @ B @ A``. The factors are as they were stored; only products with the weights are float64."""

    B: Tensor
    """(..., rows, rank)"""

    A: Tensor
    """(..., rank, columns)"""

    weights: Weight
    """(..., rows) float64, or one number for all rows."""

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """``B`` some rows at a time."""
        step = max(1, BLOCK // max(1, self.B.shape[-1]))
        for start in range(0, self.B.shape[-2], step):
            rows = slice(start, start + step)
            yield rows, self.B[..., rows, :]


@dataclass(frozen=True, eq=False)
class Delta:
    """A matrix of low rank: a sum of products of two factors, never multiplied out.

    A leading dimension, if any, counts the experts of an MoE layer.
    """

    terms: tuple[Term, ...]

    @classmethod
    def product(cls, B: Tensor, A: Tensor, scaling: float = 1.0) -> Delta:
        """``scaling * B @ A``, B (..., rows, rank), A (..., rank, columns)."""
        return cls((Term(B, A, scaling),))

    @property
    def rank(self) -> int:
        return sum(term.B.shape[-1] for term in self.terms)

    @property
    def shape(self) -> tuple[int, ...]:
        """(..., rows, columns)"""
        return (*self.terms[0].B.shape[:-1], self.terms[0].A.shape[-1])

    def scale_rows(self, weights: Weight) -> Delta:
        """Multiply each row by its weight; ``weights`` is (..., rows) or one number for all."""
        return Delta(tuple(term._replace(weights=term.weights * weights) for term in self.terms))

    def __add__(self, other: Delta) -> Delta:
        """The exact sum; its rank is the sum of the ranks."""
        return Delta(self.terms + other.terms)

    def factors(self, dtype: torch.dtype = torch.float64, rank: int | None = None) -> tuple[Tensor, Tensor]:
        """B (..., rows, rank) with the weights folded in, and A (..., rank, columns), zero-padded to ``rank``.

        Computed in float64 and rounded once; A is copied.
        """
        rank = self.rank if rank is None else rank
        *batch, height, width = self.shape
        B, A = torch.zeros(*batch, height, rank, dtype=dtype), torch.zeros(*batch, rank, width, dtype=dtype)
        start = 0
        for term in self.terms:
            place = slice(start, start := start + term.B.shape[-1])
            for rows, b in term.blocks():
                weights = term.weights[..., rows, None] if isinstance(term.weights, Tensor) else term.weights
                B[..., rows, place] = _double(b) * weights
            A[..., place, :] = term.A
        return B, A

    def dense(self) -> Tensor:
        """The whole matrix in float64, (..., rows, columns). For small cases."""
        B, A = self.factors()
        return B @ A

    def dense_rows(self, sample: Tensor) -> Tensor:
        """Some rows in float64, (sample, columns); rows of MoE experts are counted one expert after the other."""
        total = torch.zeros(len(sample), self.shape[-1], dtype=torch.float64)
        for term in self.terms:
            B, A = term.B.flatten(0, -2)[sample].double(), term.A.double()
            rows = B @ A if A.dim() == 2 else (B[:, None, :] @ A[sample // self.shape[-2]])[:, 0]
            weights = term.weights
            total += rows * (weights.flatten()[sample, None] if isinstance(weights, Tensor) else weights)
        return total

    def row_norms(self) -> Tensor:
        """Euclidean norm of each row, (..., rows) float64. A row that cancels to nothing but rounding has norm 0."""
        (term,) = self.terms if len(self.terms) == 1 else Delta.product(*self.factors()).terms
        if not self.rank:
            return torch.zeros(self.shape[:-1], dtype=torch.float64)
        A = _double(term.A)
        gram = A @ A.mT
        if not gram.isfinite().all():
            raise ExtSubError("an adapter holds numbers whose squares are infinite even in float64: it is damaged")
        spectrum = torch.linalg.eigvalsh(gram)
        if (spectrum[..., 0] > GRAM_LIMIT * spectrum[..., -1]).all():
            # (A A^T) b^T and not b (A A^T): with the long dimension contiguous the product is twice as fast.
            squares = [(gram @ (b := _double(block).mT)).mul_(b).sum(-2) for _, block in term.blocks()]
            norms = torch.cat(squares, -1).sqrt_()
        else:
            # Rows of A are nearly parallel, and A A^T squares that. With A^T = Q R, |b A| = |b R^T|: slower, exact.
            R = torch.linalg.qr(A.mT, mode="r").R
            norms = torch.cat([torch.linalg.vector_norm(b.double() @ R.mT, dim=-1) for _, b in term.blocks()], -1)
            bound = torch.linalg.vector_norm(term.B.double(), dim=-1) * spectrum[..., -1:].sqrt()
            norms = norms.where(norms > 8 * torch.finfo(torch.float64).eps * bound, 0)
        return norms.mul_(term.weights.abs() if isinstance(term.weights, Tensor) else abs(term.weights))

    def row_dots(self, other: Delta) -> Tensor:
        """Inner product of each row with the same row of ``other``, (..., rows) float64."""
        (B, A), (other_B, other_A) = self.factors(), other.factors()
        return ((B @ (A @ other_A.mT)) * other_B).sum(-1)


def _double(tensor: Tensor) -> Tensor:
    """In float64, exactly. Half precision goes by way of float32, for which torch has twice as fast a conversion."""
    return tensor.float().double() if tensor.itemsize < 4 else tensor.double()


class Truncation(NamedTuple):
    """A delta of smaller rank, and what it cost, as sums of squares over the whole matrix."""

    delta: Delta
    squared_error: float
    squared_norm: float


def truncate(delta: Delta, rank: int) -> Truncation:
    """The best approximation of ``delta`` by a matrix of rank ``rank`` (Eckart-Young), without a dense SVD.

    Thin QR of both factors and the SVD of the small core: O((rows + columns) * r^2) for a delta of rank ``r``.
    The singular values are shared evenly between the factors, which keeps both in range of half precision.
    """
    if rank >= delta.rank:
        return Truncation(delta, 0.0, delta.row_norms().square().sum().item())
    B, A = delta.factors()
    Q_B, R_B = torch.linalg.qr(B)
    Q_A, R_A = torch.linalg.qr(A.mT)
    U, S, Vh = torch.linalg.svd(R_B @ R_A.mT, full_matrices=False)
    root = S[..., :rank].sqrt()
    kept = Delta.product((Q_B @ U[..., :rank]) * root[..., None, :], root[..., None] * (Vh[..., :rank, :] @ Q_A.mT))
    return Truncation(kept, S[..., rank:].square().sum().item(), S.square().sum().item())


@dataclass(frozen=True)
class Operation:
    """One way to combine. Callable: ``ext_sub(expert, anti_expert, alpha=1.0)`` takes and gives `Delta`.

    With several anti-experts the changes add up, each against the expert: ``result = e - sum_j alpha_j d_j``.
    """

    name: str
    """As the command line spells it."""

    formula: str
    """The result's row, for people."""

    weights: Callable[[Tensor, Tensor, float], tuple[Weight, Weight]]
    """(row norms of the expert, of the anti-expert, alpha) to the (x, y) that this anti-expert adds: x*e + y*a."""

    keeps_anti_expert: bool = True
    """False where y is always 0, so that the anti-expert's factors are left out of the result."""

    def __call__(self, expert: Delta, *anti_experts: Delta, alpha: float | Sequence[float] = 1.0) -> Delta:
        """Combine deltas of one module; the rank of the result is the sum of the ranks that it keeps."""
        alphas = spread_alpha(alpha, len(anti_experts))
        return weigh(self, expert, anti_experts, row_weights(self, expert, anti_experts, alphas))


def _ext_sub(expert_norms: Tensor, anti_norms: Tensor, alpha: float) -> tuple[Weight, Weight]:
    compared = expert_norms > 0  # a zero expert row has no direction to compare with: it stays 0
    ratio = (anti_norms / expert_norms).where(compared, 0)
    return alpha / 2 * ratio, -alpha / 2 * compared.double()


ext_sub = Operation("ext-sub", "(1 + α/2·|a|/|e|)·e − α/2·a", _ext_sub)
"""The paper's: subtract only what the anti-expert does not share with the expert (Hu et al., AAAI 2024, section 3)."""

subtract = Operation("subtract", "e − α·a", lambda _e, _a, alpha: (0.0, -alpha))
"""Task-arithmetic negation, the paper's baseline (Ilharco et al., 2023)."""

add = Operation("add", "e + α·a", lambda _e, _a, alpha: (0.0, alpha))
"""The paper's other baseline."""

contrast = Operation("contrast", "(1 + α)·e − α·a", lambda _e, _a, alpha: (alpha, -alpha))
"""e + α(e − a): contrastive weight steering (arXiv 2511.05408), CaPE (arXiv 2110.07166)."""

amplify = Operation("amplify", "(1 + α)·e", lambda _e, _a, alpha: (alpha, 0.0), keeps_anti_expert=False)
"""The expert alone, scaled: the control that any claim must beat."""

OPERATIONS: dict[str, Operation] = {
    operation.name: operation for operation in (ext_sub, subtract, add, contrast, amplify)
}


class RowWeights(NamedTuple):
    """What each row of the result is made of: ``expert * e + sum_j anti_experts[j] * a_j``."""

    expert: Tensor
    """(..., rows) float64."""

    anti_experts: list[Tensor]
    """One (..., rows) float64 for each anti-expert."""

    zero_expert_rows: Tensor
    """(..., rows) bool: rows in which the expert has no direction."""

    zero_anti_rows: list[Tensor]
    """One (..., rows) bool for each anti-expert."""


def row_weights(
    operation: Operation, expert: Delta, anti_experts: Sequence[Delta], alphas: Sequence[float]
) -> RowWeights:
    """The two numbers per row (docs/method.md, table of operations) for each anti-expert."""
    expert_norms = expert.row_norms()
    x, ys, zero_anti_rows = torch.ones_like(expert_norms), [], []
    for anti_expert, alpha in zip(anti_experts, alphas, strict=True):
        anti_norms = anti_expert.row_norms()
        more, y = operation.weights(expert_norms, anti_norms, alpha)
        x = x + more
        ys.append(torch.zeros_like(expert_norms) + y)
        zero_anti_rows.append(anti_norms == 0)
    return RowWeights(x, ys, expert_norms == 0, zero_anti_rows)


def weigh(operation: Operation, expert: Delta, anti_experts: Sequence[Delta], weights: RowWeights) -> Delta:
    """``weights`` applied: the rows of the result, as factors."""
    result = expert.scale_rows(weights.expert)
    if operation.keeps_anti_expert:
        for anti_expert, y in zip(anti_experts, weights.anti_experts, strict=True):
            result = result + anti_expert.scale_rows(y)
    return result


def spread_alpha(alpha: float | Sequence[float], anti_experts: int) -> list[float]:
    """One strength for each anti-expert; a single one serves all.

    Raises:
        ExtSubError: their number fits neither, or one is not finite.
    """
    alphas = [float(one) for one in alpha] if isinstance(alpha, Sequence) else [float(alpha)]
    for one in alphas:
        if not math.isfinite(one):
            raise ExtSubError(f"alpha must be a finite number, found {one}")
    if len(alphas) == 1:
        return alphas * anti_experts
    if len(alphas) != anti_experts:
        antis = counted(anti_experts, "anti-expert")
        raise ExtSubError(f"{len(alphas)} values of alpha for {antis}: give one, or one for each")
    return alphas
