"""Adapters on disk, made by hand: what PEFT would write, without PEFT, so that every field can also be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from extsub import Delta

PREFIX = "base_model.model."
Q, V = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"
SHAPES = {Q: (12, 8), V: (4, 8)}  # GQA: k and v are narrower than q
BASE = "made-up/tiny"


def factors(
    shapes: dict[str, tuple[int, int]] = SHAPES, rank: int = 3, seed: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """LoRA tensors by key."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (rows, columns) in shapes.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = torch.randn(rank, columns, generator=generator).to(dtype)
        tensors[f"{PREFIX}{name}.lora_B.weight"] = torch.randn(rows, rank, generator=generator).to(dtype)
    return tensors


def lora_config(rank: int = 3, **fields: Any) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": BASE,
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": ["q_proj", "v_proj"],
    } | fields


def write(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def lora(
    folder: Path,
    shapes: dict[str, tuple[int, int]] = SHAPES,
    rank: int = 3,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **fields: Any,
) -> Path:
    """A plain LoRA adapter."""
    return write(folder, factors(shapes, rank, seed, dtype), lora_config(rank, **fields))


def pair(folder: Path, **fields: Any) -> tuple[Path, Path]:
    """An expert and an anti-expert, ``e`` and ``a``."""
    return lora(folder / "e", **fields), lora(folder / "a", seed=1, **fields)


def ia3(folder: Path, seed: int = 0, vectors: dict[str, tuple[int, int]] | None = None, **fields: Any) -> Path:
    generator = torch.Generator().manual_seed(seed)
    vectors = vectors or {"layers.0.k_proj": (4, 1), "layers.0.down_proj": (1, 6)}
    tensors = {
        f"{PREFIX}{name}.ia3_l": 1 + 0.3 * torch.randn(shape, generator=generator) for name, shape in vectors.items()
    }
    config = {
        "peft_type": "IA3",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": BASE,
        "target_modules": ["k_proj", "down_proj"],
        "feedforward_modules": ["down_proj"],
    }
    return write(folder, tensors, config | fields)


def prefix(folder: Path, seed: int = 0, width: int = 2 * 2 * 2 * 4, **fields: Any) -> Path:
    """3 virtual tokens, 2 layers, 2 key/value heads of 4 numbers."""
    generator = torch.Generator().manual_seed(seed)
    config = {
        "peft_type": "PREFIX_TUNING",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": BASE,
        "num_virtual_tokens": 3,
        "num_layers": 2,
        "num_attention_heads": 2,
        "token_dim": 8,
        "num_transformer_submodules": 1,
    }
    return write(folder, {"prompt_embeddings": torch.randn(3, width, generator=generator)}, config | fields)


def edit_tensors(folder: Path, add: dict[str, Tensor] | None = None, remove: str = "") -> Path:
    """Add tensors, or remove those whose key contains a text."""
    path = folder / "adapter_model.safetensors"
    tensors = {key: tensor for key, tensor in load_file(path).items() if not remove or remove not in key}
    save_file(tensors | (add or {}), path)
    return folder


def edit_config(folder: Path, **fields: Any) -> Path:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    return folder


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "adapter_config.json").read_text())


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "extsub.json").read_text())


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def read_delta(folder: Path, name: str, scaling: float | None = None) -> Tensor:
    """What the LoRA file of plain linear layers adds to a weight, by the config's own r and lora_alpha."""
    tensors, config = tensors_of(folder), config_of(folder)
    A, B = (tensors[f"{PREFIX}{name}.lora_{factor}.weight"].double() for factor in "AB")
    return (config["lora_alpha"] / config["r"] if scaling is None else scaling) * B @ A


def dense(delta: Delta) -> Tensor:
    """The whole matrix, for torch to compare."""
    return torch.from_numpy(delta.dense())
