"""What is not merged is refused in one sentence, before anything is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import adapter_files
import merge_files
from adapter_files import Q, V
from extsub import ExtSubError, combine, load_adapter, merge

INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def refused(folder: Path, message: str, **options: Any) -> None:
    before = sorted(folder.rglob("*"))
    with pytest.raises(ExtSubError, match=message) as caught:
        merge(folder / "base", folder / "adapter", folder / "merged", **options)
    assert "\n" not in str(caught.value)
    assert sorted(folder.rglob("*")) == before


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A base and an adapter that fits."""
    merge_files.plain(tmp_path / "base")
    adapter_files.lora(tmp_path / "adapter")
    return tmp_path


def config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


# ---- adapters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (adapter_files.prefix, "PREFIX_TUNING adapters change no weight of the base, so there is nothing to merge"),
        (lambda folder: adapter_files.prefix(folder, peft_type="PROMPT_TUNING"), "PROMPT_TUNING adapters change no"),
        (lambda folder: adapter_files.prefix(folder, peft_type="P_TUNING"), "P_TUNING adapters change no weight"),
        (lambda folder: adapter_files.lora(folder, use_dora=True), "DoRA rescales the base weights"),
        (lambda folder: adapter_files.lora(folder, lora_bias=True), "lora_bias is True"),
        (lambda folder: adapter_files.lora(folder, init_lora_weights="pissa"), "it changed the base weights when"),
        (lambda folder: adapter_files.lora(folder, init_lora_weights="loftq"), "it changed the base weights when"),
        (lambda folder: adapter_files.lora(folder, layer_replication=[[0, 2], [1, 3]]), "layer_replication is set in"),
    ],
)  # fmt: skip
def test_adapters_that_are_not_a_change_of_weights(pair: Path, make: Callable[[Path], Path], message: str) -> None:
    shutil.rmtree(pair / "adapter")
    make(pair / "adapter")
    refused(pair, message)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({Q: (12, 8), "model.layers.7.mlp.up_proj": (6, 8)}, "adapter: .*base has no weight for model.layers.7.mlp.up"),
        ({Q: (12, 9)}, r"q_proj is for a weight of shape \[12, 9\], and model.*q_proj.weight of .*\[12, 8"),
        ({Q: (8, 12)}, r"q_proj is for a weight of shape \[8, 12\]"),
        ({"model.layers.0.self_attn.qkv_proj": (20, 8)}, "no weight for .*qkv_proj; it has model.*[qv]_proj, and one"),
        ({"model.norm": (8, 8)}, r"is for a weight of shape \[8, 8\], and model.norm.weight of .* has \[8\]"),
    ],
)  # fmt: skip
def test_layers_that_the_base_has_not_or_in_another_shape(
    pair: Path, shapes: dict[str, tuple[int, int]], message: str
) -> None:
    shutil.rmtree(pair / "adapter")
    adapter_files.lora(pair / "adapter", shapes)
    refused(pair, message)


def test_a_layer_that_may_be_two_of_the_base(pair: Path) -> None:
    """Both are as like the adapter's name; neither is it."""
    tensors = load_file(pair / "base" / "model.safetensors")
    tensors |= {f"{model}.{key}": tensor.clone() for model in ("first", "second") for key, tensor in tensors.items()}
    save_file({key: tensor for key, tensor in tensors.items() if "." in key and "el.l" in key and key[0] != "m"},
              pair / "base" / "model.safetensors")  # fmt: skip
    refused(pair, r"q_proj may be first.model.* or second.model.*: give the layers of the adapter the names")


def test_two_layers_that_are_one_of_the_base(pair: Path) -> None:
    """Under its old name, and its new one."""
    shutil.rmtree(pair / "adapter")
    old, new = (f"model.layers.0.{part}.gate" for part in ("block_sparse_moe", "mlp"))
    adapter_files.lora(pair / "adapter", {old: (4, 8), new: (4, 8)})
    tensors = load_file(pair / "base" / "model.safetensors")
    save_file(tensors | {f"{new}.weight": torch.randn(4, 8)}, pair / "base" / "model.safetensors")
    refused(pair, f"adapter: {old} and {new} both mean {new}.weight of .*base: keep one")


