"""What an adapter does to one tensor of a checkpoint, some rows at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from extsub.adapters.adapter import Module
from extsub.arrays import Array, DType, flat

Factors = Callable[[DType], tuple[Array, Array]]
"""(B with the scaling folded in, A) of a delta in a dtype."""


class Matrices(NamedTuple):
    """A tensor as so many matrices, one below the other: the experts of a fused parameter, else one."""

    count: int
    rows: int
    columns: int


@dataclass(frozen=True, eq=False)
class Sum:
    """The delta of a LoRA is added: all of it, or the part of fused experts that this tensor has."""

    matrices: Matrices
    factors: Factors
    transposed: bool = False
    """Whether the weight is stored as (inputs, outputs), as Conv1D does."""
    expert: int | None = None
    """Whose delta it is, where each expert has a tensor of its own."""
    first: int = 0
    """The row of that delta at which the tensor begins."""

    def apply(self, numbers: Array, matrix: int, rows: slice) -> Array:
        """These rows of one matrix, changed. ``numbers`` may be written into."""
        B, A = self.factors(numbers.dtype)
        if B.ndim == 3:
            expert = matrix if self.expert is None else self.expert
            B, A = B[expert], A[expert]
        if self.transposed:
            B, A = A.mT, B.mT
        numbers += B[self.first + rows.start : self.first + rows.stop] @ A
        return numbers


@dataclass(frozen=True, eq=False)
class Scale:
    """The vector of an IA3 multiplies rows or columns."""

    matrices: Matrices
    module: Module
    rowwise: bool

    @cached_property
    def vector(self) -> Array:
        """One number for each row, or column, in float64; the delta is what it has beyond 1."""
        vector = 1 + self.module.read().dense()[0]
        return vector if self.rowwise else np.repeat(vector, self.matrices.columns // len(vector))

    def apply(self, numbers: Array, matrix: int, rows: slice) -> Array:
        """These rows, changed. ``numbers`` may be written into."""
        vector = self.vector.astype(numbers.dtype)
        numbers *= vector[rows, None] if self.rowwise else vector
        return numbers


@dataclass(frozen=True, eq=False)
class Replacement:
    """A tensor that the adapter stores whole takes the place of the base's."""

    matrices: Matrices
    read: Callable[[], Array]

    def apply(self, numbers: Array, matrix: int, rows: slice) -> Array:
        """These rows of the adapter's tensor."""
        whole = self.read()
        return flat(whole.reshape(self.matrices))[rows].astype(numbers.dtype)


Change = Sum | Scale | Replacement
