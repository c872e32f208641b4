"""Where the dial is set in a sweep: the models to start from, every operation at every strength, and the controls."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

from extsub.adapters.adapter import Adapter, Module
from extsub.algebra import OPERATIONS, Delta
from extsub.combination.operations import load_operations
from extsub.errors import ExtSubError
from extsub.escaping import brief
from extsub.models.position import STARTS, Position

if TYPE_CHECKING:
    from extsub.models.dial import Dial

CONTROLS = ("negated", "random")
"""The anti-expert alone, negated; and ext-sub with a random anti-expert of equal row norms."""
COMPANIONS = (
    ("subtract", 1.0),
    ("subtract", 0.5),
    ("contrast", 1.0),
    ("contrast", 0.5),
    ("amplify", 1.0),
    ("negated", 1.0),
    ("random", 1.0),
)
"""What stands beside ext-sub at its chosen α: operations, and at which part of that α."""
MOST_ALPHAS = 1000


@dataclass(frozen=True)
class SweepPoint(Position):
    """One model of a sweep: a position of the dial, with one α for all anti-experts, or a control."""

    alpha: float | None = None

    @property
    def strength(self) -> float:
        """How strong it is beside others of its operation: α without its sign, times a profile's mean factor."""
        factors = self.profile.kinds.values() if self.profile else ()
        return abs(self.alpha or 0.0) * (fmean(map(abs, factors)) if factors else 1.0)

    def __hash__(self) -> int:
        return hash(self.label)

    def set_on(self, dial: Dial, anti_experts: int) -> None:
        """Set a dial to this point; as many random anti-experts are attached to it after the others."""
        if self.operation == "negated" and self.alpha is not None:
            dial.set_parts(0.0, *[-self.alpha] * anti_experts)
        elif self.operation == "random" and self.alpha is not None:
            dial.set("ext-sub", [*[0.0] * anti_experts, *[self.alpha] * anti_experts])
        else:
            super().set_on(dial, anti_experts)


def sweep_points(operations: tuple[str, ...], alphas: tuple[float, ...]) -> list[SweepPoint]:
    """All points of a sweep. α = 0 is the expert, whatever the operation, and is not asked twice.

    Raises:
        ExtSubError: an operation is unknown.
    """
    load_operations(set(operations) - {*CONTROLS})
    known = (*OPERATIONS, *CONTROLS)
    for operation in operations:
        if operation not in known:
            raise ExtSubError(f"--operations {brief(operation)}: there are {', '.join(known)}")
    if not operations:
        raise ExtSubError(f"--operations: name one or more of {', '.join(known)}")
    if not any(alphas):
        raise ExtSubError("--alphas: all are 0, which is the expert whatever the operation: give others")
    points = [SweepPoint(start) for start in STARTS]
    points += [SweepPoint(operation, alpha) for operation in operations for alpha in alphas if alpha]
    return list(dict.fromkeys(points))


def companions(alpha: float) -> list[SweepPoint]:
    """The points that ext-sub at this α must be compared with."""
    return [SweepPoint(operation, alpha * part) for operation, part in COMPANIONS]


def parse_alphas(given: str) -> tuple[float, ...]:
    """The strengths that ``0:3:0.25`` (from, to, step; both ends count) or ``0.5,1,2`` stands for.

    Raises:
        ExtSubError: it is neither.
    """
    number = r"-?(?:\d+(?:\.\d+)?|\.\d+)"
    if match := re.fullmatch(rf"({number}):({number}):({number})", given):
        first, last, step = (float(text) for text in match.groups())
        steps = (last - first) / step if step else -1
        count = round(steps) + 1 if abs(steps) <= MOST_ALPHAS else 0  # it is not a number where one was infinite
        if not 0 < count <= MOST_ALPHAS:
            raise ExtSubError(f"--alphas {brief(given)}: from {first:g} to {last:g} in steps of {step:g} is not a grid")
        values = [round(first + place * step, 10) for place in range(count)]
        return tuple(value for value in values if (last - value) * step >= -1e-9)
    if re.fullmatch(rf"{number}(,{number})*", given):
        return tuple(dict.fromkeys(float(text) for text in given.split(",")))
    raise ExtSubError(f"--alphas {brief(given)}: expected FROM:TO:STEP (0:3:0.25) or values (0.5,1,2)")


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
        import torch  # whose generator gives the same numbers everywhere

        delta = self.module.read()
        random = torch.Generator().manual_seed(self.seed)
        B, A = delta.factors()
        B = torch.randn(B.shape, generator=random, dtype=torch.float64)
        if delta.rank < delta.shape[-1]:  # an unfactored delta (IA3, prefix) keeps its columns
            A = torch.randn(A.shape, generator=random, dtype=torch.float64)
        drawn = Delta.product(B, A)
        return drawn.scale_rows(delta.row_norms() / drawn.row_norms().clip(min=1e-300))
