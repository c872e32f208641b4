"""Exact arithmetic on deltas. A delta is what an adapter adds to one weight: ``B @ A``.

Every operation gives two numbers per row, ``result = x*e + y*a``, and scaling the rows of ``B @ A`` is scaling the
rows of ``B``. So results stay factored, nothing of the size of the base weight is built, and ``A`` passes through
unchanged. This file knows nothing of files, PEFT or configs. The proofs are in docs/method.md.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from extsub.arrays import FLOAT32, FLOAT64, Array, DType, as_array, double, flat, rounded
from extsub.errors import ExtSubError, counted

# Smallest to largest eigenvalue of A A^T. Below it the Gram form of a row norm could lose more than 6 of 16 digits.
GRAM_LIMIT = 1e-6

# Numbers of B at a time: what fits a processor's cache in float64. Whole matrices took five times as long.
BLOCK = 3 << 12

Weight = Array | float


class Term(NamedTuple):
    """``diag(weights) @ B @ A``. The factors are as they were stored; only products with the weights are float64."""

    B: Array
    """(..., rows, rank)"""

    A: Array
    """(..., rank, columns)"""

    weights: Weight
    """(..., rows) float64, or one number for all rows."""

    def blocks(self) -> Iterator[tuple[slice, Array]]:
        """The rows of ``B``, some at a time: (which they are, the rows)."""
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
    def product(cls, B: Any, A: Any, scaling: float = 1.0) -> Delta:
        """``scaling * B @ A``, B (..., rows, rank), A (..., rank, columns): arrays, or torch tensors on the CPU."""
        return cls((Term(as_array(B), as_array(A), scaling),))

    @property
    def rank(self) -> int:
        return sum(term.B.shape[-1] for term in self.terms)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole matrix, (..., rows, columns)."""
        return (*self.terms[0].B.shape[:-1], self.terms[0].A.shape[-1])

    def scale_rows(self, weights: Weight) -> Delta:
        """Multiply each row by its weight; ``weights`` is (..., rows) or one number for all."""
        weights = weights if isinstance(weights, (int, float)) else as_array(weights)
        return Delta(tuple(term._replace(weights=term.weights * weights) for term in self.terms))

    def __add__(self, other: Delta) -> Delta:
        """The exact sum; its rank is the sum of the ranks."""
        return Delta(self.terms + other.terms)

    def factors(self, dtype: DType = FLOAT64, rank: int | None = None) -> tuple[Array, Array]:
        """B (..., rows, rank) with the weights folded in, and A (..., rank, columns), zero-padded to ``rank``.

        Computed in float64 and rounded once; A is copied.
        """
        rank = self.rank if rank is None else rank
        *batch, height, width = self.shape
        B, A = np.zeros((*batch, height, rank), dtype), np.zeros((*batch, rank, width), dtype)
        start = 0
        for term in self.terms:
            place = slice(start, start := start + term.B.shape[-1])
            weights = term.weights[..., None] if isinstance(term.weights, np.ndarray) else term.weights
            # numpy converts as it goes: no copy in float64. Half precision comes by way of float32, as in torch.
            single = np.empty(term.B.shape, max(dtype, FLOAT32, key=lambda candidate: candidate.itemsize))
            with np.errstate(over="ignore"):  # whoever stores numbers looks whether they became infinite
                B[..., place] = np.multiply(term.B, weights, out=single, dtype=FLOAT64, casting="unsafe")
            A[..., place, :] = term.A if term.A.dtype == dtype else rounded(double(term.A), dtype)
        return B, A

    def dense(self) -> Array:
        """The whole matrix in float64, (..., rows, columns). For small cases."""
        B, A = self.factors()
        return B @ A

    def dense_rows(self, sample: Array) -> Array:
        """Some rows in float64, (sample, columns); rows of MoE experts are counted one expert after the other."""
        total = np.zeros((len(sample), self.shape[-1]))
        for term in self.terms:
            B, A = double(flat(term.B)[sample]), double(term.A)
            rows = B @ A if A.ndim == 2 else (B[:, None, :] @ A[sample // self.shape[-2]])[:, 0]
            weights = term.weights
            total += rows * (weights.reshape(-1)[sample, None] if isinstance(weights, np.ndarray) else weights)
        return total

    def row_norms(self) -> Array:
        """Euclidean norm of each row, (..., rows) float64. A row that cancels to nothing but rounding has norm 0."""
        (term,) = self.terms if len(self.terms) == 1 else Delta.product(*self.factors()).terms
        if not self.rank:
            return np.zeros(self.shape[:-1])
        A = double(term.A)
        with np.errstate(over="ignore", invalid="ignore"):
            gram = A @ A.mT
        if not np.isfinite(gram).all():
            raise ExtSubError("an adapter holds numbers whose squares are infinite even in float64: it is damaged")
        spectrum = np.linalg.eigvalsh(gram)
        well = (spectrum[..., 0] > GRAM_LIMIT * spectrum[..., -1]).all()
        # |b A| = |b R| for any R R^T = A A^T. Where rows of A are nearly parallel, A A^T squares that: slower, exact.
        R = np.linalg.cholesky(gram) if well else np.asarray(np.linalg.qr(A.mT, mode="r")).mT
        norms = np.empty(self.shape[:-1])
        for rows, block in term.blocks():
            projected = double(block) @ R
            np.sqrt(np.einsum("...ij,...ij->...i", projected, projected), out=norms[..., rows])
        if not well:
            bound = np.linalg.norm(double(term.B), axis=-1) * np.sqrt(np.maximum(spectrum[..., -1:], 0))
            norms = np.where(norms > 8 * np.finfo(np.float64).eps * bound, norms, 0.0)
        return norms * np.abs(term.weights)

    def row_dots(self, other: Delta) -> Array:
        """Inner product of each row with the same row of ``other``, (..., rows) float64."""
        (B, A), (other_B, other_A) = self.factors(), other.factors()
        return ((B @ (A @ other_A.mT)) * other_B).sum(-1)


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
        return Truncation(delta, 0.0, float((delta.row_norms() ** 2).sum()))
    B, A = delta.factors()
    Q_B, R_B = np.linalg.qr(B)
    Q_A, R_A = np.linalg.qr(A.mT)
    U, S, Vh = np.linalg.svd(R_B @ R_A.mT, full_matrices=False)
    root = np.sqrt(S[..., :rank])
    kept = Delta.product((Q_B @ U[..., :rank]) * root[..., None, :], root[..., None] * (Vh[..., :rank, :] @ Q_A.mT))
    return Truncation(kept, float((S[..., rank:] ** 2).sum()), float((S**2).sum()))


@dataclass(frozen=True)
class Operation:
    """One way to combine. Callable: ``ext_sub(expert, anti_expert, alpha=1.0)`` takes and gives `Delta`.

    With several anti-experts the changes add up, each against the expert: ``result = e - sum_j alpha_j d_j``.
    """

    name: str
    """As the command line spells it."""

    formula: str
    """The result's row, for people."""

    weights: Callable[[Array, Array, float], tuple[Weight, Weight]]
    """(row norms of the expert, of the anti-expert, alpha) to the (x, y) that this anti-expert adds: x*e + y*a."""

    keeps_anti_expert: bool = True
    """False where y is always 0, so that the anti-expert's factors are left out of the result."""

    def __call__(self, expert: Delta, *anti_experts: Delta, alpha: float | Sequence[float] = 1.0) -> Delta:
        """Combine deltas of one module; the rank of the result is the sum of the ranks that it keeps."""
        alphas = spread_alpha(alpha, len(anti_experts))
        return weigh(self, expert, anti_experts, row_weights(self, expert, anti_experts, alphas))


def _ext_sub(expert_norms: Array, anti_norms: Array, alpha: float) -> tuple[Weight, Weight]:
    compared = expert_norms > 0  # a zero expert row has no direction to compare with: it stays 0
    ratio = np.divide(anti_norms, expert_norms, out=np.zeros_like(expert_norms), where=compared)
    return alpha / 2 * ratio, -alpha / 2 * compared


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

BUILT_IN = (ext_sub, subtract, add, contrast, amplify)
OPERATIONS: dict[str, Operation] = {operation.name: operation for operation in BUILT_IN}
"""Every operation that is known by a name: those of extsub, and what `register_operation` adds."""
RESERVED = ("base", "expert", "anti-expert", "negated", "random", "icd", "dexperts", "prompt")
"""Names that a sweep gives to models, controls and methods of reference."""


def register_operation(operation: Operation) -> None:
    """Make an operation known under its name, to `combine`, `sweep`, `Dial` and the commands of this process.

    Call it in a file that ``--operation-file`` (or ``--task-file``) names, or name an `Operation` in an entry point of
    the group ``extsub.operations``. What it makes is verified through its own weights.

    Raises:
        ExtSubError: another operation has this name, or no folder and no point of a sweep can be called by it.
    """
    if not re.fullmatch(r"[a-z][a-z0-9-]*", operation.name) or operation.name in RESERVED:
        raise ExtSubError(
            f"an operation cannot be called {operation.name!r}: take lower-case letters, digits and -, and none of "
            f"{', '.join(RESERVED)}"
        )
    if OPERATIONS.setdefault(operation.name, operation) is not operation:
        raise ExtSubError(f"there is an operation called {operation.name} already: give yours another name")


class RowWeights(NamedTuple):
    """What each row of the result is made of: ``expert * e + sum_j anti_experts[j] * a_j``."""

    expert: Array
    """(..., rows) float64."""

    anti_experts: list[Array]
    """One (..., rows) float64 for each anti-expert."""

    zero_expert_rows: Array
    """(..., rows) bool: rows in which the expert has no direction."""

    zero_anti_rows: list[Array]
    """One (..., rows) bool for each anti-expert."""


def row_weights(
    operation: Operation, expert: Delta, anti_experts: Sequence[Delta], alphas: Sequence[float]
) -> RowWeights:
    """The two numbers per row (docs/method.md, table of operations) for each anti-expert."""
    expert_norms = expert.row_norms()
    x, ys, zero_anti_rows = np.ones_like(expert_norms), [], []
    for anti_expert, alpha in zip(anti_experts, alphas, strict=True):
        anti_norms = anti_expert.row_norms()
        more, y = operation.weights(expert_norms, anti_norms, alpha)
        x = x + more
        ys.append(np.zeros_like(expert_norms) + y)
        zero_anti_rows.append(anti_norms == 0)
    return RowWeights(x, ys, expert_norms == 0, zero_anti_rows)


def weigh(operation: Operation, expert: Delta, anti_experts: Sequence[Delta], weights: RowWeights) -> Delta:
    """The result, as factors: the rows of the expert and of its anti-experts, weighted and added up."""
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
    alphas = [float(strength) for strength in alpha] if isinstance(alpha, Sequence) else [float(alpha)]
    for strength in alphas:
        if not math.isfinite(strength):
            raise ExtSubError(f"alpha must be a finite number, found {strength}")
    if len(alphas) == 1:
        return alphas * anti_experts
    if len(alphas) != anti_experts:
        antis = counted(anti_experts, "anti-expert")
        raise ExtSubError(f"{len(alphas)} values of alpha for {antis}: give one, or one for each")
    return alphas
