"""Where the dial is set in a sweep: the models to start from, every operation at every strength, and the controls."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from extsub.adapters.adapter import Adapter, Module
from extsub.algebra import OPERATIONS, Delta
from extsub.errors import ExtSubError

if TYPE_CHECKING:
    from extsub.dial import Dial

CONTROLS = ("negated", "random")
"""the anti-expert alone, negated; ext-sub with a random anti-expert of equal row norms"""
MOST_ALPHAS = 1000


@dataclass(frozen=True)
class Position:
    """One model of a sweep."""

    operation: str
    """``base``, ``expert``, ``anti-expert``, an operation, or a control"""
    alpha: float | None = None

    @property
    def label(self) -> str:
        return self.operation if self.alpha is None else f"{self.operation}-{self.alpha:g}"

    def turn(self, dial: Dial, anti_experts: int) -> None:
        """Set a dial to it, to which a random anti-expert is attached as the last one."""
        if self.alpha is None:
            dial.set_parts(
                *{"base": (0.0,), "expert": (1.0,), "anti-expert": (0.0, *[1.0] * anti_experts)}[self.operation]
            )
        elif self.operation == "negated":
            dial.set_parts(0.0, *[-self.alpha] * anti_experts)
        elif self.operation == "random":
            dial.set("ext-sub", [*[0.0] * anti_experts, self.alpha])
        else:
            dial.set(self.operation, [*[self.alpha] * anti_experts, 0.0])


def positions(operations: tuple[str, ...], alphas: tuple[float, ...]) -> list[Position]:
    """All positions. α = 0 is the expert, whatever the operation, and is not asked twice.

    Raises:
        ExtSubError: an operation is unknown.
    """
    for operation in operations:
        if operation not in (*OPERATIONS, *CONTROLS):
            raise ExtSubError(f"--operations {operation}: there are {', '.join((*OPERATIONS, *CONTROLS))}")
    found = [Position("base"), Position("expert"), Position("anti-expert")]
    found += [Position(operation, alpha) for operation in operations for alpha in alphas if alpha]
    return list(dict.fromkeys(found))


def parse_alphas(given: str) -> tuple[float, ...]:
    """``0:3:0.25`` (from, to, step; both ends count) or ``0.5,1,2``.

    Raises:
        ExtSubError: it is neither.
    """
    number = r"-?\d*\.?\d+"
    if match := re.fullmatch(rf"({number}):({number}):({number})", given):
        first, last, step = (float(one) for one in match.groups())
        count = round((last - first) / step) + 1 if step else 0
        if not 0 < count <= MOST_ALPHAS:
            raise ExtSubError(f"--alphas {given}: from {first:g} to {last:g} in steps of {step:g} is no grid")
        return tuple(round(first + place * step, 10) for place in range(count) if first + place * step <= last + 1e-9)
    if re.fullmatch(rf"{number}(,{number})*", given):
        return tuple(dict.fromkeys(float(one) for one in given.split(",")))
    raise ExtSubError(f"--alphas {given}: expected FROM:TO:STEP (0:3:0.25) or values (0.5,1,2)")


def randomised(adapter: Adapter, seed: int) -> Adapter:
    """An adapter of the same shapes, ranks and row norms in random directions: what any anti-expert must beat."""
    modules = {
        name: replace(module, read=_Random(module, seed + number))
        for number, (name, module) in enumerate(adapter.modules.items())
    }
    return replace(adapter, modules=modules)


@dataclass(frozen=True)
class _Random:
    module: Module
    seed: int

    def __call__(self) -> Delta:
        delta = self.module.read()
        random = torch.Generator().manual_seed(self.seed)
        B, A = delta.factors()
        B = torch.randn(B.shape, generator=random, dtype=B.dtype)
        if delta.rank < delta.shape[-1]:  # an unfactored delta (IA3, prefix) keeps its columns
            A = torch.randn(A.shape, generator=random, dtype=A.dtype)
        drawn = Delta.product(B, A)
        return drawn.scale_rows(delta.row_norms() / drawn.row_norms().clamp(min=1e-300))