def test_experts_of_another_number_or_kept_otherwise(pair: Path) -> None:
    """One tensor for all experts, and an adapter for each: gate and up may be interleaved, so nobody can tell."""
    shutil.rmtree(pair / "adapter")
    shutil.rmtree(pair / "base")
    experts = {f"model.layers.0.mlp.experts.{number}.gate_proj.weight": torch.randn(6, 8) for number in range(3)}
    merge_files.base(pair / "base", experts)
    name = "model.layers.0.mlp.experts"
    target = {"target_parameters": ["mlp.experts.gate_proj"], "target_modules": ["q_proj"]}
    for count in (2, 4):
        tensors = {f"base_model.model.{name}.lora_A.weight": torch.randn(2 * count, 8),
                   f"base_model.model.{name}.lora_B.weight": torch.randn(6, 2 * count)}  # fmt: skip
        adapter_files.write(pair / "adapter", tensors, adapter_files.lora_config(2, **target))
        refused(pair, rf"experts changes {name}.gate_proj, and its shape \[{count}, 6, 8\] fits none that is there")
    adapter_files.lora(pair / "adapter", {f"{name}.0.gate_proj": (6, 8)})
    shutil.rmtree(pair / "base")
    merge_files.base(pair / "base", {f"{name}.gate_up_proj": torch.randn(3, 12, 8)})
    refused(pair, rf"has no weight for {name}.0.gate_proj; it has {name}, and one of them is in one tensor")


def test_a_whole_tensor_that_the_base_lacks_or_has_in_another_size(pair: Path) -> None:
    head = "base_model.model.score.weight"
    adapter_files.edit_tensors(pair / "adapter", {head: torch.randn(2, 8)})
    refused(pair, "it stores score whole, which .*base lacks: a model with another head")
    adapter_files.edit_tensors(
        pair / "adapter", {"base_model.model.lm_head.weight": torch.randn(11, 8)}, remove="score"
    )
    refused(pair, r"lm_head is for a weight of shape \[11, 8\].*: is the base another, or its vocabulary resized\?")


def test_a_result_that_is_not_on_the_disk(pair: Path) -> None:
    adapter_files.lora(pair / "anti", seed=1)
    result = combine(pair / "adapter", pair / "anti")
    with pytest.raises(ExtSubError, match="the adapter is not on the disk yet: save_adapter it first"):
        merge(pair / "base", result, pair / "merged")
    assert merge(pair / "base", load_adapter(pair / "adapter"), pair / "merged")["changed"] == 2


# ---- bases -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "bitsandbytes"),
        ({"text_config": {"quantization_config": {"quant_method": "fp8"}}}, "fp8"),
        ({"quantization_config": {"load_in_8bit": True}}, "quantization_config in config.json"),
        ({"compression_config": {"format": "int-quantized"}}, "compression_config"),
    ],
)
def test_a_quantised_base(pair: Path, fields: dict[str, Any], said: str) -> None:
    config(pair / "base", **fields)
    refused(pair, rf"base is quantised \(.*{said}.*\): an adapter cannot be added to quantised weights: give the model")


@pytest.mark.parametrize(
    "tensors",
    [
        {f"{Q}.qweight": torch.zeros(1, 12, dtype=torch.int32)},
        {f"{Q}.weight": torch.zeros(12, 8).to(torch.float8_e4m3fn), f"{Q}.weight_scale_inv": torch.ones(1, 1)},
        {f"{Q}.weight": torch.zeros(12, 8).to(torch.float8_e5m2)},
        {f"{Q}.weight": torch.zeros(48, 1, dtype=torch.uint8), f"{Q}.weight.absmax": torch.ones(1)},
    ],
    ids=["gptq", "fp8-with-scales", "fp8", "bnb"],
)
def test_quantised_tensors_without_a_word_in_the_config(pair: Path, tensors: dict[str, torch.Tensor]) -> None:
    old = {key: tensor for key, tensor in load_file(pair / "base" / "model.safetensors").items() if Q not in key}
    save_file(old | tensors, pair / "base" / "model.safetensors")
    refused(pair, r"base is quantised \(it has model.layers.0.self_attn.q_proj.*, stored as")


def test_a_weight_of_whole_numbers(pair: Path) -> None:
    old = load_file(pair / "base" / "model.safetensors")
    save_file(old | {f"{Q}.weight": torch.zeros(12, 8, dtype=torch.int8)}, pair / "base" / "model.safetensors")
    refused(pair, "q_proj.weight is stored as I8, to which nothing can be added.*: is it quantised?")
    (pair / "base" / "quantize_config.json").write_text("{}")
    refused(pair, "it has a quantize_config.json")


def only(base: Path, *names: str) -> None:
    """Files of these names in the place of the weights."""
    (base / "model.safetensors").unlink()
    for name in names:
        (base / name).write_bytes(b"")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["pytorch_model.bin"], "its weights are in pytorch_model.bin, which holds pickles .* save_pretrained"),
        (["pytorch_model-00001-of-00002.bin"], "its weights are in pytorch_model-00001-of-00002.bin"),
        (["model.Q4_K_M.gguf"], "a GGUF file is for llama.cpp: give the model that it was made from"),
        ([SHARDS[0]], f"it has shards and no {INDEX}, which says what is in them: download it again"),
        (["consolidated.safetensors"], r"neither model.safetensors nor .* is there \(there is consolidated.sa"),
        ([], f"neither model.safetensors nor {INDEX} is there"),
        (["adapter_config.json"], "base is an adapter: give the base model first, then the adapter"),
    ],
)  # fmt: skip
def test_a_base_without_safetensors(pair: Path, names: list[str], message: str) -> None:
    only(pair / "base", *names)
    refused(pair, message)


