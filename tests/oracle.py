"""The paper on dense float64 matrices, written apart from the package: unit rows, bisector, projection."""

from __future__ import annotations

import torch
from torch import Tensor


def unit(rows: Tensor) -> Tensor:
    norms = rows.norm(dim=-1, keepdim=True)
    return torch.where(norms > 0, rows / torch.where(norms > 0, norms, 1.0), 0.0)


def deficiency(expert: Tensor, anti_expert: Tensor) -> Tensor:
    """What Ext-Sub subtracts at strength 1; zero where the expert's row is zero."""
    common = unit(unit(expert) + unit(anti_expert))
    shared = (anti_expert * common).sum(-1, keepdim=True) * common
    return torch.where(expert.norm(dim=-1, keepdim=True) > 0, anti_expert - shared, 0.0)


def combined(operation: str, expert: Tensor, anti_experts: list[Tensor], alphas: list[float]) -> Tensor:
    """(..., rows, columns) float64"""
    result = expert.clone()
    for anti_expert, alpha in zip(anti_experts, alphas, strict=True):
        match operation:
            case "ext-sub":
                result = result - alpha * deficiency(expert, anti_expert)
            case "subtract":
                result = result - alpha * anti_expert
            case "add":
                result = result + alpha * anti_expert
            case "contrast":
                result = result + alpha * (expert - anti_expert)
            case "amplify":
                result = result + alpha * expert
    return result


def relative_error(ours: Tensor, expected: Tensor) -> float:
    norm = expected.norm()
    return float((ours.double() - expected).norm() / (norm if norm > 0 else 1.0))
