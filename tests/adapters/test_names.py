"""What training leaves in the names of layers, names that PEFT would not find, and one layer under two names."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import adapter_files
from adapter_files import PREFIX, Q, V
from extsub import ExtSubError, combine, load_adapter, save_adapter
from extsub.adapters import ia3, lora

WRAPPERS = ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_fpw_module", "_forward_module"]
CLEAN = adapter_files.factors()


def deltas(folder: Path) -> dict[str, torch.Tensor]:
    return {name: adapter_files.dense(module.read()) for name, module in load_adapter(folder).modules.items()}


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_wrappers_anywhere_in_any_key_leave_the_adapter_as_it_is(tmp_path: Path, data: st.DataObject) -> None:
    """Each key by itself: some layers are compiled, others not, and a wrapper may stand around another one."""
    tensors = {}
    for key, tensor in CLEAN.items():
        parts = key.split(".")
        for wrapper in data.draw(st.lists(st.sampled_from(WRAPPERS), max_size=3)):
            parts.insert(data.draw(st.integers(0, parts.index("lora_A" if "lora_A" in parts else "lora_B"))), wrapper)
        key = ".".join(parts)
        if data.draw(st.booleans()):
            key = key.replace(".weight", ".default.weight")
        tensors[f"module.{key}" if data.draw(st.booleans()) else key] = tensor
    adapter = load_adapter(adapter_files.write(tmp_path / "wrapped", tensors, adapter_files.lora_config()))
    assert set(adapter.modules) == {Q, V}
    plain = {
        name: 2 * CLEAN[f"{PREFIX}{name}.lora_B.weight"].double() @ CLEAN[f"{PREFIX}{name}.lora_A.weight"].double()
        for name in (Q, V)
    }
    assert all(torch.equal(plain[name], delta) for name, delta in deltas(tmp_path / "wrapped").items())
    assert bool(adapter.notes) == (tensors.keys() != CLEAN.keys()), "said if there was any"
    assert adapter.targets == ("q_proj", "v_proj")


@pytest.mark.parametrize(
    ("rename", "note"),
    [
        (lambda key: key.replace("layers.0", "layers.0._orig_mod"), "_orig_mod was left out of 4 of 4 keys"),
        (lambda key: key.replace(Q, f"_orig_mod.{Q}"), "_orig_mod was left out of 2 of 4 keys"),
        (lambda key: key.replace(PREFIX, f"{PREFIX}module."), "module was left out of 4 of 4 keys"),
        (lambda key: key.replace(PREFIX + Q, PREFIX * 2 + Q), "a second base_model.model was left out of 2 of 4 keys"),
        (
            lambda key: key.replace(".weight", ".style.weight"),
            "the name of the adapter, style, was left out of the keys",
        ),
    ],
)
def test_what_is_left_out_is_said(tmp_path: Path, rename, note: str) -> None:
    tensors = {rename(key): tensor for key, tensor in CLEAN.items()}
    adapter = load_adapter(adapter_files.write(tmp_path / "a", tensors, adapter_files.lora_config()))
    assert (set(adapter.modules), adapter.notes) == ({Q, V}, (note,))
    save_adapter(adapter, tmp_path / "out")
    assert adapter_files.tensors_of(tmp_path / "out").keys() == CLEAN.keys(), "no wrapper is written"
    assert adapter_files.config_of(tmp_path / "out")["target_modules"] == ["q_proj", "v_proj"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (f"{PREFIX}model._orig_mod.layers.0.self_attn.q_proj.lora_A.weight", "both mean one tensor: keep one of them"),
        (f"{PREFIX}{Q}.lora_A.default.weight", "both mean one tensor"),
        (f"module.{PREFIX}{Q}.lora_A.weight", "both mean one tensor"),
    ],
)
def test_two_keys_for_one_tensor_are_refused(tmp_path: Path, extra: str, message: str) -> None:
    adapter_files.edit_tensors(adapter_files.lora(tmp_path / "a"), add={extra: torch.ones(3, 8)})
    with pytest.raises(ExtSubError, match=message):
        load_adapter(tmp_path / "a")


def test_two_adapters_in_one_file_are_refused(tmp_path: Path) -> None:
    tensors = {
        key.replace(".weight", ".kind.weight" if "q_proj" in key else ".rude.weight"): tensor
        for key, tensor in CLEAN.items()
    }
    with pytest.raises(ExtSubError, match=r"it holds several adapters \(kind, rude\): save one of them"):
        load_adapter(adapter_files.write(tmp_path / "a", tensors, adapter_files.lora_config()))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.layers.0._my_wrapper.q_proj", "_my_wrapper is what some wrapper is called"),
        ("model.layers.0.module.q_proj", "'module' is what wrappers for several GPUs are called"),
        ("model.layers.0.self_attn.q_proj.base_layer", "PEFT calls modules base_layer that it makes itself"),
        ("model.base_model.model.layers.0.q_proj", "PEFT calls modules base_model that it makes itself"),
        ("model..q_proj", "a part of the name is empty"),
    ],
)
@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_a_layer_that_peft_would_not_find_is_refused(tmp_path: Path, kind: str, name: str, message: str) -> None:
    if kind == "lora":
        adapter_files.lora(tmp_path / "a", {name: (12, 8), V: (4, 8)})
    else:
        adapter_files.ia3(tmp_path / "a", vectors={name: (4, 1), "layers.0.k_proj": (4, 1)})
    with pytest.raises(ExtSubError, match=f"is not a layer that PEFT would find: {message}"):
        load_adapter(tmp_path / "a")


@pytest.mark.parametrize("other", ["model.model.layers.1.q_proj", "language_model.model.layers.0.q_proj", "layers.1.k"])
def test_layers_below_two_roots_of_one_model_are_refused(tmp_path: Path, other: str) -> None:
    folder = adapter_files.lora(tmp_path / "a", {"model.layers.0.q_proj": (4, 4), other: (4, 4)})
    with pytest.raises(
        ExtSubError, match="some of its layers are below .*layers and some below .*layers: no base has both"
    ):
        load_adapter(folder)


def test_parts_of_one_model_with_lists_of_their_own_are_not(tmp_path: Path) -> None:
    names = [
        "model.language_model.layers.0.q_proj",
        "model.visual.blocks.0.attn.qkv",
        "lm_head",
        "thinker.model.layers.0.k",
        "thinker.layers.0.k",
    ]
    load_adapter(adapter_files.lora(tmp_path / "a", dict.fromkeys(names, (4, 4))))


def test_a_layer_called_default_keeps_its_name(tmp_path: Path) -> None:
    name = "model.default.layers.0.q_proj"
    assert set(load_adapter(adapter_files.lora(tmp_path / "a", {name: (4, 4)})).modules) == {name}


def test_a_flat_parameter_is_told_from_other_strange_keys(tmp_path: Path) -> None:
    key = f"{PREFIX}model.layers.0._fsdp_wrapped_module._flat_param"
    with pytest.raises(ExtSubError, match="it is a flat parameter of FSDP, which holds many tensors in one"):
        load_adapter(adapter_files.edit_tensors(adapter_files.lora(tmp_path / "a"), add={key: torch.ones(7)}))


def test_wrappers_in_the_config_are_the_same_layers(tmp_path: Path) -> None:
    """A pattern that no longer fit would give another scaling without a word."""
    wrapped = "model.layers.0._orig_mod.self_attn.q_proj"
    tensors = adapter_files.factors({wrapped: (12, 8)}, rank=5) | adapter_files.factors({V: (4, 8)})
    config = adapter_files.lora_config(
        target_modules=[wrapped, V],
        rank_pattern={wrapped: 5},
        alpha_pattern={r"layers\.0\._orig_mod\.self_attn\.q_proj": 20, "module.v_proj": 3},
    )
    adapter = load_adapter(adapter_files.write(tmp_path / "a", tensors, config))
    assert {name: module.scaling for name, module in adapter.modules.items()} == {Q: 20 / 5, V: 3 / 3}
    assert adapter.targets == (Q, V)
    config["alpha_pattern"] = {wrapped: 20, Q: 10}
    with pytest.raises(ExtSubError, match=f"alpha_pattern in adapter_config.json gives {Q} two values"):
        load_adapter(adapter_files.write(tmp_path / "b", tensors, config))
    config["alpha_pattern"] = {"my_module.q_proj": 20}
    assert load_adapter(adapter_files.write(tmp_path / "like", tensors, config)).modules[Q].scaling == 6 / 5
    config["alpha_pattern"] = {".*_orig_mod.*q_proj": 20}
    with pytest.raises(
        ExtSubError, match="alpha_pattern in adapter_config.json names _orig_mod: write its keys without"
    ):
        load_adapter(adapter_files.write(tmp_path / "c", tensors, config))


def test_what_peft_wraps_for_modules_to_save_is_read_as_it_saves_it(tmp_path: Path) -> None:
    """A full state dict has the module twice: the base's, and the one that was trained."""
    whole = {f"{PREFIX}score.modules_to_save.default.weight": 1.0, f"{PREFIX}score.original_module.weight": 2.0}
    folder = adapter_files.lora(tmp_path / "a", task_type="SEQ_CLS", modules_to_save=["score"])
    adapter_files.edit_tensors(folder, add={key: torch.full((2, 8), value) for key, value in whole.items()})
    (key, copy), *others = load_adapter(folder).copies.items()
    assert (key, np.unique(copy.read()).tolist(), others) == (f"{PREFIX}score.weight", [1.0], [])