def edit_index(base: Path, edit: Callable[[dict[str, str]], dict[str, str]]) -> None:
    index = json.loads((base / INDEX).read_text())
    (base / INDEX).write_text(json.dumps(index | {"weight_map": edit(index["weight_map"])}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda base: (base / SHARDS[1]).unlink(), f"1 of 2 shards are missing, first {SHARDS[1]}: download it again"),
        (lambda base: (base / INDEX).unlink(), f"it has shards and no {INDEX}"),
        (lambda base: (base / INDEX).write_text("{"), f"{INDEX} is not valid JSON"),
        (lambda base: (base / INDEX).write_text("[]"), f"{INDEX} holds a JSON list, expected an object"),
        (lambda base: (base / INDEX).write_text('{"weight_map": []}'), "has no weight_map of names"),
        (lambda base: edit_index(base, lambda of: of | {f"{Q}.weight": "../model.safetensors"}), "names the file"),
        (lambda base: edit_index(base, lambda of: of | {"model.lost.weight": SHARDS[0]}), "lost.weight is in model-"),
        (lambda base: edit_index(base, lambda of: of | {"lm_head.weight": SHARDS[1]}), "that lm_head.weight is in"),
        (lambda base: shutil.copyfile(base / SHARDS[0], base / SHARDS[1]), "is in two shards: download it again"),
        (lambda base: (base / SHARDS[0]).write_bytes((base / SHARDS[0]).read_bytes()[:-8]), "is not a complete safet"),
        (lambda base: (base / SHARDS[0]).write_text("version https://git-lfs.github"), "is a Git LFS pointer"),
    ],
)  # fmt: skip
def test_a_base_in_shards_that_is_not_whole(pair: Path, damage: Callable[[Path], object], message: str) -> None:
    tensors = load_file(pair / "base" / "model.safetensors")
    shutil.rmtree(pair / "base")
    damage(merge_files.base(pair / "base", tensors, shards=2))
    refused(pair, message)


def test_a_base_that_is_no_model(pair: Path) -> None:
    (pair / "base" / "config.json").write_text("{")
    refused(pair, "base: config.json is not valid JSON .*: download it again")
    (pair / "base" / "config.json").unlink()
    refused(pair, "base: no config.json in this folder, so it holds no model")
    merge_files.plain(pair / "deep" / "base")
    with pytest.raises(ExtSubError, match="deep: no config.json .*; there is one in base: give that subfolder"):
        merge(pair / "deep", pair / "adapter", pair / "merged")
    with pytest.raises(ExtSubError, match="is a file: give the folder that holds config.json and the weights"):
        merge(pair / "deep" / "base" / "model.safetensors", pair / "adapter", pair / "merged")
    with pytest.raises(ExtSubError, match="not a model of the hub"):
        merge("./nowhere", pair / "adapter", pair / "merged")


# ---- numbers and options ---------------------------------------------------------------------------------------------


def test_numbers_that_do_not_fit(pair: Path) -> None:
    tensors = load_file(pair / "base" / "model.safetensors")
    save_file(tensors | {"model.norm.weight": torch.full((8,), 1e6)}, pair / "base" / "model.safetensors")
    refused(pair, "model.norm.weight has numbers too large for float16: choose --dtype float32", dtype="float16")
    broken = tensors[f"{V}.weight"].clone()
    broken[1, 1] = torch.nan
    save_file(tensors | {f"{V}.weight": broken}, pair / "base" / "model.safetensors")
    refused(pair, "v_proj.weight of the base holds NaN or infinity: the file is damaged")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float8"}, "dtype must be one of auto, float32, float16, bfloat16, found 'float8'"),
        ({"max_shard_size": "5"}, "max_shard_size must be a size above 0 in KB, MB, GB or TB, as 5GB, found '5'"),
        ({"max_shard_size": "0GB"}, "max_shard_size must be a size above 0"),
        ({"max_shard_size": "-1GB"}, "max_shard_size must be a size above 0"),
    ],
)
def test_options_out_of_range(pair: Path, options: dict[str, Any], message: str) -> None:
    refused(pair, message, **options)


@pytest.mark.parametrize("output", ["base", "adapter", "base/merged", "adapter/merged", "."])
def test_an_output_that_would_destroy_an_input(pair: Path, output: str) -> None:
    before = sorted(pair.rglob("*"))
    with pytest.raises(ExtSubError, match="is also an input|lie inside one another"):
        merge(pair / "base", pair / "adapter", pair / output, overwrite=True)
    assert sorted(pair.rglob("*")) == before
