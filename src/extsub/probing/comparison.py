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
"""so many times what rounding anew changes is still called rounding"""
LEAST = 1e-3
"""part of the logits' spread that is always called rounding"""
SANE = 1e4
"""logits beyond this stand for tokens that are ruled out"""
FAILURES = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, RuntimeError, TypeError, ValueError),
    StrictDataclassError,
)
"""what comes of a model that cannot be made, or not be asked so"""


@dataclass(frozen=True)
class Rounding:
    """What rounding does to a model's logits."""

    allowed: float
    is_exact: bool
    """float32. With fewer digits experts are chosen otherwise here and there, which says nothing of the other places"""

    @classmethod
    def of(cls, module: nn.Module, dtype: torch.dtype, ask: Callable[[], Tensor]) -> Rounding:
        """Of a model that computes in ``dtype``: how far what ``ask`` gives moves when everything is rounded anew.

        Args:
            ask: gives logits (places, vocabulary).
        """
        expected, is_exact = ask(), dtype == torch.float32
        with rounded_anew(module):
            noise = distance(ask(), expected, is_exact)
        return cls(max(SLACK * noise, LEAST * distance(torch.zeros_like(expected), expected, is_exact)), is_exact)

    def explains(self, found: Tensor, expected: Tensor) -> bool:
        """Whether logits (places, vocabulary) are the expected ones, rounded."""
        return distance(found, expected, self.is_exact) <= self.allowed


def distance(found: Tensor, expected: Tensor, is_exact: bool = True) -> float:
    """How far logits (places, vocabulary) lie from others: the root mean square over tokens at the worst place, or at
    the median place unless ``is_exact``. What all tokens have in common does not count."""
    usable = expected.abs() < SANE
    difference = torch.where(usable, found.float() - expected.float(), 0)
    tokens = usable.sum(1, keepdim=True).clamp(min=1)
    difference = torch.where(usable, difference - difference.sum(1, keepdim=True) / tokens, 0)
    each = (difference.square().sum(1) / tokens[:, 0]).sqrt()
    return (each.max() if is_exact else each.median()).item()


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

    leaves = [one for one in module.modules() if next(one.children(), None) is None]
    hooks = [one.register_forward_hook(shake) for one in leaves]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
