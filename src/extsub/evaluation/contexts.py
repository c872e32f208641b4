"""What a model has read, kept as keys and values, to be continued in several ways."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from extsub.evaluation.sequences import pad
from extsub.models import output_only_at

if TYPE_CHECKING:
    from transformers import DynamicCache

    from extsub.evaluation.language_model import LanguageModel


class Context(NamedTuple):
    """What the model has read in some rows."""

    cache: DynamicCache | None
    seen: Tensor
    """(rows, places): whether a token stands there, or padding"""


def beginning(model: LanguageModel) -> Context:
    """What stands before everything: nothing, or the virtual tokens of an adapter."""
    nothing = Context(None, torch.zeros(1, 0, dtype=torch.bool, device=model.device))
    if not model.virtual_tokens:
        return nothing
    prompt, seen = (
        model.module.get_prompt(1),
        torch.ones(1, model.virtual_tokens, dtype=torch.bool, device=model.device),
    )
    if not model.is_soft_prompt:
        return Context(prompt, seen)
    embeddings = prompt.to(model.base.get_input_embeddings().weight.dtype)
    return Context(model.base(inputs_embeds=embeddings, use_cache=True).past_key_values, seen)


def read(
    model: LanguageModel, context: Context, parents: list[int], rows: list[list[int]], wanted: Tensor | None = None
) -> tuple[Context, Tensor]:
    """Read each of ``rows`` after row ``parents[i]`` of the context.

    Args:
        wanted: (rows, tokens), where logits are wanted; nowhere if None.

    Returns:
        what was read then, and the logits (places, vocabulary)
    """
    ids, mask = pad(rows, model)
    chosen = torch.tensor(parents, device=model.device)
    before = context.seen[chosen]
    seen = torch.cat([before, mask], dim=1)
    if not ids.shape[1]:
        return Context(_select(model, context.cache, chosen), seen), torch.empty(0)
    # Padding gets the last position, so that none lies beyond a table of positions.
    places = torch.minimum(
        torch.arange(ids.shape[1], device=model.device), (mask.sum(1, keepdim=True) - 1).clamp(min=0)
    )
    with output_only_at(model.base, torch.zeros_like(mask) if wanted is None else wanted):
        output = model.base(
            input_ids=ids,
            attention_mask=seen.long() if before.shape[1] else None,  # nothing sees padding on its right
            position_ids=before.sum(1, keepdim=True) + places,
            past_key_values=_select(model, context.cache, chosen),
            use_cache=True,
        )
    return Context(output.past_key_values, seen), output.logits


def _select(model: LanguageModel, cache: DynamicCache | None, rows: Tensor) -> DynamicCache | None:
    """A copy, row by row: the model appends to it in place."""
    if cache is None:
        return None
    from transformers.cache_utils import DynamicCache, DynamicLayer

    copy = DynamicCache(config=model.base.config)
    for number, layer in enumerate(cache.layers):
        if isinstance(layer, DynamicLayer) and layer.keys is not None and layer.values is not None:
            copy.update(layer.keys[rows], layer.values[rows], number)  # layers that share another's keys have none
    return copy
