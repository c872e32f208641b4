"""Base models and adapters to merge, and PEFT's word on what the two say together."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

import adapter_files

IDS = torch.arange(20).view(1, -1)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def loaded(folder: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    with quiet():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def adapted(base: Path, folder: Path, config: Any, dtype: torch.dtype = torch.float32, **saving: Any) -> nn.Module:
    """A PEFT adapter of random numbers, saved as PEFT saves; returned on its base."""
    with quiet():
        torch.manual_seed(0)
        model = peft.get_peft_model(loaded(base, dtype), config)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data = (1 + 0.3 * noise if "ia3" in name else 0.1 * noise).to(parameter.dtype)
    with quiet():
        model.save_pretrained(folder, **saving)
    return model.eval()


def logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits.double()


def weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a model, from one file or several."""
    files = sorted(folder.glob("*.safetensors"))
    return {key: tensor for file in files for key, tensor in load_file(file).items()}


def merged_by_peft(model: nn.Module, folder: Path) -> dict[str, Tensor]:
    with quiet():
        model.merge_and_unload().save_pretrained(folder)
    return weights(folder)


def base(folder: Path, tensors: dict[str, Tensor], shards: int = 1, **config: Any) -> Path:
    """A checkpoint made by hand."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "tie_word_embeddings": False, **config}))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    keys, weight_map = list(tensors), {}
    for number, part in enumerate(np.array_split(np.arange(len(keys)), shards), start=1):
        name = f"model-{number:05d}-of-{shards:05d}.safetensors"
        save_file({keys[place]: tensors[keys[place]] for place in part}, folder / name, metadata={"format": "pt"})
        weight_map |= {keys[place]: name for place in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def plain(folder: Path, dtype: torch.dtype = torch.float32, prefix: str = "", **more: Any) -> Path:
    """The base of ``adapter_files.lora``, with a norm and a vocabulary."""
    generator = torch.Generator().manual_seed(5)
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens": (10, 8), **adapter_files.SHAPES, "model.norm": (8,), "lm_head": (10, 8)
    }  # fmt: skip
    tensors = {f"{prefix}{name}.weight": torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return base(folder, {key: tensor.to(dtype) for key, tensor in tensors.items()}, **more)
