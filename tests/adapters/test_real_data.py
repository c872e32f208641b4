"""Real adapters and configs found in public repositories, where their folder is at hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import adapter_files
import extsub
import oracle
from conftest import ROOT
from extsub import ExtSubError, combine, load_adapter, save_adapter
from extsub.adapters.config import REFUSED_KINDS

ALPHA = 0.7
GOLDEN = ROOT / "tests" / "data" / "golden"
"""what the authors' script made of small adapters, which are made up"""


@pytest.mark.slow
def test_the_real_pair_agrees_with_the_dense_oracle(data: Path, tmp_path: Path) -> None:
    """Two LoRA adapters of gpt2 by strangers, with scalings 4 and 2."""
    folders = data / "adapters" / "gpt2-a", data / "adapters" / "gpt2-b"
    for operation in extsub.OPERATIONS:
        result = combine(*folders, operation=operation, alpha=ALPHA)
        save_adapter(result, tmp_path / "out", overwrite=True)
        for name in result.modules:
            e, a = (adapter_files.read_delta(folder, name) for folder in folders)
            want = oracle.combined(operation, e, [a], [ALPHA])
            assert oracle.relative_error(adapter_files.read_delta(tmp_path / "out", name), want) < 1e-6


@pytest.mark.parametrize("operation", ["ext-sub", "subtract", "add"])
def test_where_the_authors_are_right_we_equal_them(tmp_path: Path, operation: str) -> None:
    """Square modules, equal scalings, no zero rows, float32: their own output, recorded."""
    theirs_name = {"ext-sub": "ext-sub", "subtract": "subtraction", "add": "addition"}[operation]
    for kind in ("lora", "prefix"):
        inputs = GOLDEN / kind / "expert", GOLDEN / kind / "anti_expert"
        result = combine(*inputs, operation=operation, alpha=ALPHA)
        save_adapter(result, tmp_path / kind)
        theirs = load_file(GOLDEN / kind / f"authors-{theirs_name}-alpha0.7.safetensors")
        if kind == "prefix":
            (want,) = theirs.values()
            ours = adapter_files.tensors_of(tmp_path / kind)["prompt_embeddings"]
            assert torch.allclose(ours, want, atol=1e-5)
            continue
        assert len(theirs) == len(result.modules)
        for key, want in theirs.items():
            (name,) = [name for name in result.modules if name in key]
            assert torch.allclose(adapter_files.read_delta(tmp_path / kind, name).float(), want, atol=1e-5)


def adapter_for(config: dict, folder: Path) -> Path:
    """The adapter that a config describes, as far as made-up tensors can follow it."""
    folder.mkdir()
    targets = config.get("target_modules")
    names = targets if isinstance(targets, list) else ["q_proj"]
    tensors = {}
    for name in names:
        module = f"base_model.model.model.layers.0.{name}"
        match config.get("peft_type"):
            case "ADALORA":
                tensors |= {f"{module}.lora_A": torch.ones(2, 4), f"{module}.lora_B": torch.ones(4, 2)}
                tensors[f"{module}.lora_E"] = torch.ones(2, 1)
            case "IA3":
                shape = (1, 4) if name in config["feedforward_modules"] else (4, 1)
                tensors[f"{module}.ia3_l"] = torch.ones(shape)
            case "PREFIX_TUNING":
                width = config["num_layers"] * 2 * config["token_dim"]
                tensors = {"prompt_embeddings": torch.ones(config["num_virtual_tokens"], width)}
            case "LORA":
                rank = (config.get("rank_pattern") or {}).get(name, config.get("r", 8))
                tensors |= {
                    f"{module}.lora_A.weight": torch.ones(rank, 4),
                    f"{module}.lora_B.weight": torch.ones(4, rank),
                }
            case _:
                tensors[f"{module}.something"] = torch.ones(1)
    return adapter_files.write(folder, tensors, config)


# What decides about those that are refused, as anyone can read it in the file.
REASONS = {
    "use_dora": lambda c: c.get("use_dora"),
    "use_bdlora": lambda c: c.get("use_bdlora"),
    "enable_lora": lambda c: c.get("enable_lora"),
    "lora_parameters": lambda c: c.get("peft_type") == "LORA" and c.get("lora_parameters"),
    "no peft_type": lambda c: "peft_type" not in c,
    "adapters cannot be combined or merged": lambda c: c.get("peft_type") in REFUSED_KINDS,
}


def test_every_real_config_reads_or_is_refused_for_a_true_reason(data: Path, tmp_path: Path) -> None:
    configs = sorted((data / "adapter_configs").glob("*.json"))
    assert len(configs) == 118
    read, refused = [], []
    for path in configs:
        try:
            config = json.loads(path.read_text())
        except json.JSONDecodeError:
            folder = adapter_files.lora(tmp_path / path.stem)
            (folder / "adapter_config.json").write_bytes(path.read_bytes())
            with pytest.raises(ExtSubError, match="is a Git LFS pointer"):
                load_adapter(folder)
            refused.append(path.stem)
            continue
        folder = adapter_for(config, tmp_path / path.stem)
        reasons = [text for text, holds in REASONS.items() if holds(config)]
        if reasons:
            with pytest.raises(ExtSubError, match="|".join(reasons)):
                load_adapter(folder)
            refused.append(path.stem)
        else:
            assert load_adapter(folder).modules, path.stem
            read.append(path.stem)
    assert len(read) + len(refused) == len(configs)
    assert len(read) > 60