# ---- one layer under two names -----------------------------------------------------------------------------------

LAYERS = "layers.0.self_attn.q_proj"
RENAMED = [
    ("model.layers.0.self_attn.q_proj", "model.language_model.layers.0.self_attn.q_proj"),
    ("model.layers.0.self_attn.q_proj", "language_model.model.layers.0.self_attn.q_proj"),
    ("language_model.model.layers.0.q_proj", "model.language_model.layers.0.q_proj"),
    ("visual.blocks.0.attn.qkv", "model.visual.blocks.0.attn.qkv"),
    ("visual.merger.mlp.0", "model.visual.merger.mlp.0"),
    ("vision_tower.vision_model.encoder.layers.0.q_proj", "model.vision_tower.vision_model.encoder.layers.0.q_proj"),
    ("vision_tower.vision_model.encoder.layers.0.q_proj", "model.vision_tower.encoder.layers.0.q_proj"),
    ("multi_modal_projector.linear_1", "model.multi_modal_projector.linear_1"),
    ("language_model.lm_head", "lm_head"),
    ("layers.0.q_proj", "model.layers.0.q_proj"),
    ("encoder.layer.0.output.dense", "bert.encoder.layer.0.output.dense"),
    ("model.llm.layers.0.q_proj", "model.language_model.model.llm.layers.0.q_proj"),
    ("model.layers.0.block_sparse_moe.experts.3.w1", "model.layers.0.mlp.experts.3.gate_proj"),
    ("model.layers.0.block_sparse_moe.gate", "model.language_model.layers.0.mlp.gate"),
]
APART = [
    ("encoder.block.0.layer.0.SelfAttention.q", "decoder.block.0.layer.0.SelfAttention.q"),
    ("model.encoder.layers.0.q_proj", "model.decoder.layers.0.q_proj"),
    ("model.language_model.layers.0.self_attn.q_proj", "model.vision_tower.layers.0.self_attn.q_proj"),
    ("model.layers.0.self_attn.q_proj", "model.vision.encoder.layers.0.self_attn.q_proj"),
    ("thinker.model.layers.0.q_proj", "talker.model.layers.0.q_proj"),
    ("model.layers.0.q_proj", "model.layers.1.q_proj"),
    ("model.layers.0.q_proj", "model.layers.0.o_proj"),
    ("model.layers.0.mlp.experts.0.up_proj", "model.layers.0.mlp.experts.1.up_proj"),
]


