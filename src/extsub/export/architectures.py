"""The models whose adapters llama.cpp takes: what it calls them and their layers, and how large these are.

As in llama.cpp's own converter (``conversion/`` there), whose tensors ours are equal to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from extsub.errors import ExtSubError
from extsub.escaping import shown


@dataclass(frozen=True)
class Architecture:
    """A family of models that llama.cpp knows under one name."""

    name: str
    """llama.cpp's."""

    turns_neighbours: bool = False
    """Whether llama.cpp turns the numbers 2i and 2i + 1 of a head together for their position, where transformers turns
    i and i + half a head: it stores the rows of q and k in that order."""

    fused: bool = False
    """Whether q, k and v are one layer, and gate and up."""

    defaults: Mapping[str, int | bool] = field(default_factory=dict)
    """What transformers takes where config.json leaves a field out."""


_GEMMA = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "tie_word_embeddings": True}
_GEMMA_3 = Architecture(
    "gemma3",
    defaults=_GEMMA | {"hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "vocab_size": 262_208},
)
ARCHITECTURES = {
    "LlamaForCausalLM": Architecture("llama", turns_neighbours=True),
    "MistralForCausalLM": Architecture("llama", turns_neighbours=True, defaults={"num_key_value_heads": 8}),
    "Qwen2ForCausalLM": Architecture("qwen2", defaults={"num_key_value_heads": 32}),
    "Qwen3ForCausalLM": Architecture("qwen3", defaults={"num_key_value_heads": 32, "head_dim": 128}),
    "Gemma2ForCausalLM": Architecture("gemma2", defaults=_GEMMA),
    "Gemma3ForCausalLM": _GEMMA_3,
    "Gemma3ForConditionalGeneration": _GEMMA_3,
    "Phi3ForCausalLM": Architecture("phi3", fused=True),
}
"""By the name under ``architectures`` in config.json. Gemma 3 with images has its sizes in a config of its own, which
leaves out what is as ever."""


@dataclass(frozen=True)
class Base:
    """A base model, as far as its config.json says."""

    where: str
    """Its config, for messages."""

    architecture: Architecture
    config: Mapping[str, Any]

    def size(self, name: str, otherwise: int | None = None) -> int:
        """A field that must be a whole number above 0.

        Args:
            otherwise: what it is where neither config.json nor the architecture says.

        Raises:
            ExtSubError: it is missing, or something else.
        """
        value = self.config.get(name)
        if value is None:
            value = self.architecture.defaults.get(name, otherwise)
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise ExtSubError(f"{self.where}: {name} must be a whole number above 0, found {shown(value)}")
        return value

    @property
    def is_tied(self) -> bool:
        """Whether the head is the embedding."""
        said = self.config.get("tie_word_embeddings")
        return bool(self.architecture.defaults.get("tie_word_embeddings") if said is None else said)

    def heads(self, path: str) -> int:
        """How many heads the rows of a layer belong to, where llama.cpp stores them in its own order; else 0.

        Args:
            path: as in `shapes`.
        """
        if not self.architecture.turns_neighbours:
            return 0
        heads = self.size("num_attention_heads")
        return {"self_attn.q_proj": heads, "self_attn.k_proj": self.size("num_key_value_heads", heads)}.get(path, 0)

    def shapes(self) -> dict[str, tuple[int, int]]:
        """(rows, columns) of every layer that an adapter can change, by its path below ``model.layers.N`` or its name.

        Raises:
            ExtSubError: a size is missing, or no model can have such heads.
        """
        hidden, inner, heads = map(self.size, ("hidden_size", "intermediate_size", "num_attention_heads"))
        width = self.size("head_dim", hidden // heads)
        if width % 2:
            raise ExtSubError(f"{self.where}: heads of {width} numbers cannot be turned in pairs: the file is damaged")
        q, k = heads * width, self.size("num_key_value_heads", heads) * width
        apart = {"self_attn.q_proj": q, "self_attn.k_proj": k, "self_attn.v_proj": k}
        apart |= {"mlp.gate_proj": inner, "mlp.up_proj": inner}
        fused = {"self_attn.qkv_proj": q + 2 * k, "mlp.gate_up_proj": 2 * inner}
        reading = fused if self.architecture.fused else apart
        reading |= dict.fromkeys(("embed_tokens", "lm_head"), self.size("vocab_size"))
        return {
            **{path: (rows, hidden) for path, rows in reading.items()},
            "self_attn.o_proj": (hidden, q),
            "mlp.down_proj": (hidden, inner),
        }
