"""Is what was written what was meant? Sampled rows of every module, against the paper's formula on dense rows.

Written apart from algebra.py on purpose: unit vectors and a projection instead of the closed form, dense rows in
float64 instead of factors, numbers from the file that was just written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from extsub.adapters.adapter import Adapter
from extsub.algebra import BUILT_IN, Delta, Operation, Weight
from extsub.arrays import FLOAT64, Array, DType, double, finfo, flat
from extsub.combination.figures import ModuleFigures
from extsub.parallel import in_order

if TYPE_CHECKING:
    from extsub.combination.combination import Combination

ROWS = 4
"""Sampled in each module."""


def verify(meant: Combination, written: Adapter, seen: Mapping[str, ModuleFigures]) -> dict[str, Any]:
    """Compare ``written`` with what is ``meant``.

    Args:
        seen: what was seen while its modules were computed.

    Returns the number of rows compared and the largest error, relative to the size of the row's terms.

    Raises:
        RuntimeError: a module, or a number beyond the rounding of the storage dtype, is wrong. That is a bug.
    """
    names = meant.matched.modules.keys()
    if written.modules.keys() != names:
        raise RuntimeError("the written file has other modules than the result: please report this")
    dtype = written.dtype

    def check(name: str) -> tuple[float, int]:
        delta = written.modules[name].read()
        if seen[name].squared_error:
            # The exact result against the dense formula, and what was written against the exact result.
            exact, _ = meant.exact(name)
            _require(name, *_truncation_error(exact, seen[name], delta, dtype))
            delta, storage = Delta.product(*exact.factors()), FLOAT64
        else:
            storage = dtype
        error, allowed, rows = _row_error(meant, name, seen[name], written.modules[name].layout.neutral, delta, storage)
        _require(name, error, allowed)
        return error, rows

    checked = list(in_order(check, names))
    return {"rows": sum(rows for _, rows in checked), "largest_relative_error": max(error for error, _ in checked)}


def _require(name: str, error: float, allowed: float) -> None:
    if not error <= allowed:
        raise RuntimeError(f"{name} was written wrongly: error {error:.3g}, allowed {allowed:.3g}: please report this")


def _row_error(
    meant: Combination, name: str, figures: ModuleFigures, neutral: float, written: Delta, dtype: DType
) -> tuple[float, float, int]:
    """(largest relative error, what rounding allows, rows compared) of sampled rows of one module."""
    expert, anti_experts = meant.deltas(name)
    rows = math.prod(written.shape[:-1])
    sample = sampled(rows)
    e, *others = (delta.dense_rows(sample) for delta in (expert, *anti_experts))
    if len(zero_rows := figures.zero_expert_rows):
        # A row that cancels counts as zero by definition; on dense rows its rounding errors would pass for a direction.
        e[np.isin(sample, zero_rows)] = 0
    wanted = dense_rows(meant.operation, e, others, meant.alphas_of(name))
    if meant.deficiency:
        wanted = e - wanted
    (term,) = written.terms
    term = term._replace(A=double(term.A))  # once for both uses
    error = _norms(Delta((term,)).dense_rows(sample) - wanted)
    # What storing B and A can change: half a unit in the last place of each, or of the smallest number at all.
    limits = finfo(dtype)
    sizes = _norms(term.A)  # (..., rank)
    sizes = sizes[sample // written.shape[-2]] if sizes.ndim == 2 else sizes
    B = np.abs(double(flat(term.B)[sample]))
    eps, smallest = float(limits.eps), float(limits.smallest_normal)
    allowed = 2 * eps * (B * sizes).sum(-1) + smallest * eps * sizes.sum(-1)
    allowed = allowed + neutral * eps * written.shape[-1] ** 0.5
    scale = np.max([_norms(rows) for rows in (e, *others, wanted)], axis=0)
    allowed = allowed + 1e-12 * scale  # rounding of the dense formula itself
    nonzero = scale > 0
    if (error[~nonzero] > allowed[~nonzero]).any():
        return float("inf"), 0.0, len(sample)
    relative, limit = error[nonzero] / scale[nonzero], allowed[nonzero] / scale[nonzero]
    if not len(relative):
        return 0.0, 0.0, len(sample)
    worst = int((relative - limit).argmax())
    if relative[worst] > limit[worst]:
        return float(relative[worst]), float(limit[worst]), len(sample)
    return float(relative.max()), float("inf"), len(sample)


@lru_cache
def sampled(rows: int) -> Array:
    """Which of so many rows are compared: `ROWS` of them at most, evenly spread."""
    return np.unique(((np.arange(ROWS) + 1 / 3) * rows / ROWS).astype(int))


def _truncation_error(exact: Delta, figures: ModuleFigures, written: Delta, dtype: DType) -> tuple[float, float]:
    """(relative error, allowed) of a truncated module: is its distance from the exact result the one reported?"""
    distance = (exact + written.scale_rows(-1.0)).row_norms()
    error = abs(float(np.linalg.norm(distance)) - figures.squared_error**0.5) / figures.squared_norm**0.5
    return error, 4 * float(finfo(dtype).eps) * written.rank**0.5


def dense_rows(operation: Operation, e: Array, anti_experts: Sequence[Array], alphas: Sequence[float]) -> Array:
    """An operation on dense rows (rows, columns) in float64: as the paper writes it, or by the weights of one's own."""
    result = e.copy()
    for a, alpha in zip(anti_experts, alphas, strict=True):
        if any(operation is built_in for built_in in BUILT_IN):
            result = result + alpha * _change(operation.name, e, a)
        else:
            x, y = operation.weights(_norms(e), _norms(a), alpha)
            result = result + _column(x) * e + _column(y) * a
    return result


def _change(name: str, e: Array, a: Array) -> Array:
    """What one anti-expert at strength 1 does to the expert."""
    if name == "ext-sub":
        between = _unit(e) + _unit(a)
        # Opposite rows share nothing: what is left of their sum is rounding, without a direction.
        bisector = _unit(np.where(_norms(between)[:, None] > 1e-7, between, 0))
        shared = (a * bisector).sum(1, keepdims=True) * bisector
        return (shared - a) * (_norms(e)[:, None] > 0)
    return {"subtract": -a, "add": a, "contrast": e - a, "amplify": e}[name]


def _unit(rows: Array) -> Array:
    """Rows of length 1; zero rows stay zero."""
    norms = _norms(rows)[:, None]
    return rows / np.where(norms > 0, norms, 1)


def _norms(rows: Array) -> Array:
    return np.sqrt(np.einsum("...i,...i->...", rows, rows))


def _column(weights: Weight) -> Weight:
    return weights[:, None] if isinstance(weights, np.ndarray) else weights
