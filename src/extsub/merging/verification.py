"""Is what was written what was meant? Sampled rows of every tensor, read from the disk again, against base and adapter
multiplied out in float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from extsub.adapters.tensors import DTYPES
from extsub.algebra import Delta
from extsub.arrays import FLOAT32, FLOAT64, Array, double, finfo, rounded
from extsub.combination.verification import ROWS, sampled
from extsub.merging.changes import Change, Replacement, Scale, Sum
from extsub.merging.checkpoint import Tensor
from extsub.merging.writing import Output, Piece
from extsub.parallel import in_order

BYTES = 4096
"""Of a sample of what was only copied."""


def verify(outputs: Sequence[Output], written: Mapping[str, Tensor]) -> dict[str, Any]:
    """Compare what was ``written``, by key, with what is meant.

    Returns the number of rows compared and the largest error, relative to the size of the row.

    Raises:
        RuntimeError: a tensor is missing, or wrong beyond the rounding of its dtype. That is a bug.
    """
    meant = {output.key: (output.dtype, output.tensor.shape) for output in outputs}
    if meant != {key: (tensor.dtype, tensor.shape) for key, tensor in written.items()}:
        raise RuntimeError("the files that were written have other tensors than the merged model: please report this")
    checked = list(in_order(lambda output: _check(output, written[output.key]), outputs))
    return {"rows": sum(rows for rows, _ in checked), "largest_relative_error": max(error for _, error in checked)}


def _check(output: Output, written: Tensor) -> tuple[int, float]:
    """(rows compared, the largest relative error of one)"""
    if output.is_copied:
        for start in np.linspace(0, max(0, written.size - BYTES), ROWS).astype(int).tolist():
            size = min(BYTES, written.size)
            if not np.array_equal(output.tensor.bytes(start, size), written.bytes(start, size)):
                raise RuntimeError(f"{output.key} was copied wrongly: please report this")
        return 0, 0.0
    if not output.tensor.count:
        return 0, 0.0
    count, height, columns = output.matrices
    sample = sampled(count * height)
    pieces = [Piece(row // height, slice(row % height, row % height + 1)) for row in sample.tolist()]
    before = double(np.concatenate([output.stored(piece) for piece in pieces]))
    after = double(np.stack([written.numbers(row * columns, columns) for row in sample.tolist()]))
    if output.change is None:  # another dtype, perhaps of NaN and infinity
        if not np.array_equal(after, double(rounded(before, DTYPES[output.dtype])), equal_nan=True):
            raise RuntimeError(f"{output.key} was converted wrongly: please report this")
        return 0, 0.0
    expected, rounding = _expected(output.change, output, before, sample)
    limits = finfo(DTYPES[output.dtype])
    allowed = float(limits.eps) * np.abs(expected) + float(limits.smallest_normal * limits.eps) + rounding
    error = np.abs(after - expected)
    if not (error <= allowed).all():
        raise RuntimeError(f"{output.key} was written wrongly, by {float(error.max()):.3g}: please report this")
    norms = np.linalg.norm(expected, axis=1)
    relative = np.linalg.norm(after - expected, axis=1)[norms > 0] / norms[norms > 0]
    return len(sample), float(relative.max(initial=0.0))


def _expected(change: Change, output: Output, before: Array, sample: Array) -> tuple[Array, Array]:
    """(rows in float64, what computing them in a narrower dtype may have changed)"""
    narrow = FLOAT64 if "F64" in (output.dtype, output.tensor.dtype) else FLOAT32
    eps = float(np.finfo(narrow).eps)
    match change:
        case Sum():
            B, A = change.factors(FLOAT64)
            if change.transposed:
                B, A = A.mT, B.mT
            rows = sample + (change.expert or 0) * B.shape[-2] + change.first
            sizes = Delta.product(np.abs(B), np.abs(A)).dense_rows(rows) + np.abs(before)
            return before + Delta.product(B, A).dense_rows(rows), eps * (A.shape[-2] + 4) * sizes
        case Scale():
            vector = change.vector
            expected = before * (vector[sample, None] if change.rowwise else vector)
            return expected, 4 * eps * np.abs(expected)
        case Replacement():
            expected = double(change.read().reshape(-1, output.matrices.columns)[sample])
            return expected, np.zeros_like(expected)
