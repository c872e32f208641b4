"""Is what was written what was meant? Sampled rows of every module, against the paper's formula on dense rows.

Written apart from algebra.py on purpose: unit vectors and a projection instead of the closed form, dense rows in
float64 instead of factors, numbers from the file that was just written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from extsub.adapters.adapter import Adapter
from extsub.algebra import Delta
from extsub.parallel import in_order

if TYPE_CHECKING:
    from extsub.combination import Combination

ROWS = 4
"""Sampled in each module."""


def verify(combination: Combination, written: Adapter) -> dict[str, Any]:
    """Compare ``written`` with what ``combination`` means.

    Returns the number of rows compared and the largest error, relative to the size of the row's terms.

    Raises:
        RuntimeError: a module, or a number beyond the rounding of the storage dtype, is wrong. That is a bug.
    """
    if set(written.modules) != set(combination.matched.modules):
        raise RuntimeError("the written file has other modules than the result: please report this")
    dtype = written.dtype

    def check(name: str) -> tuple[float, int]:
        delta = written.modules[name].read()
        if combination.seen[name].squared_error:
            # The exact result against the dense formula, and what was written against the exact result.
            _require(name, *_truncation_error(combination, name, delta, dtype))
            delta, storage = Delta.product(*combination.exact(name)[0].factors()), torch.float64
        else:
            storage = dtype
        error, allowed, rows = _row_error(combination, name, delta, storage)
        _require(name, error, allowed)
        return error, rows

    checked = list(in_order(check, combination.matched.modules))
    return {"rows": sum(rows for _, rows in checked), "largest_relative_error": max(error for error, _ in checked)}


def _require(name: str, error: float, allowed: float) -> None:
    if not error <= allowed:
        raise RuntimeError(f"{name} was written wrongly: error {error:.3g}, allowed {allowed:.3g}: please report this")


def _row_error(combination: Combination, name: str, written: Delta, dtype: torch.dtype) -> tuple[float, float, int]:
    """(largest relative error, what rounding allows, rows compared) of sampled rows of one module."""
    expert, anti_experts = combination.deltas(name)
    rows = math.prod(written.shape[:-1])
    sample = _sample(rows)
    e, *others = (delta.dense_rows(sample) for delta in (expert, *anti_experts))
    if len(zero_rows := combination.seen[name].zero_expert_rows):
        # A row that cancels counts as zero by definition; on dense rows its rounding errors would pass for a direction.
        e[torch.isin(sample, zero_rows)] = 0
    if combination.deficiency:
        meant = e - dense_rows(combination.operation.name, e, others, [1.0] * len(others))
    else:
        meant = dense_rows(combination.operation.name, e, others, combination.alphas_of(name))
    error = (written.dense_rows(sample) - meant).norm(dim=1)
    # What storing B and A can change: half a unit in the last place of each, or of the smallest number at all.
    limits = torch.finfo(dtype)
    (term,) = written.terms
    sizes = torch.linalg.vector_norm(term.A, dim=-1, dtype=torch.float64)  # (..., rank)
    sizes = sizes[sample // written.shape[-2]] if sizes.dim() == 2 else sizes
    B = term.B.flatten(0, -2)[sample].double().abs()
    allowed = 2 * limits.eps * (B * sizes).sum(-1) + limits.smallest_normal * limits.eps * sizes.sum(-1)
    if combination.expert.kind == "IA3":
        allowed = allowed + limits.eps * written.shape[-1] ** 0.5  # IA3 stores 1 + row
    scale = torch.stack([row.norm(dim=1) for row in (e, *others, meant)]).amax(0)
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
def _sample(rows: int) -> Tensor:
    """Which of so many rows are compared: evenly spread."""
    return torch.unique(((torch.arange(ROWS) + 1 / 3) * rows / ROWS).long())


def _truncation_error(combination: Combination, name: str, written: Delta, dtype: torch.dtype) -> tuple[float, float]:
    """(relative error, allowed) of a truncated module: is its distance from the exact result the one reported?"""
    exact, _ = combination.exact(name)
    figures = combination.seen[name]
    distance = (exact + written.scale_rows(-1.0)).row_norms().square().sum().item() ** 0.5
    error = abs(distance - figures.squared_error**0.5) / figures.squared_norm**0.5
    return error, 4 * torch.finfo(dtype).eps * written.rank**0.5


def dense_rows(operation: str, e: Tensor, anti_experts: Sequence[Tensor], alphas: Sequence[float]) -> Tensor:
    """The operations on dense rows (rows, columns) in float64, as the paper writes them."""
    result = e.clone()
    for a, alpha in zip(anti_experts, alphas, strict=True):
        result = result + alpha * _change(operation, e, a)
    return result


def _change(operation: str, e: Tensor, a: Tensor) -> Tensor:
    """What one anti-expert at strength 1 does to the expert."""
    if operation == "ext-sub":
        between = _unit(e) + _unit(a)
        # Opposite rows share nothing: what is left of their sum is rounding, without a direction.
        bisector = _unit(between.where(between.norm(dim=1, keepdim=True) > 1e-7, 0))
        shared = (a * bisector).sum(1, keepdim=True) * bisector
        return (shared - a) * (e.norm(dim=1, keepdim=True) > 0)
    return {"subtract": -a, "add": a, "contrast": e - a, "amplify": e}[operation]


def _unit(rows: Tensor) -> Tensor:
    """Rows of length 1; zero rows stay zero."""
    norms = rows.norm(dim=1, keepdim=True)
    return rows / norms.where(norms > 0, 1)
