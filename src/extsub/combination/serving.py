"""Which servers take an adapter, as far as it says itself: the flags that vLLM needs, or why it would not do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from extsub.adapters.adapter import Module
from extsub.adapters.codecs import CODECS
from extsub.adapters.keys import VOCABULARY
from extsub.adapters.layouts import Conv, Embedding, Experts
from extsub.adapters.names import last_part
from extsub.escaping import brief

VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes for --max-lora-rank."""

# Parts of names that no causal language model has: of T5 and other encoders with decoders, of image models, of towers.
_OTHER_MODELS = re.compile(r"(^|\.)(encoder|encoder_attn|SelfAttention|EncDecAttention|crossattention|to_[qkv])(\.|$)")
_TOWERS = re.compile(r"vision|visual|audio|image|speech")


def vllm(kind: str, modules: Mapping[str, Module], settings: Mapping[str, Any]) -> dict[str, str]:
    """``{"vllm": flags}``, or ``{"problem": why}`` where vLLM cannot serve an adapter of these modules and settings."""
    if problem := _problem(kind, modules, settings):
        return {"problem": problem}
    rank = max(module.rank for module in modules.values())
    fits = next((allowed for allowed in VLLM_RANKS if allowed >= rank), None)
    if fits is None:
        return {"problem": f"vLLM takes rank 512 at most, and this is {rank}: combine with --rank 512"}
    return {"vllm": f"--max-lora-rank {fits}"}


def _problem(kind: str, modules: Mapping[str, Module], settings: Mapping[str, Any]) -> str | None:
    if not CODECS[kind].served:
        return f"servers take LoRA only, not {kind}"
    if (task := settings.get("task_type")) not in (None, "CAUSAL_LM"):
        return f"vLLM applies adapters to causal language models, and this one is for {brief(task)}"
    if settings.get("layer_replication"):
        return "vLLM does not repeat layers of the base (layer_replication)"
    if any(map(_TOWERS.search, modules)):
        return "vLLM applies adapters to the language model, and this one changes a vision or audio tower"
    if any(map(_OTHER_MODELS.search, modules)):
        return "vLLM applies adapters to causal language models, and these layers are not of one"
    if any(isinstance(module.layout, Conv) for module in modules.values()):
        return "vLLM applies no adapters of convolutions"
    if any(isinstance(module.layout, Embedding) or _is_end(name) for name, module in modules.items()):
        return "vLLM applies adapters of embeddings and heads to few models: try whether it does to this one"
    return None


def notes(modules: Mapping[str, Module]) -> list[str]:
    """What a user should know of other servers, in sentences."""
    layouts = {type(module.layout) for module in modules.values()}
    sentences = []
    if Experts in layouts:
        sentences.append("servers differ in how they read fused MoE parameters: compare outputs before you rely on one")
    if Embedding in layouts or any(map(_is_end, modules)):
        sentences.append(
            "not every server applies adapters of embeddings and heads (llama.cpp refuses those of tied heads)"
        )
    if Conv in layouts:
        sentences.append("servers of language models do not apply adapters of convolutions")
    return sentences


def _is_end(name: str) -> bool:
    """Whether a layer is the embedding or the head."""
    return last_part(name) in VOCABULARY
