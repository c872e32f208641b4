"""What combine.py measures: ways to combine two LoRA adapters, each run alone in a process of its own."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from made_up import Shape

SAFETENSORS = "adapter_model.safetensors"
MODULES = ("self_attn.q_proj", "self_attn.v_proj")
"""Of the first layer: where errors are measured."""

ALPHA = 1.0
WEIGHTS = (1.5, -0.5)
"""PEFT has one weight for each adapter, not for each row: `contrast` at alpha 0.5 is the nearest it can express."""


class Pair(NamedTuple):
    """What a contender works on."""

    shape: Shape
    expert: Path
    anti_expert: Path
    output: Path


class Measurement(NamedTuple):
    """Sizes in bytes."""

    seconds: dict[str, float]
    """By row of the table."""

    peak: int
    """Of the process's memory, imports included."""

    held: int
    """Of the memory, what grows with the number of layers because it must be there at the end."""

    size: int
    """Of the file."""


def bare() -> int:
    """Peak memory of a process that only imports torch and safetensors."""
    return _peak()


def measure(name: str, pair: Pair) -> Measurement:
    seconds, held = CONTENDERS[name](pair)
    return Measurement(seconds, _peak(), held, sum(file.stat().st_size for file in _weights(pair.output)))


def floor(pair: Pair) -> tuple[dict[str, float], int]:
    """Read both files, write all their tensors into one: what every exact method must do."""
    with _clock() as elapsed:
        inputs = {"expert": load_file(pair.expert / SAFETENSORS), "anti": load_file(pair.anti_expert / SAFETENSORS)}
        union = {f"{name}.{key}": tensor for name, tensors in inputs.items() for key, tensor in tensors.items()}
        _write(union, pair.output)
    return {"floor: read both, write as much": elapsed[0]}, 0


def extsub(pair: Pair) -> tuple[dict[str, float], int]:
    """One `save_adapter` as users call it, and the same without verification and SHA-256 of the inputs."""
    from extsub import combine, load_adapter, save_adapter
    from extsub.combination.combination import Combination

    spent: list[float] = []
    for method in ("verify", "figures"):
        setattr(Combination, method, _timed(getattr(Combination, method), spent))
    with _clock() as elapsed:
        result = combine(load_adapter(pair.expert), load_adapter(pair.anti_expert), alpha=ALPHA)
        save_adapter(result, pair.output)
    if len(spent) != 2:
        raise RuntimeError(f"expected one call each of verify and figures, found {len(spent)}")
    return {"extsub (arithmetic + I/O)": elapsed[0] - sum(spent), "extsub (all, verified)": elapsed[0]}, 0


def dense(pair: Pair) -> tuple[dict[str, float], int]:
    """The paper's formula on whole float32 matrices, stored beside an identity, as the authors' script does."""
    result: dict[str, Tensor] = {}
    with _clock() as elapsed:
        tensors = [load_file(folder / SAFETENSORS) for folder in (pair.expert, pair.anti_expert)]
        scalings = [_scaling(folder) for folder in (pair.expert, pair.anti_expert)]
        for A_key in [key for key in tensors[0] if ".lora_A." in key]:
            B_key = A_key.replace(".lora_A.", ".lora_B.")
            e, a = (
                s * weights[B_key].float() @ weights[A_key].float()
                for s, weights in zip(scalings, tensors, strict=True)
            )
            dtype = tensors[0][B_key].dtype
            result[B_key] = ext_sub(e, a).to(dtype)
            result[A_key] = torch.eye(e.shape[1], dtype=dtype)
        _write(result, pair.output)
    return {"dense float32, as the authors' script": elapsed[0]}, _bytes(result.values())


def peft_cat(pair: Pair) -> tuple[dict[str, float], int]:
    return _peft(pair, "cat")


def peft_svd(pair: Pair) -> tuple[dict[str, float], int]:
    return _peft(pair, "svd")


