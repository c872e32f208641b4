"""LoRA whose names are not the base's own is put where its weights went: against dense deltas in the old checkpoint."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, MixtralConfig, Qwen2MoeConfig

import tiny_models
from adapter_files import edit_config
from extsub import Dial, ExtSubError, combine, load_adapter, save_adapter
from extsub.combination.profile import Profile
from extsub.inference.language_model import Base, load_base, switched_to
from extsub.models.adapter_handle import find
from extsub.models.attaching import attach_reference
from extsub.models.source import find_model

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries

IDS = torch.arange(16).view(1, -1) * 7 % 300
WEIGHTS = "adapter_model.safetensors"
SHAPE: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 16, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "bos_token_id": 0, "eos_token_id": 1, "initializer_range": 0.2,
}  # fmt: skip
CONFIGS = {
    "mixtral": MixtralConfig(num_local_experts=3, num_experts_per_tok=2, **SHAPE),
    "qwen2": Qwen2MoeConfig(  # with a shared expert, whose layers are called as those of the others
        num_experts=3, num_experts_per_tok=2, moe_intermediate_size=12, shared_expert_intermediate_size=8, **SHAPE
    ),
}
EXPERTS = ("w1", "w2", "w3", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixtures")
    for name, config in CONFIGS.items():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / name)
        tiny_models.tokenizer().save_pretrained(folder / name)
    return folder


def is_adapted(layer: str) -> bool:
    return layer.endswith((*EXPERTS, "q_proj", "block_sparse_moe.gate"))


def write(
    base: Path, folder: Path, seed: int = 0, layers: Callable[[str], bool] = is_adapted, **fields: Any
) -> dict[str, Tensor]:
    """A LoRA as transformers 4 and PEFT made it, with a Linear for every expert. (its changes of the checkpoint)"""
    random, tensors, deltas = torch.Generator().manual_seed(seed), {}, {}
    config = {"r": 2, "lora_alpha": 5, "lora_dropout": 0.05, **fields}
    names = [name.removesuffix(".weight") for name in load_file(base / "model.safetensors")]
    for name in filter(layers, names):
        rows, columns = load_file(base / "model.safetensors")[f"{name}.weight"].shape
        last = name.rpartition(".")[2]
        r = config.get("rank_pattern", {}).get(last, config["r"])
        alpha = config.get("alpha_pattern", {}).get(last, config["lora_alpha"])
        A, B = torch.randn(r, columns, generator=random) * 0.3, torch.randn(rows, r, generator=random) * 0.3
        tensors |= {f"base_model.model.{name}.lora_A.weight": A, f"base_model.model.{name}.lora_B.weight": B}
        scaling = alpha / math.sqrt(r) if config.get("use_rslora") else alpha / r
        deltas[f"{name}.weight"] = scaling * B.double() @ A.double()
    folder.mkdir()
    save_file(tensors, folder / WEIGHTS)
    config |= {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(base)}
    config.setdefault("target_modules", sorted({name.rpartition(".")[2] for name in filter(layers, names)}))
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return deltas


def logits(module: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        return module(input_ids=IDS).logits


def with_deltas(base: Path, deltas: dict[str, Tensor], folder: Path) -> Tensor:
    """What a base says whose checkpoint was changed by hand, before transformers reads it."""
    folder.mkdir()
    shutil.copyfile(base / "config.json", folder / "config.json")
    weights = load_file(base / "model.safetensors")
    weights |= {name: (weights[name].double() + delta).float() for name, delta in deltas.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return logits(AutoModelForCausalLM.from_pretrained(folder).eval())


def loaded(models: Path, name: str) -> Base:
    return load_base(find_model(str(models / name)), "float32")


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"use_rslora": True},
        {"alpha_pattern": {"w1": 11, "gate_proj": 11}, "rank_pattern": {"w3": 4, "up_proj": 4}},
        {"layers": lambda name: is_adapted(name) and "layers.1." in name, "layers_to_transform": [1]},
        {"layers": lambda name: name.endswith((".w2", "experts.0.down_proj", "experts.1.down_proj", "2.down_proj")),
         "target_modules": r".*experts.*(w2|down_proj)"},
    ],
    ids=["plain", "rslora", "patterns", "one-layer", "one-projection"],
)  # fmt: skip
def test_a_lora_of_single_experts_changes_what_it_changed(
    models: Path, tmp_path: Path, name: str, fields: dict[str, Any]
) -> None:
    """PEFT itself would lose rsLoRA, a pattern, and layers beside the experts; and it asks for no dropout."""
    base = loaded(models, name)
    plain = logits(base.model)
    expected = with_deltas(models / name, write(models / name, tmp_path / "lora", **fields), tmp_path / "changed")
    assert (expected - plain).abs().max() > 0.05
    with base.with_adapter(find(str(tmp_path / "lora"))) as model:
        torch.testing.assert_close(logits(model.module), expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(logits(base.model), plain)


@pytest.mark.parametrize("name", CONFIGS)
def test_results_and_dials_of_single_experts_are_the_dense_formula(models: Path, tmp_path: Path, name: str) -> None:
    base, path = loaded(models, name), models / name
    pair = [write(path, tmp_path / "e", 1, use_rslora=True), write(path, tmp_path / "a", 2, r=3)]
    expert, anti_expert = load_adapter(tmp_path / "e"), load_adapter(tmp_path / "a")
    save_adapter(combine(expert, anti_expert, alpha=0.7, dtype="float32"), tmp_path / "out")
    result = {}
    for layer, e in pair[0].items():
        a = pair[1][layer]
        ratio = a.norm(dim=1, keepdim=True) / e.norm(dim=1, keepdim=True)
        result[layer] = (1 + 0.35 * ratio) * e - 0.35 * a
    expected = with_deltas(path, result, tmp_path / "changed")
    with base.with_adapter(find(str(tmp_path / "out"))) as model:
        attach_reference(model.module, find(str(tmp_path / "e")))
        torch.testing.assert_close(logits(model.module), expected, atol=1e-4, rtol=1e-4)
        with switched_to(model, find(str(tmp_path / "e"))) as reference:
            of_expert = with_deltas(path, pair[0], tmp_path / "expert")
            torch.testing.assert_close(logits(reference.module), of_expert, atol=1e-4, rtol=1e-4)
    dial = Dial(base.model, expert, anti_expert)
    dial.set("ext-sub", 0.7)
    torch.testing.assert_close(logits(dial.module), expected, atol=1e-4, rtol=1e-4)
    profile = Profile({"q_proj": 0.5, ("w1" if name == "mixtral" else "gate_proj"): 2.0}, ramp=0.2)
    dial.set("ext-sub", 0.7, profile)
    turned = logits(dial.module)
    dial.remove()
    save_adapter(combine(expert, anti_expert, alpha=0.7, profile=profile, dtype="float32"), tmp_path / "spread")
    with base.with_adapter(find(str(tmp_path / "spread"))) as model:
        torch.testing.assert_close(turned, logits(model.module), atol=1e-4, rtol=1e-4)


def test_experts_that_are_missing_or_fit_nowhere_are_named(models: Path, tmp_path: Path) -> None:
    base, path = loaded(models, "mixtral"), models / "mixtral"
    write(path, tmp_path / "few", layers=lambda name: is_adapted(name) and ".experts.2." not in name)
    with pytest.raises(ExtSubError, match=r"few: 6 layers missing, first expert 2 of model.layers.0.mlp.experts."):
        base.with_adapter(find(str(tmp_path / "few"))).__enter__()
    write(path, tmp_path / "many")
    for change, message in (
        ({"experts.2.": "experts.9."}, "has shape .* and this base has no place for it: say which --model"),
        ({"layers.1.": "layers.7."}, "tensors missing, first base_model.model.model.layers.0"),
    ):
        folder = tmp_path / message[:9].strip()
        shutil.copytree(tmp_path / "many", folder)
        ((old, new),) = change.items()
        tensors = load_file(folder / WEIGHTS)
        save_file({key.replace(old, new): tensor for key, tensor in tensors.items()}, folder / WEIGHTS)
        edit_config(folder, target_modules=r".*(w1|w2|w3|q_proj|gate)")  # says nothing of which layers
        with pytest.raises(ExtSubError, match=message):
            base.with_adapter(find(str(folder))).__enter__()
        assert not hasattr(base.model, "peft_config")


@pytest.mark.parametrize(
    "rename",
    [
        lambda key: re.sub(r"(lora_[AB])", r"\1.default", key),
        lambda key: key.replace("base_model.model.", "base_model.model._orig_mod."),
        lambda key: f"base_model.model.{key}",
    ],
    ids=["default", "wrapper", "prefix-twice"],
)
def test_names_that_are_read_with_what_is_left_in_them_are_also_put_on(
    tmp_path: Path, rename: Callable[[str], str]
) -> None:
    """Also as a reference, whose name in PEFT is another."""
    path = tiny_models.llama(tmp_path / "base")
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        init_lora_weights=False,
        target_modules=["q_proj", "down_proj"],
        modules_to_save=["lm_head"],
    )
    torch.manual_seed(0)
    made = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(path), config).eval()
    made.get_submodule("base_model.model.lm_head.modules_to_save.default").weight.data += 0.1
    made.save_pretrained(tmp_path / "lora")
    expected = logits(made)
    file = tmp_path / "lora" / WEIGHTS
    save_file({rename(key): tensor for key, tensor in load_file(file).items()}, file)
    base, adapter = load_base(find_model(str(path)), "float32"), find(str(tmp_path / "lora"))
    plain = logits(base.model)
    with base.with_adapter(adapter) as model:
        torch.testing.assert_close(logits(model.module), expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(logits(base.model), plain)  # the head of the adapter too is gone
    with base.with_adapter(adapter) as model:
        attach_reference(model.module, adapter)
        with switched_to(model, adapter) as other:
            torch.testing.assert_close(logits(other.module), expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(logits(base.model), plain)