@pytest.mark.parametrize("flag", ["error", "zero"])
@pytest.mark.parametrize("both_ways", [False, True])
@pytest.mark.parametrize(("old", "new"), RENAMED)
def test_one_layer_under_two_names_is_never_taken_for_two(
    tmp_path: Path, old: str, new: str, both_ways: bool, flag: str
) -> None:
    old, new = (new, old) if both_ways else (old, new)
    e, a = (
        adapter_files.lora(tmp_path / name, {layer: (4, 4), "same": (4, 4)}) for name, layer in (("e", old), ("a", new))
    )
    with pytest.raises(ExtSubError, match="e and .*a name the same layers differently") as caught:
        combine(e, a, missing_modules=flag)
    assert old in str(caught.value)
    assert new in str(caught.value)


@pytest.mark.parametrize(("mine", "theirs"), APART)
def test_layers_of_their_own_are_united_where_that_is_asked_for(tmp_path: Path, mine: str, theirs: str) -> None:
    e, a = (adapter_files.lora(tmp_path / name, {layer: (4, 4)}) for name, layer in (("e", mine), ("a", theirs)))
    assert set(combine(e, a, missing_modules="zero").modules) == {mine, theirs}


def test_layers_of_other_shapes_are_other_layers(tmp_path: Path) -> None:
    e = adapter_files.lora(tmp_path / "e", {"model.layers.0.q_proj": (4, 4)})
    a = adapter_files.lora(tmp_path / "a", {"model.extra.layers.0.q_proj": (6, 4)})
    assert len(combine(e, a, missing_modules="zero").modules) == 2


