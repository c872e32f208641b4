"""Are two ways of asking a model the same up to rounding? What rounding does is found out from the model itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
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


def distance(found: Tensor, expected: Tensor) -> float:
    """How far logits (places, vocabulary) lie from others: the root mean square over tokens where it is largest."""
    usable = expected.abs() < SANE
    difference = torch.where(usable, found.float() - expected.float(), 0)
    tokens = usable.sum(1, keepdim=True).clamp(min=1)
    difference = torch.where(usable, difference - difference.sum(1, keepdim=True) / tokens, 0)
    return (difference.square().sum(1) / tokens[:, 0]).sqrt().max().item()


def tolerance(module: nn.Module, ask: Callable[[], Tensor], expected: Tensor) -> float:
    """The distance that rounding explains: from ``expected``, what ``ask`` gives once everything is rounded anew."""
    with rounded_anew(module):
        noise = distance(ask(), expected)
    return max(SLACK * noise, LEAST * distance(expected, torch.zeros_like(expected)))


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

    leaves = [one for one in module.modules() if not any(True for _ in one.children())]
    hooks = [one.register_forward_hook(shake) for one in leaves]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
