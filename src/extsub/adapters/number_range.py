"""Do numbers fit the dtype they are stored in?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from extsub.algebra import Delta
from extsub.arrays import FLOAT16, FLOAT32, Array, DType, finfo, is_finite, single
from extsub.errors import ExtSubError
from extsub.escaping import brief


class RangeError(ExtSubError):
    """A number is beyond the range of the storage dtype."""


def factors_in_range(delta: Delta, dtype: DType, rank: int, name: str) -> tuple[Array, Array]:
    """B and A of a delta, zero-padded to ``rank``, as they are stored.

    Args:
        name: of the module, for the message.

    Raises:
        RangeError: as `check_range`.
    """
    B, A = delta.factors(dtype, rank)
    check_range(B, lambda: delta.factors(rank=rank)[0], name)
    check_range(A, lambda: delta.factors(rank=rank)[1], name)
    return B, A


def check_range(stored: Array, exact: Callable[[], Array], name: str) -> None:
    """Raises RangeError where rounding to the storage dtype made a number infinite, or left a row without digits.

    Args:
        exact: the same numbers in float64; asked only where some are small.
        name: of the module, for the message.
    """
    if not stored.size:
        return
    dtype = stored.dtype.name
    advice = "choose --dtype float32" if stored.dtype != FLOAT32 else "lower alpha, or check the adapters"
    if not is_finite(stored):
        raise RangeError(f"{brief(name)} has numbers too large for {dtype}: {advice}")
    if stored.dtype == FLOAT16:  # the only one whose smallest numbers adapters come near
        limit = float(finfo(stored.dtype).smallest_normal) / 16  # below it, 6 of 11 bits are left
        small = np.abs(single(stored[..., 0])) < limit  # the largest of a short row is slow to find: look at few rows
        small[small] = np.abs(single(stored[small])).max(-1) < limit
        if small.any() and exact()[small].any():
            raise RangeError(f"{brief(name)} has rows too small for {dtype}: {advice}")
