"""Prefix tuning on disk, to deltas and back: one row of head_dim numbers for each virtual token, layer, key or value,
and head (Li & Liang, 2021). On GQA models the heads are the key/value heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from extsub.adapters import config as fields
from extsub.adapters.adapter import Adapter, Layout, Module, Source
from extsub.adapters.codec import Codec
from extsub.adapters.tensors import TensorFile
from extsub.algebra import Delta
from extsub.errors import ExtSubError
from extsub.escaping import brief

KEY = "prompt_embeddings"

KNOWN_FIELDS = fields.COMMON_FIELDS | frozenset(
    "num_virtual_tokens num_layers num_attention_heads token_dim num_transformer_submodules encoder_hidden_size "
    "prefix_projection".split()
)


@dataclass(frozen=True)
class Prefixes(Layout):
    """``prompt_embeddings`` (tokens, layers * 2 * heads * head_dim)."""

    factored: ClassVar[bool] = False
    tokens: int
    layers: int
    heads: int
    head_dim: int

    def pack(self, name: str, B: Any, A: Any) -> dict[str, Any]:
        return {name: (B @ A).reshape(self.tokens, -1)}


def decode(config: Mapping[str, Any], file: TensorFile, source: Source) -> Adapter:
    """The adapter that ``config`` and ``file`` describe, if they agree.

    Raises:
        ExtSubError: a field, a key or a shape that is not prefix tuning; the message names it.
    """
    where = source.name
    fields.check_fields(config, KNOWN_FIELDS, {}, where)
    if set(file.info) != {KEY}:
        keys = ", ".join(map(brief, sorted(file.info)[:3]))
        raise ExtSubError(
            f"{where}: a prefix-tuning file holds {KEY} and nothing else, found {keys}: save the adapter with "
            "save_pretrained"
        )
    layout = _layout(config, file.info[KEY].shape, where)

    def read() -> Delta:
        rows = file.read(KEY).reshape(-1, layout.head_dim)
        return Delta.product(rows, np.eye(layout.head_dim))

    rows = layout.tokens * layout.layers * 2 * layout.heads
    submodules = config.get("num_transformer_submodules")
    return Adapter(
        kind="PREFIX_TUNING",
        base=fields.text(config, "base_model_name_or_path", where),
        modules={KEY: Module(layout, (rows, layout.head_dim), layout.head_dim, file.info[KEY].dtype, read)},
        settings=fields.settings(config, where) | {"num_transformer_submodules": submodules},
        targets=None,
        source=source,
    )


def encode(adapter: Adapter) -> dict[str, Any]:
    """The smallest adapter_config.json that says what this adapter is. The file holds projected values already."""
    (module,) = adapter.modules.values()
    layout = module.layout
    assert isinstance(layout, Prefixes)
    config = {
        "peft_type": "PREFIX_TUNING",
        "base_model_name_or_path": adapter.base,
        "num_virtual_tokens": layout.tokens,
        "num_layers": layout.layers,
        "num_attention_heads": layout.heads,
        "token_dim": layout.heads * layout.head_dim,
        "prefix_projection": False,
        "inference_mode": True,
    }
    return config | adapter.settings


def _layout(config: Mapping[str, Any], shape: tuple[int, ...], where: str) -> Prefixes:
    """The four axes. Configs of PEFT before 0.12 give the attention heads of a GQA model; the file has the KV heads."""
    tokens, layers, heads, width = (
        fields.whole_number(config, name, where)
        for name in ("num_virtual_tokens", "num_layers", "num_attention_heads", "token_dim")
    )
    head_dim = width // heads
    if len(shape) != 2 or shape[0] != tokens or width % heads or shape[1] % (2 * layers * head_dim):
        raise ExtSubError(
            f"{where}: {KEY} has shape {list(shape)}, which does not fit {tokens} virtual tokens of {layers} layers "
            f"with heads of {width}/{heads} numbers, as adapter_config.json says: they do not belong together"
        )
    return Prefixes(tokens, layers, shape[1] // (2 * layers * head_dim), head_dim)


CODEC = Codec(
    "PREFIX_TUNING",
    "A prefix-tuning",
    decode,
    encode,
    caution="a prefix is not a change of a weight: arithmetic on it is the paper's heuristic",
)