@pytest.mark.parametrize("pieces", [["gate_proj", "up_proj"], ["q_proj"]])
def test_projections_fused_in_one_adapter_only(tmp_path: Path, pieces: list[str]) -> None:
    fused = {"gate_proj": "gate_up_proj", "q_proj": "qkv_proj"}[pieces[0]]
    e = adapter_files.lora(tmp_path / "e", {f"model.layers.0.x.{fused}": (8, 4)})
    a = adapter_files.lora(tmp_path / "a", {f"model.language_model.layers.0.x.{piece}": (4, 4) for piece in pieces})
    for expert, anti_expert in ((e, a), (a, e)):
        with pytest.raises(ExtSubError, match="store the same layers differently .*, one of them several as one"):
            combine(expert, anti_expert, missing_modules="zero")


def test_experts_fused_in_one_adapter_only(tmp_path: Path) -> None:
    from extsub.adapters.names import fused_and_apart

    fused = ["model.layers.0.mlp.experts", "model.layers.0.mlp.experts.base_layer"]
    split = [f"model.layers.0.block_sparse_moe.experts.{number}.w1" for number in range(3)]
    assert fused_and_apart(fused, split) == (fused[1], split[2])
    assert fused_and_apart(split, fused) == (split[2], fused[1])
    assert fused_and_apart(fused, ["model.layers.1.mlp.experts.0.up_proj"]) is None


# ---- many layers -------------------------------------------------------------------------------------------------

MANY = [f"model.layers.{i}.mlp.experts.{j}.{p}" for i in range(8) for j in range(128) for p in ("up_proj", "down_proj")]


@pytest.mark.slow
@pytest.mark.parametrize("targets", ["names", "pattern"])
def test_as_many_layers_as_a_mixture_of_experts_has_take_time_in_proportion(tmp_path: Path, targets: str) -> None:
    """With every name in the lists of the config, which extsub itself writes for a pattern; 1,536 layers took 4 s."""
    shapes = dict.fromkeys(MANY, (2, 2))
    fields = {"target_modules": MANY if targets == "names" else r".*\.(up|down)_proj"}
    for name, seed in (("e", 0), ("a", 1)):
        patterns = {"rank_pattern": dict.fromkeys(MANY, 1), "alpha_pattern": dict.fromkeys(MANY, 2)}
        adapter_files.lora(tmp_path / name, shapes, rank=1, seed=seed, **fields, **patterns)
    renamed = {key.replace("model.", "model.language_model.", 1): (2, 2) for key in MANY}
    adapter_files.lora(tmp_path / "renamed", renamed, rank=1)
    begun = time.process_time()
    expert = load_adapter(tmp_path / "e")
    config = lora.encode(combine(expert, load_adapter(tmp_path / "a")))
    assert config["target_modules"] == sorted(MANY)
    with pytest.raises(ExtSubError, match="name the same layers differently"):
        combine(expert, load_adapter(tmp_path / "renamed"), missing_modules="zero")
    assert time.process_time() - begun < 5


@pytest.mark.slow
def test_as_many_vectors_take_time_in_proportion(tmp_path: Path) -> None:
    vectors = {name: (1, 2) if "down" in name else (2, 1) for name in MANY}
    fields = {"target_modules": MANY, "feedforward_modules": [name for name in MANY if "down" in name]}
    adapter_files.ia3(tmp_path / "e", vectors=vectors, **fields)
    begun = time.process_time()
    config = ia3.encode(load_adapter(tmp_path / "e"))
    assert config["feedforward_modules"] == sorted(fields["feedforward_modules"])
    assert time.process_time() - begun < 3