def _peft(pair: Pair, how: str) -> tuple[dict[str, float], int]:
    """PEFT works inside a loaded model; loading that, and its memory, are not counted (its weights stay untouched)."""
    from peft import PeftModel
    from transformers import LlamaConfig, LlamaForCausalLM

    hidden = pair.shape.linears["self_attn.q_proj"][1]
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=hidden,
        intermediate_size=pair.shape.linears.get("mlp.up_proj", (64, hidden))[0],
        num_hidden_layers=pair.shape.layers,
        num_attention_heads=hidden // 128,
        num_key_value_heads=pair.shape.linears["self_attn.v_proj"][0] // 128,
        dtype=torch.float16,
    )
    with torch.device("meta"):
        base = LlamaForCausalLM(config)
    base = base.half().to_empty(device="cpu")  # on meta itself PEFT would put the combined adapter there too, empty
    options = {"svd_rank": 2 * pair.shape.rank, "svd_full_matrices": False} if how == "svd" else {}
    with _clock() as elapsed:
        model = PeftModel.from_pretrained(base, str(pair.expert), adapter_name="expert")
        model.load_adapter(str(pair.anti_expert), adapter_name="anti")
        model.add_weighted_adapter(["expert", "anti"], list(WEIGHTS), "combined", combination_type=how, **options)
        model.save_pretrained(str(pair.output), selected_adapters=["combined"], save_embedding_layers=False)
        _sync(*_weights(pair.output))
    held = _bytes(parameter for name, parameter in model.named_parameters() if "lora_" in name)
    return {f"PEFT add_weighted_adapter, {how}": elapsed[0]}, held


CONTENDERS: dict[str, Callable[[Pair], tuple[dict[str, float], int]]] = {
    "floor": floor,
    "extsub": extsub,
    "dense": dense,
    "peft_cat": peft_cat,
    "peft_svd": peft_svd,
}
"""Each gives its seconds by row of the table, and the bytes it holds for as many layers as there are."""


def error(name: str, pair: Pair) -> float | None:
    """Relative Frobenius error of what ``name`` wrote, against dense float64: the larger one of `MODULES`."""
    if name == "floor":
        return None
    return max(_module_error(name, pair, f"base_model.model.model.layers.0.{module}") for module in MODULES)


def _module_error(name: str, pair: Pair, module: str) -> float:
    e, a = _delta(pair.expert / SAFETENSORS, module), _delta(pair.anti_expert / SAFETENSORS, module)
    exact = WEIGHTS[0] * e + WEIGHTS[1] * a if name.startswith("peft") else ext_sub(e, a)
    (file,) = _weights(pair.output)
    return float((_delta(file, module) - exact).norm() / exact.norm())


def ext_sub(e: Tensor, a: Tensor) -> Tensor:
    """The paper, on dense matrices: the anti-expert's part along the bisector of the two directions is kept."""
    bisector = _unit(_unit(e) + _unit(a))
    shared = (a * bisector).sum(1, keepdim=True) * bisector
    return e - ALPHA * (a - shared)


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)


def _delta(file: Path, module: str) -> Tensor:
    with safe_open(file, framework="pt") as tensors:
        B, A = (tensors.get_tensor(f"{module}.lora_{factor}.weight").double() for factor in "BA")
    return _scaling(file.parent) * B @ A


def _scaling(folder: Path) -> float:
    path = folder / "adapter_config.json"
    if not path.exists():
        return 1.0
    config = json.loads(path.read_text())
    return config["lora_alpha"] / config["r"]


def _weights(output: Path) -> list[Path]:
    return sorted(output.rglob("*.safetensors"))


def _write(tensors: dict[str, Tensor], output: Path) -> None:
    output.mkdir()
    save_file(tensors, output / SAFETENSORS)
    _sync(output / SAFETENSORS)


def _sync(*paths: Path) -> None:
    for path in paths:
        with path.open("rb+") as file:
            os.fsync(file.fileno())


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors)


def _peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


@contextmanager
def _clock() -> Generator[list[float]]:
    """Seconds of the block, in the list once it has ended."""
    elapsed: list[float] = []
    start = time.perf_counter()
    yield elapsed
    elapsed.append(time.perf_counter() - start)


def _timed(function: Callable, spent: list[float]) -> Callable:
    """``function``, adding to ``spent`` how long it took."""

    def timed(*args: object) -> object:
        with _clock() as elapsed:
            result = function(*args)
        spent.extend(elapsed)
        return result

    return timed
