"""What was seen while modules were combined: of one module, and of all of them together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from extsub.arrays import Array

LARGE_AMPLIFICATION = 10
"""Of a row of the expert; adapters that are much alike in strength stay below it."""


@dataclass(frozen=True)
class ModuleFigures:
    """What was seen while one module was combined."""

    rows: int
    zero_expert_rows: Array
    """Which rows of the expert have no direction, counted over MoE experts."""

    zero_anti_rows: list[int]
    amplification: float
    """The largest factor on a row of the expert."""

    amplified: int
    """Rows of the expert whose factor is above ``LARGE_AMPLIFICATION``."""

    squared_error: float
    squared_norm: float
    """Of the truncation, both 0 without."""


def zero_anti_rows(seen: Mapping[str, ModuleFigures]) -> list[int]:
    """How many rows of each anti-expert have no direction."""
    return [sum(rows) for rows in zip(*(figures.zero_anti_rows for figures in seen.values()), strict=True)]


def truncation(seen: Mapping[str, ModuleFigures], rank: int) -> dict[str, Any]:
    """What truncating to ``rank`` cost: relative errors in the Frobenius norm."""
    errors = {
        name: math.sqrt(figures.squared_error / figures.squared_norm) if figures.squared_norm else 0.0
        for name, figures in seen.items()
    }
    norm = sum(figures.squared_norm for figures in seen.values())
    worst = max(errors, key=errors.__getitem__)
    return {
        "rank": rank,
        "relative_error": math.sqrt(sum(figures.squared_error for figures in seen.values()) / norm) if norm else 0.0,
        "worst": {"relative_error": errors[worst], "module": worst},
    }
