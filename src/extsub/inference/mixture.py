"""Several models asked as one: positions of one loaded model, whose logits, weighted and added up, are a distribution.

The positions take turns, so every token costs a forward pass at each of them. This is the one place that combines
their logits: text is scored with them as with any model's (`log_likelihood`), answers are made in `mixed_answers`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from extsub.inference.language_model import LanguageModel


@dataclass(frozen=True)
class Mixture:
    """The positions that a model is mixed of, and their weights."""

    positions: tuple[Callable[[], AbstractContextManager[LanguageModel]], ...]
    """Each sets the loaded model to a position, until the block ends."""
    weights: tuple[float, ...]
    """What the logits at each position are multiplied by."""
    plausible: float = 0.0
    """An answer holds only tokens whose probability at the first position is at least this part of the likeliest
    token's there: the plausibility constraint of contrastive decoding (Li et al., arXiv 2210.15097). Scoring has
    none."""

    def next_logits(self, logits: Sequence[Tensor]) -> Tensor:
        """What the next token of an answer is chosen by: (rows, vocabulary) of (rows, vocabulary) at each position."""
        total = combined(logits, self.weights)
        if not self.plausible:
            return total
        first = logits[0].float()
        least = first.amax(-1, keepdim=True) + math.log(self.plausible)
        return total.masked_fill(first < least, -math.inf)


def combined(logits: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
    """``sum_k weights[k] * logits[k]``, in float32, of the shape of each; its softmax is the mixture's distribution."""
    total = None
    for weight, position_logits in zip(weights, logits, strict=True):
        part = position_logits.float() * weight
        total = part if total is None else total.add_(part)
    assert total is not None
    return total


def each(model: LanguageModel, ask: Callable[..., Any], *given: Sequence[Any]) -> Iterator[Any]:
    """What ``ask(model, *given)`` returns at each position of a mixture; of any other model, once.

    Args:
        given: sequences of what it returned before, of which each position gets its own.
    """
    if model.mixture is None:
        yield ask(model, *(values[0] for values in given))
        return
    for place, position in enumerate(model.mixture.positions):
        with position() as there:
            yield ask(there, *(values[place] for values in given))


def logits_of(model: LanguageModel, ask: Callable[..., Tensor], *given: Sequence[Any]) -> Tensor:
    """The logits that ``ask(model, *given)`` returns: of a mixture combined, of any other model as they are."""
    if model.mixture is None:
        return next(each(model, ask, *given))
    with torch.inference_mode():
        return combined(each(model, ask, *given), model.mixture.weights)
