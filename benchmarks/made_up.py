"""Made-up LoRA adapters with the shapes of real models, in safetensors files as PEFT writes them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

DTYPE = torch.float16


@dataclass(frozen=True)
class Shape:
    """A model's layers, as far as LoRA sees them."""

    name: str
    layers: int
    linears: dict[str, tuple[int, int]]
    """module to (out, in)"""

    rank: int

    @property
    def parameters(self) -> int:
        """Of one adapter."""
        return self.layers * sum(self.rank * (rows + columns) for rows, columns in self.linears.values())


def all_linear(hidden: int, intermediate: int, key_value: int) -> dict[str, tuple[int, int]]:
    """Every linear layer of a Llama but the head."""
    return {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (key_value, hidden),
        "self_attn.v_proj": (key_value, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (intermediate, hidden),
        "mlp.up_proj": (intermediate, hidden),
        "mlp.down_proj": (hidden, intermediate),
    }


SHAPES = {
    "7b": Shape("LLaMA-7B q,v r16", 32, {"self_attn.q_proj": (4096, 4096), "self_attn.v_proj": (4096, 4096)}, 16),
    "8b": Shape("Llama-3-8B all r16", 32, all_linear(4096, 14336, 1024), 16),
    "70b": Shape("70B-shaped all r64", 80, all_linear(8192, 28672, 1024), 64),
}


def make_adapter(shape: Shape, folder: Path, seed: int) -> Path:
    """Write one adapter with random factors, B about a tenth of A as after training."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(shape.layers):
        for module, (rows, columns) in shape.linears.items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            A = torch.randn(shape.rank, columns, generator=generator, dtype=torch.float32) / columns**0.5
            B = torch.randn(rows, shape.rank, generator=generator, dtype=torch.float32) / 10
            tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"] = A.to(DTYPE), B.to(DTYPE)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": f"made-up/{shape.name.split()[0]}",
        "r": shape.rank,
        "lora_alpha": 2 * shape.rank,
        "target_modules": sorted({module.rpartition(".")[2] for module in shape.linears}),
        "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
