"""Are two ways of asking a model the same up to rounding? What rounding does is found out from the model itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

SLACK = 3.0
"""How many times what rounding anew changes still counts as rounding."""
LEAST = 1e-3
"""The part of the logits' spread that always counts as rounding."""
SANE = 1e4
"""Logits beyond this stand for tokens that are ruled out."""
FAILURES = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError),
    StrictDataclassError,
)
"""What is raised by a model that cannot be made, or cannot be asked so."""


@dataclass(frozen=True)
class Rounding:
    """How far rounding moves a model's logits."""

    worst: float
    """The difference at the place where rounding moves the logits most."""
    typical: float
    """The difference at the median place."""
    is_exact: bool
    """Whether the comparison is in float32: with fewer digits experts are chosen otherwise here and there."""
    is_steady: bool
    """Whether a float32 model says the same when it is asked again."""

    @classmethod
    def of(cls, module: nn.Module, dtype: torch.dtype, ask: Callable[[], Tensor], expected: Tensor) -> Rounding:
        """How far what ``ask`` gives moves when a model that computes in ``dtype`` rounds everything anew.

        Args:
            expected: what it gives otherwise, logits (places, vocabulary).
        """
        least = LEAST * distances(torch.zeros_like(expected), expected).median().item()
        is_exact = dtype == torch.float32
        is_steady = not is_exact or distances(ask(), expected).max().item() <= least
        with rounded_anew(module):
            noise = distances(ask(), expected)
        worst, typical = (max(SLACK * difference.item(), least) for difference in (noise.max(), noise.median()))
        return cls(worst, typical, is_exact, is_steady)

    def explains(self, logits: Tensor, expected: Tensor, everywhere: bool = False) -> bool:
        """Whether logits (places, vocabulary) are the expected ones, rounded.

        Args:
            everywhere: look at the worst place, whatever the dtype: for what is computed in the same way.
        """
        by_place = distances(logits, expected)
        if self.is_exact or everywhere:
            return by_place.max().item() <= self.worst
        return by_place.median().item() <= self.typical


def distances(logits: Tensor, expected: Tensor) -> Tensor:
    """(places,): how far logits (places, vocabulary) lie from others, as the root mean square over tokens. What all
    tokens have in common does not count."""
    usable = expected.abs() < SANE
    difference = torch.where(usable, logits.float() - expected.float(), 0)
    tokens = usable.sum(1, keepdim=True).clamp(min=1)
    difference = torch.where(usable, difference - difference.sum(1, keepdim=True) / tokens, 0)
    return (difference.square().sum(1) / tokens[:, 0]).sqrt()


@contextlib.contextmanager
def rounded_anew(module: nn.Module) -> Generator[None]:
    """Inside, what every layer gives is off by up to a unit in the last place, at random."""
    generators: dict[torch.device, torch.Generator] = {}

    def shake(_: nn.Module, __: Any, output: Any) -> Any:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return None
        if output.device not in generators:
            generators[output.device] = torch.Generator(output.device).manual_seed(0)
        noise = torch.rand(output.shape, generator=generators[output.device], device=output.device) * 2 - 1
        return (output.float() * (1 + noise * torch.finfo(output.dtype).eps)).to(output.dtype)

    leaves = [layer for layer in module.modules() if next(layer.children(), None) is None]
    hooks = [leaf.register_forward_hook(shake) for leaf in leaves]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
