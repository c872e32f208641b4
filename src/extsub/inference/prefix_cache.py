"""What a model has read, kept as keys and values, to be continued in several ways."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from extsub.inference.encoding import pad
from extsub.models.forward import output_only_at

if TYPE_CHECKING:
    from extsub.inference.language_model import LanguageModel


class Context(NamedTuple):
    """What the model has read in some rows, to be continued."""

    cache: DynamicCache | None
    seen: Tensor
    """(rows, places): whether a token stands there, or padding"""


def beginning(model: LanguageModel) -> Context:
    """What stands before everything: nothing, or the virtual tokens of an adapter."""
    seen = torch.ones(1, model.virtual_tokens, dtype=torch.bool, device=model.device)
    if not model.virtual_tokens:
        return Context(None, seen)
    prompt = model.module.get_prompt(1)
    if not model.is_soft_prompt:
        return Context(prompt, seen)
    embeddings = prompt.to(model.base.get_input_embeddings().weight.dtype)
    return Context(model.base(inputs_embeds=embeddings, use_cache=True).past_key_values, seen)


def read(model: LanguageModel, context: Context, parents: list[int], rows: Sequence[Sequence[int]]) -> Context:
    """The context once each of ``rows`` was read after its row ``parents[i]``."""
    ids, mask = pad(rows, model)
    chosen = torch.tensor(parents, device=model.device)
    cache, before = _branched(model, context.cache, chosen, keep=True), context.seen[chosen]
    if ids.shape[1]:
        _run(model, cache, before, ids, mask, torch.zeros_like(mask))
    return Context(cache, torch.cat([before, mask], dim=1))


def logits_after(
    model: LanguageModel, context: Context, parents: list[int], rows: Sequence[Sequence[int]], wanted: Tensor
) -> Tensor:
    """Logits (places, vocabulary) where they are ``wanted`` (rows, tokens) of ``rows``, each read after row
    ``parents[i]`` of the context. What was read is forgotten."""
    ids, mask = pad(rows, model)
    chosen = torch.tensor(parents, device=model.device)
    cache = _branched(model, context.cache, chosen, keep=False)
    return _run(model, cache, context.seen[chosen], ids, mask, wanted)


def read_token(model: LanguageModel, context: Context, tokens: Tensor) -> tuple[Tensor, Context]:
    """Logits (rows, vocabulary) after one more token in each row (rows, 1), and the context once they were read: it
    takes the place of the given one, whose cache it goes on with."""
    mask = torch.ones_like(tokens, dtype=torch.bool)
    assert context.cache is not None
    logits = _run(model, context.cache, context.seen, tokens, mask, mask)
    return logits, Context(context.cache, torch.cat([context.seen, mask], dim=1))


def _run(
    model: LanguageModel, cache: DynamicCache, before: Tensor, ids: Tensor, mask: Tensor, wanted: Tensor
) -> Tensor:
    # Padding gets the last position, so that none lies beyond a table of positions.
    places = torch.minimum(
        torch.arange(ids.shape[1], device=model.device), (mask.sum(1, keepdim=True) - 1).clamp(min=0)
    )
    # Nothing sees what stands on its right, so padding there needs no mask: attention is faster without.
    seen = torch.cat([before, mask], dim=1).long() if before.shape[1] else None
    with output_only_at(model.base, wanted):
        return model.base(
            input_ids=ids,
            attention_mask=seen,
            position_ids=before.sum(1, keepdim=True) + places,
            past_key_values=cache,
            use_cache=True,
        ).logits


class _Branches(DynamicLayer):
    """A layer's keys and values, continued row by row. What is appended is forgotten: a layer at a time is copied."""

    def __init__(self, keys: Tensor, values: Tensor, rows: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = self._states = keys, values
        self._rows = rows

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        keys, values = (_take(states, self._rows) for states in self._states)
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


def _branched(model: LanguageModel, cache: DynamicCache | None, rows: Tensor, keep: bool) -> DynamicCache:
    """Rows of a cache, to be continued. The cache itself stays as it is."""
    branched = DynamicCache(config=model.base.config)
    for number, layer in enumerate(cache.layers if cache else []):
        if not isinstance(layer, DynamicLayer) or layer.keys is None or layer.values is None:
            continue  # layers that share another's keys have none
        if keep:
            branched.update(_take(layer.keys, rows), _take(layer.values, rows), number)
        else:
            branched.layers[number] = _Branches(layer.keys, layer.values, rows)
    return branched


def _take(states: Tensor, rows: Tensor) -> Tensor:
    return states[rows] if len(states) > 1 else states.expand(len(rows), -1, -1, -1)
