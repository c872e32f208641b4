"""A small model of random weights for each of several architectures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

import tiny_models

WIDTH = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
NARROW = {**WIDTH, "intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512}
BART = {f"{part}_{what}": size for part in ("encoder", "decoder") for what, size in
        (("layers", 2), ("attention_heads", 4), ("ffn_dim", 48))}  # fmt: skip
LONG_ROPE = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 20}
LONG_ROPE |= {"short_factor": [1.0] * 4, "long_factor": [2.0, 3.0, 5.0, 9.0]}
CONFIGS: dict[str, Callable[..., Any]] = {
    "llama": lambda **more: transformers.LlamaConfig(**NARROW, **more),
    "qwen2": lambda **more: transformers.Qwen2Config(**NARROW, **more),
    "gemma": lambda **more: transformers.GemmaConfig(**NARROW, **more),
    "gemma2": lambda **more: transformers.Gemma2Config(**NARROW, sliding_window=16, **more),
    "mistral": lambda **more: transformers.MistralConfig(**NARROW, sliding_window=16, **more),
    "mixtral": lambda **more: transformers.MixtralConfig(**NARROW, num_local_experts=4, **more),
    "mamba": lambda **more: transformers.MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=8, **more),
    "gpt2": lambda **more: transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, **more),
    "opt": lambda **more: transformers.OPTConfig(**WIDTH, ffn_dim=48, word_embed_proj_dim=32, **more),
    "gpt_neo": lambda **more: transformers.GPTNeoConfig(
        hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]], window_size=24, **more
    ),
    "rwkv": lambda **more: transformers.RwkvConfig(hidden_size=32, num_hidden_layers=2, **more),
    "bart": lambda **more: transformers.BartConfig(d_model=32, max_position_embeddings=256, **BART, **more),
    "phi3": lambda **more: transformers.Phi3Config(
        **{**NARROW, "max_position_embeddings": 256},
        original_max_position_embeddings=20,
        rope_parameters=LONG_ROPE,
        **more,
    ),
    "bert-generation": lambda **more: transformers.BertGenerationConfig(**WIDTH, intermediate_size=48, **more),
    "bloom": lambda **more: transformers.BloomConfig(hidden_size=32, n_layer=2, n_head=4, **more),
    "gpt_oss": lambda **more: transformers.GptOssConfig(
        **NARROW, num_local_experts=4, num_experts_per_tok=2, sliding_window=16, **more
    ),
    "falcon_h1": lambda **more: transformers.FalconH1Config(
        **{name: size for name, size in NARROW.items() if name != "head_dim"},
        mamba_d_ssm=64,
        mamba_n_heads=8,
        mamba_d_head=8,
        mamba_d_state=8,
        mamba_chunk_size=8,
        **more,
    ),
}


def made(folder: Path, architecture: str) -> Path:
    """A model of random weights in which every token depends on those before it."""
    tokenizer, base = tiny_models.tokenizer(), folder / architecture
    if not base.exists():
        ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
        config = CONFIGS[architecture](vocab_size=len(tokenizer), **ids)
        for name in vars(config):
            if "drop" in name and isinstance(getattr(config, name), float):
                setattr(config, name, 0.0)
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.data.normal_(0, 0.18)
        model.save_pretrained(base)
        tokenizer.save_pretrained(base)
    return base
