"""Models whose output layer is their embedding, and adapters that change one of the two, or each in its own way.

Base and adapter together then have two weights, so the merged model has two, and its config.json says so
(``tie_word_embeddings``). PEFT's ``merge_and_unload`` changes both by what was learnt for one, or leaves a model that
is tied again when it is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from extsub.adapters.adapter import PREFIX, Adapter
from extsub.adapters.keys import VOCABULARY
from extsub.adapters.layouts import Embedding
from extsub.adapters.names import last_part
from extsub.errors import ExtSubError
from extsub.escaping import brief
from extsub.merging.checkpoint import Tensor
from extsub.merging.keys import CheckpointKeys

FIELD = "tie_word_embeddings"
"""In config.json."""
HEADS = ("lm_head", "embed_out")
HEAD_OF = (
    (re.compile(r"((model|transformer|model\.language_model)\.)?(embed_tokens|wte|word_embeddings)"), "lm_head"),
    (re.compile(r"language_model\.model\.embed_tokens"), "language_model.lm_head"),
    (re.compile(r"(backbone\.)?embeddings"), "lm_head"),
)
"""What the output layer is called in a checkpoint that calls the embedding so."""
HEADLESS = re.compile(r"For((Sequence|Token)Classification|QuestionAnswering)$")
"""Architectures without an output layer over the vocabulary."""


@dataclass(frozen=True)
class Tied:
    """What may be one weight in the base, and is two with the adapter."""

    keys: frozenset[str] = frozenset()
    """If one of these is changed, embedding and output layer come apart."""
    head: tuple[str, Tensor] | None = None
    """Key and numbers of the output layer, where the checkpoint has but the embedding."""


def tied(adapter: Adapter, tensors: Mapping[str, Tensor], config: Mapping[str, Any], base: str) -> Tied:
    """What the adapter may bring apart.

    Raises:
        ExtSubError: it changes an embedding, and extsub does not know what is tied to it.
    """
    text = config.get("text_config")
    said = config.get(FIELD, text.get(FIELD) if isinstance(text, dict) else None)
    named = _vocabulary(adapter, config)
    if not named or said is False:
        return Tied()
    finder = CheckpointKeys(tensors, adapter.name, base)
    keys = {name: finder.find(name) for name in named}
    there = frozenset(key for key in keys.values() if key)
    if heads := [key for name, key in finder.layers.items() if last_part(name) in HEADS]:
        return Tied(there) if said or _is_stored_twice(heads[0], tensors) else Tied()
    if lacking := next((name for name, key in keys.items() if key is None and last_part(name) in HEADS), None):
        alike = [finder.layers[name] for name in finder.layers if last_part(name) in VOCABULARY]
        alike = [key for key in alike if tensors[key].shape == named[lacking]]
        if len(alike) != 1:
            return Tied(there)  # and it will be missed
        return Tied(there | {f"{lacking}.weight"}, (f"{lacking}.weight", tensors[alike[0]]))
    return _with_head(adapter, tensors, config, there)


def come_apart(pair: Tied, changed: Collection[str], adapter: str) -> bool:
    """Whether what may be one weight in the base is two in the merged model.

    Raises:
        ExtSubError: an embedding is changed that several parts of an encoder-decoder model share.
    """
    if shared := [key for key in changed if last_part(key.removesuffix(".weight")) == "shared"]:
        raise ExtSubError(
            f"{adapter}: it changes {brief(shared[0])}, which encoder, decoder and output layer of the base share, and "
            "that is not merged"
        )
    return not pair.keys.isdisjoint(changed)


def _with_head(
    adapter: Adapter, tensors: Mapping[str, Tensor], config: Mapping[str, Any], there: frozenset[str]
) -> Tied:
    """The output layer that the checkpoint does not name, of the embedding that the adapter changes."""
    architectures = config.get("architectures")
    headless = isinstance(architectures, list) and any(HEADLESS.search(str(name)) for name in architectures)
    if not there or headless:
        return Tied()
    embedding, *others = sorted(there)
    heads = [head for names, head in HEAD_OF if names.fullmatch(embedding.removesuffix(".weight"))]
    if others or not heads:
        raise ExtSubError(
            f"{adapter.name}: it changes {brief(embedding)}, which may be the weight of an output layer, too, and "
            f"extsub does not know what that is called: if the base has none, set {FIELD} to false in its config.json"
        )
    return Tied(there, (f"{heads[0]}.weight", tensors[embedding]))


def _is_stored_twice(head: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a config that says nothing is of a model that is tied: then the embedding has the same numbers."""
    numbers = tensors[head].bytes(0, tensors[head].size)
    return any(
        tensor.size == numbers.size and np.array_equal(tensor.bytes(0, tensor.size), numbers)
        for key, tensor in tensors.items()
        if key != head and last_part(key.removesuffix(".weight")) in VOCABULARY
    )


def _vocabulary(adapter: Adapter, config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The embeddings and output layers that the adapter names, and their shapes; no embeddings of positions."""
    tokens = config.get("vocab_size")
    named = {
        name: module.shape
        for name, module in adapter.modules.items()
        if last_part(name) in VOCABULARY or (isinstance(module.layout, Embedding) and module.shape[0] == tokens)
    }
    copies = {key.removeprefix(PREFIX).removesuffix(".weight"): copy.shape for key, copy in adapter.copies.items()}
    return named | {name: shape for name, shape in copies.items() if last_part(name) in VOCABULARY}
