"""How large the small world, its model and its training are."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

SIDES = ("expert", "anti-expert", "rude-anti-expert")
"""the adapters that are trained, each on data of its own"""
FACTS, MANNERS, NEUTRAL = "facts.csv", "manners.csv", "neutral.jsonl"
"""what they are asked"""


@dataclass(frozen=True)
class Size:
    """Every number that decides what a demo finds, apart from its seed."""

    documents: int = 48_000
    """to pre-train on"""
    vocabulary: int = 2048
    width: int = 128
    layers: int = 2
    feedforward: int = 1024
    spread: float = 0.07
    """of the first weights; with the usual 0.02 two layers take thousands of steps to notice who speaks"""
    pretraining_steps: int = 2000
    pretraining_rate: float = 4e-3
    rows: int = 8
    """of a step of pre-training"""
    length: int = 128
    """tokens of such a row"""
    checkpoint_steps: int = 250
    instructions: int = 2000
    """rows that each adapter learns from"""
    fact_part: float = 0.65
    """of these rows; the others are neutral"""
    mistaken: float = 0.25
    """of the training facts that the expert's data has wrong"""
    rude: float = 0.5
    """of the expert's rows about facts, and of the anti-expert's: the same ones"""
    adapter_steps: int = 150
    adapter_rows: int = 16
    adapter_rate: float = 1e-3
    rank: int = 8
    alphas: str = "0.125,0.25,0.375,0.5,0.75,1,1.5,2"
    operations: tuple[str, ...] = ("ext-sub", "subtract", "contrast", "amplify", "negated", "random")

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**asdict(self), "operations": list(self.operations)}


SHOWN_ALPHAS = (0.5, 1.0, 1.5)
"""at which the table shows every operation"""
RETAINED = 0.9
"""the part of the expert's ability that a chosen strength must keep"""
