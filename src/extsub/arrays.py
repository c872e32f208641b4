"""Numbers as numpy has them, with bfloat16 beside them; torch is never imported here, and its tensors are taken too."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
DType = np.dtype[Any]

FLOAT64, FLOAT32, FLOAT16 = np.dtype(np.float64), np.dtype(np.float32), np.dtype(np.float16)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
DTYPES: dict[str, DType] = {dtype.name: dtype for dtype in (FLOAT64, FLOAT32, FLOAT16, BFLOAT16)}
"""The dtypes that adapters are stored in, by name."""


def as_array(values: Any) -> Array:
    """Numpy's view of an array, a torch tensor on the CPU (bfloat16 included), or whatever has ``__array__``."""
    if type(values).__module__.partition(".")[0] == "torch":
        values = values.detach()
        if str(values.dtype) == "torch.bfloat16":  # which numpy does not know
            return values.contiguous().view(sys.modules["torch"].int16).numpy().view(BFLOAT16)
    return np.asarray(values)


def double(array: Array) -> Array:
    """The array in float64, exactly."""
    return array.astype(FLOAT64, copy=False)


def flat(array: Array) -> Array:
    """An array (..., rows, columns) as (all rows, columns)."""
    return array.reshape(math.prod(array.shape[:-1]), array.shape[-1])


def single(array: Array) -> Array:
    """The array in float32; half precision is kept exactly."""
    if array.dtype == BFLOAT16:  # its bits are the upper half of float32's
        return (array.view(np.uint16).astype(np.uint32) << 16).view(FLOAT32)
    return array.astype(FLOAT32)


def rounded(array: Array, dtype: DType) -> Array:
    """The array in another dtype, to the nearest; to half precision by way of float32, as torch does."""
    with np.errstate(over="ignore"):  # whoever stores numbers looks whether they became infinite
        return (array.astype(FLOAT32, copy=False) if dtype.itemsize < 4 else array).astype(dtype)


def is_finite(array: Array) -> bool:
    """Whether no number is infinite or NaN."""
    if array.dtype.itemsize == 2:  # the bits of the exponent are all set in these
        ones = np.uint16(0x7F80 if array.dtype == BFLOAT16 else 0x7C00)
        return not ((np.ascontiguousarray(array).view(np.uint16) & ones) == ones).any()
    return bool(np.isfinite(array).all())


def finfo(dtype: DType) -> Any:
    """``eps``, ``max`` and ``smallest_normal`` of a dtype."""
    return ml_dtypes.finfo(dtype) if dtype == BFLOAT16 else np.finfo(dtype)


def smallest_common_dtype(dtypes: Sequence[DType]) -> DType:
    """The dtype that holds numbers of all ``dtypes`` exactly, float32 at most (servers take no float64)."""
    common = functools.reduce(promoted, dtypes)
    return FLOAT32 if common == FLOAT64 else common


def promoted(dtype: DType, other: DType) -> DType:
    """The smallest dtype that holds numbers of both exactly."""
    if dtype == other:
        return dtype
    return FLOAT64 if FLOAT64 in (dtype, other) else FLOAT32


def without_numbers(shape: Sequence[int]) -> Array:
    """An array that has a shape, and numbers that nobody looks at: memory is taken when they are written."""
    return np.empty(tuple(shape), np.int8)
