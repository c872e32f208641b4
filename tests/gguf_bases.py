"""Configs of small models of every architecture that is written as GGUF, with the layers that transformers makes."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "vocab_size": 64, "max_position_embeddings": 64}
WIDE = {**SIZES, "head_dim": 16}
"""Heads wider than the model has room for, as Qwen 3, Gemma and some of Mistral's have them."""


def gemma3_with_images() -> transformers.PretrainedConfig:
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return transformers.Gemma3Config(text_config={**WIDE, "sliding_window": 16}, vision_config=vision)


CONFIGS = {
    "LlamaForCausalLM": lambda: transformers.LlamaConfig(**SIZES),
    "MistralForCausalLM": lambda: transformers.MistralConfig(**WIDE),
    "Qwen2ForCausalLM": lambda: transformers.Qwen2Config(**SIZES),
    "Qwen3ForCausalLM": lambda: transformers.Qwen3Config(**WIDE),
    "Gemma2ForCausalLM": lambda: transformers.Gemma2Config(**WIDE),
    "Gemma3ForCausalLM": lambda: transformers.Gemma3TextConfig(**WIDE),
    "Gemma3ForConditionalGeneration": gemma3_with_images,
    "Phi3ForCausalLM": lambda: transformers.Phi3Config(**SIZES, pad_token_id=0),
}


def made(folder: Path, architecture: str) -> tuple[Path, dict[str, tuple[int, int]]]:
    """(a folder with the config alone, {name: (rows, columns)} of the linear layers between embedding and head)"""
    config = CONFIGS[architecture]()
    config.architectures = [architecture]
    config.save_pretrained(folder)
    kind = AutoModelForImageTextToText if "ForConditionalGeneration" in architecture else AutoModelForCausalLM
    with torch.device("meta"):
        model = kind.from_config(config)
    assert type(model).__name__ == architecture
    linear = {name: layer for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}
    skipped = ("vision_tower", "lm_head", "multi_modal_projector")
    return folder, {
        name: (layer.out_features, layer.in_features)
        for name, layer in linear.items()
        if not any(part in name for part in skipped)
    }
