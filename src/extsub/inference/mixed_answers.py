"""Greedy answers of a mixture: transformers generates with one model, here several choose each token together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from extsub.inference.encoding import Continuation
from extsub.inference.log_likelihood import answer_logits
from extsub.inference.mixture import each
from extsub.inference.prefix_cache import Context, beginning, read, read_token

if TYPE_CHECKING:
    from extsub.inference.language_model import LanguageModel


@torch.inference_mode()
def continued_together(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    most: int,
    ends: Sequence[int],
    processor: Callable[[Tensor, Tensor], Tensor],
    cache: bool,
) -> Tensor:
    """(prompts, tokens): what a mixture finds likeliest after each prompt, until all have ended.

    Args:
        most: new tokens.
        ends: tokens that end an answer.
        processor: is given the last tokens and the logits before every new one.
        cache: keep what was read, at each position its own; else all is read again for every token.
    """
    mixture, rows = model.mixture, [list(prompt) for prompt in prompts]
    assert mixture is not None
    contexts: Sequence[Context] = list(each(model, lambda there: _read(there, rows))) if cache else ()
    ended: set[int] = set()
    for _ in range(most):
        last = torch.tensor([row[-1:] for row in rows], device=model.device)
        if cache:
            pairs = each(model, lambda there, context, last=last: read_token(there, context, last), contexts)
            logits, contexts = zip(*pairs, strict=True)
        else:
            wanted = [Continuation([*row, row[-1]], len(row)) for row in rows]
            logits = tuple(each(model, lambda there, wanted=wanted: answer_logits(there, wanted)))
        scores = mixture.next_logits([processor(last, position_logits) for position_logits in logits])
        for number, token in enumerate(scores.argmax(-1).tolist()):
            rows[number].append(token)
            if token in ends:
                ended.add(number)
        if len(ended) == len(rows):
            break
    return torch.tensor([row[len(prompt) :] for row, prompt in zip(rows, prompts, strict=True)])


def _read(model: LanguageModel, rows: Sequence[Sequence[int]]) -> Context:
    """All but the last token of each row."""
    return read(model, beginning(model), [0] * len(rows), [row[:-1] for row in rows])
