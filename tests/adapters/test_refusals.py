"""What is not exactly a set of deltas is refused by name; nothing is dropped in silence."""

from __future__ import annotations

import pickle
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import adapter_files
from adapter_files import PREFIX, Q
from extsub import ExtSubError, load_adapter
from extsub.adapters.config import REFUSED_KINDS
from extsub.models.tensors import to_torch

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"use_dora": True}, "use_dora is True in adapter_config.json: DoRA rescales the base weights"),
        ({"bias": "some"}, "bias is 'some' in adapter_config.json, expected none, all or lora_only"),
        ({"lora_bias": True}, "lora_bias is True in adapter_config.json: it adds a bias that servers cannot carry"),
        ({"trainable_token_indices": [1]}, "trained token embeddings are absolute values"),
        ({"megatron_config": {"a": 1}}, "megatron_config is"),
        ({"use_qalora": True}, "use_qalora is True"),
        ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens is"),
        ({"arrow_config": {"a": 1}}, "arrow_config is"),
        ({"use_bdlora": {"a": 1}}, "use_bdlora is"),
        ({"monteclora_config": {"a": 1}}, "monteclora_config is"),
        ({"kasa_config": {"a": 1}}, "kasa_config is"),
        ({"enable_lora": [True, False]}, "enable_lora is"),
        ({"something_new": 3}, "something_new is 3 in adapter_config.json: extsub does not know this field"),
        (
            {"init_lora_weights": "pissa"},
            "init_lora_weights is 'pissa': it changed the base weights when training began",
        ),
        ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights is 'pissa_niter_16'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights is 'olora'"),
        ({"init_lora_weights": "corda"}, "init_lora_weights is 'corda'"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights is 'loftq'"),
        ({"init_lora_weights": "lora_ga"}, "init_lora_weights is 'lora_ga'"),
        ({"init_lora_weights": "new"}, "init_lora_weights is 'new'"),
        ({"r": "4"}, "r in adapter_config.json must be a whole number above 0, found '4'"),
        ({"r": 0}, "r in adapter_config.json must be a whole number above 0, found 0"),
        ({"r": True}, "r in adapter_config.json must be a whole number above 0, found True"),
        ({"lora_alpha": None}, "lora_alpha in adapter_config.json must be a number, found None"),
        ({"lora_alpha": 0}, "lora_alpha is 0 .*: the adapter changes nothing; if its scale was lost"),
        ({"use_rslora": "yes"}, "use_rslora in adapter_config.json must be true or false, found 'yes'"),
        ({"rank_pattern": [1]}, "rank_pattern in adapter_config.json must be an object"),
        ({"rank_pattern": {"(": 3}}, r"rank_pattern has '\(', which is not a regular expression"),
        ({"rank_pattern": {"q_proj": "a"}}, "q_proj in adapter_config.json must be a whole number above 0, found 'a'"),
        ({"target_modules": [3]}, "target_modules in adapter_config.json must be a list of names"),
        (
            {"base_model_name_or_path": 3},
            "base_model_name_or_path in adapter_config.json must be a string on one line, found 3",
        ),
        ({"r": 4}, "has rank 3 .* where adapter_config.json says 4"),
        ({"peft_type": None}, "adapter_config.json has no peft_type: if this is a LoRA adapter, add"),
        ({"peft_type": "lora"}, "peft_type is 'lora', expected one of LORA, ADALORA, IA3, PREFIX_TUNING"),
    ],
)
def test_a_field_that_changes_the_meaning_is_refused_by_name(
    tmp_path: Path, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(ExtSubError, match=message):
        load_adapter(adapter_files.lora(tmp_path / "a", **fields))


def test_empty_fields_say_nothing(tmp_path: Path) -> None:
    load_adapter(
        adapter_files.lora(tmp_path / "a", use_dora=False, something_new=None, other={}, third=[], rank_pattern=None)
    )


@pytest.mark.parametrize("kind", sorted(REFUSED_KINDS))
def test_every_other_kind_is_refused_with_its_reason(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ExtSubError, match=f"{kind} adapters cannot be combined or merged: "):
        load_adapter(adapter_files.lora(tmp_path / "a", peft_type=kind))


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        (f"{Q}.lora_magnitude_vector", (12,), "DoRA rescales the base weights"),
        (f"{Q}.lora_B.bias", (12,), "lora_bias adds a bias"),
        (f"{Q}.lora_diag", (3,), "KaSA"),
        (f"{Q}.bias", (12,), "it is an absolute bias"),
        (f"{Q}.base_layer.bias", (12,), "it would overwrite a weight of the base model"),
        (
            "model.layers.0.mlp.up_proj.weight",
            (3, 3),
            "it is a weight of the base model, which loading would overwrite",
        ),
        ("model.norm.base_layer.weight", (3,), "it would overwrite a weight of the base model"),
        ("model.embed_tokens.token_adapter.trainable_tokens_delta", (1, 8), "absolute values"),
        (f"{Q}.hada_w1_a", (3, 3), "these are LoHa tensors"),
        (f"{Q}.lokr_w1", (3, 3), "these are LoKr tensors"),
        (f"{Q}.ia3_l", (12, 1), "these are IA3 tensors"),
        ("lm_head.lora_magnitude_vector", (3,), "DoRA"),
        ("model.mystery", (3,), "1 tensors that extsub does not know"),
    ],
)
def test_a_tensor_that_does_not_belong_is_refused_by_name(
    tmp_path: Path, key: str, shape: tuple[int, ...], message: str
) -> None:
    """PEFT ignores most of these, and lets the others overwrite the base model."""
    adapter_files.edit_tensors(adapter_files.lora(tmp_path / "a"), add={PREFIX + key: torch.ones(shape)})
    with pytest.raises(ExtSubError, match=message):
        load_adapter(tmp_path / "a")


def test_half_an_adapter_is_refused(tmp_path: Path) -> None:
    adapter_files.edit_tensors(adapter_files.lora(tmp_path / "a"), remove="q_proj.lora_B")
    with pytest.raises(ExtSubError, match=f"{Q} has lora_A.weight, expected a pair of lora_A.weight and lora_B.weight"):
        load_adapter(tmp_path / "a")


def test_keys_without_pefts_prefix_are_refused(tmp_path: Path) -> None:
    tensors = {key.removeprefix(PREFIX): tensor for key, tensor in adapter_files.factors().items()}
    with pytest.raises(ExtSubError, match="4 keys do not start with 'base_model.model.'"):
        load_adapter(adapter_files.write(tmp_path / "a", tensors, adapter_files.lora_config()))


@pytest.mark.parametrize(
    ("A", "B", "message"),
    [
        ((3, 8), (12, 2), "their ranks differ"),
        ((4, 8), (12, 4), "has rank 4"),
        ((3, 4, 2, 2), (6, 1, 1, 1), "a grouped convolution"),
        ((3, 8), (12, 3, 1), "not a layer whose change is B @ A"),
        ((3, 8, 2), (12, 3, 2), "not a layer whose change is B @ A"),
    ],
)
def test_shapes_that_are_no_product_are_refused(
    tmp_path: Path, A: tuple[int, ...], B: tuple[int, ...], message: str
) -> None:
    tensors = {f"{PREFIX}{Q}.lora_A.weight": torch.ones(A), f"{PREFIX}{Q}.lora_B.weight": torch.ones(B)}
    with pytest.raises(ExtSubError, match=message):
        load_adapter(adapter_files.write(tmp_path / "a", tensors, adapter_files.lora_config()))


def test_a_tensor_gathered_from_nowhere_is_refused(tmp_path: Path) -> None:
    adapter_files.edit_tensors(adapter_files.lora(tmp_path / "a"), add={f"{PREFIX}{Q}.lora_A.weight": torch.ones(0)})
    with pytest.raises(
        ExtSubError, match=r"is empty, of shape \[0\]: it was saved from a sharded model \(DeepSpeed ZeRO"
    ):
        load_adapter(tmp_path / "a")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_infinity_are_found_when_read(tmp_path: Path, value: float) -> None:
    tensor = torch.ones(12, 3)
    tensor[5, 1] = value
    adapter_files.edit_tensors(adapter_files.lora(tmp_path / "a"), add={f"{PREFIX}{Q}.lora_B.weight": tensor})
    with pytest.raises(ExtSubError, match=r"q_proj.lora_B.weight holds NaN or infinity"):
        load_adapter(tmp_path / "a").modules[Q].read()


def test_prefix_and_ia3_that_contradict_their_config(tmp_path: Path) -> None:
    with pytest.raises(ExtSubError, match="does not fit 4 virtual tokens of 2 layers with heads of 8/2 numbers"):
        load_adapter(adapter_files.prefix(tmp_path / "p", num_virtual_tokens=4))
    with pytest.raises(ExtSubError, match="holds prompt_embeddings and nothing else"):
        load_adapter(
            adapter_files.edit_tensors(adapter_files.prefix(tmp_path / "q"), add={"transform.weight": torch.ones(2)})
        )
    with pytest.raises(ExtSubError, match=r"k_proj.ia3_l has shape \[4, 2\], expected a vector"):
        load_adapter(adapter_files.ia3(tmp_path / "i", vectors={"layers.0.k_proj": (4, 2)}))
    with pytest.raises(ExtSubError, match="these are LoRA tensors"):
        load_adapter(adapter_files.edit_tensors(adapter_files.ia3(tmp_path / "l"), add=adapter_files.factors()))


# ---- damaged and hostile files ---------------------------------------------------------------------------------


def header_of(path: Path) -> tuple[bytes, bytes]:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return content[8 : 8 + length], content[8 + length :]


def damage_truncate(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:-10])


def damage_empty(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")


def damage_duplicate_key(folder: Path) -> None:
    """The same tensor twice in the header: readers differ in which one they take."""
    header, data = header_of(folder / WEIGHTS)
    first = header[: header.index(b"}") + 1]
    entry = first[1:]
    header = first + b"," + entry + header[len(first) :]
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header + data)


def damage_pointer(folder: Path) -> None:
    (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def damage_pointer_config(folder: Path) -> None:
    (folder / CONFIG).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def damage_dtype(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    save_file({key: tensor.to(torch.int8) for key, tensor in tensors.items()}, folder / WEIGHTS)


def damage_no_tensors(folder: Path) -> None:
    save_file({}, folder / WEIGHTS)


def damage_no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def damage_no_config(folder: Path) -> None:
    (folder / CONFIG).unlink()


def damage_named(folder: Path) -> None:
    """PEFT puts adapters with a name of their own into subfolders."""
    (folder / "style").mkdir()
    shutil.move(folder / CONFIG, folder / "style" / CONFIG)


def damage_sharded(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.safetensors.index.json").write_text('{"weight_map": {"x": "../../secret"}}')


def damage_other_weights(folder: Path) -> None:
    (folder / "non_lora_trainables.bin").write_bytes(b"")


def write_config(text: str, encoding: str = "utf-8"):
    def damage(folder: Path) -> None:
        (folder / CONFIG).write_text(text, encoding=encoding)

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_truncate, "adapter_model.safetensors is not a complete safetensors file .*: download or save it again"),
        (damage_empty, "is not a complete safetensors file"),
        (damage_duplicate_key, "gives '.*' twice: keep one|is not a complete safetensors file"),
        (damage_pointer, "adapter_model.safetensors is a Git LFS pointer, not the file itself: run 'git lfs pull'"),
        (damage_pointer_config, "adapter_config.json is a Git LFS pointer"),
        (damage_dtype, "is stored as I8, expected one of F64, F32, F16, BF16"),
        (damage_no_tensors, "adapter_model.safetensors holds no tensors"),
        (damage_no_weights, "neither adapter_model.safetensors nor adapter_model.bin is there"),
        (damage_no_config, "no adapter_config.json in this folder"),
        (damage_named, "there is one in style: give that subfolder"),
        (damage_sharded, "the adapter is sharded .*: merge its shards into adapter_model.safetensors first"),
        (damage_other_weights, "non_lora_trainables.bin lies beside the adapter"),
        (write_config("{"), "adapter_config.json is not valid JSON"),
        (write_config("[]"), "adapter_config.json holds a JSON list, expected an object"),
        (write_config('{"r": 1, "r": 2}'), "adapter_config.json gives 'r' twice: keep one"),
        (write_config('{"lora_alpha": NaN}'), "adapter_config.json holds NaN, which is not JSON"),
        (write_config("{}", "utf-8-sig"), "adapter_config.json is not valid JSON"),
        (write_config('{"fine_tune_type": "lora"}'), "it looks like an MLX adapter"),
        (write_config('{"base_model": "x"}'), "it is not a PEFT adapter"),
    ],
)
def test_a_damaged_adapter_is_refused_in_one_sentence(tmp_path: Path, damage, message: str) -> None:
    folder = adapter_files.lora(tmp_path / "a")
    damage(folder)
    with pytest.raises(ExtSubError, match=message) as caught:
        load_adapter(folder)
    assert str(caught.value).startswith(str(folder))
    assert "\n" not in str(caught.value)


class Payload:
    """Runs code when unpickled."""

    def __init__(self, touched: Path):
        self.touched = touched

    def __reduce__(self):
        return (Path.touch, (self.touched,))


def test_a_pickle_with_code_is_not_executed(tmp_path: Path) -> None:
    folder = adapter_files.lora(tmp_path / "a")
    (folder / WEIGHTS).unlink()
    torch.save({"x": Payload(tmp_path / "touched")}, folder / "adapter_model.bin")
    with pytest.raises(ExtSubError, match="holds more than tensors, so reading it could run code and it was not read"):
        load_adapter(folder)
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Payload(tmp_path / "touched"), protocol=2))
    with pytest.raises(ExtSubError):
        load_adapter(folder)
    assert not (tmp_path / "touched").exists()


def test_a_plain_pickle_is_read_and_anything_else_in_it_refused(tmp_path: Path) -> None:
    folder = adapter_files.lora(tmp_path / "a")
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    torch.save(tensors, folder / "adapter_model.bin")
    assert torch.equal(
        to_torch(load_adapter(folder).modules[Q].read().terms[0].A), tensors[f"{PREFIX}{Q}.lora_A.weight"]
    )
    for content, message in (
        ({"state_dict": tensors}, "holds a dict under 'state_dict', expected a flat set of tensors"),
        ([1], "holds a list, expected tensors by name"),
    ):
        torch.save(content, folder / "adapter_model.bin")
        with pytest.raises(ExtSubError, match=message):
            load_adapter(folder)
    (folder / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(ExtSubError, match="is not a complete PyTorch file"):
        load_adapter(folder)


TRAINED = """non_lora_trainables.bin non_lora_state_dict.bin trainable_params.bin mm_projector.bin
mm_projector.safetensors projector.safetensors multi_modal_projector.pt v_head.safetensors value_head.bin
value_head.safetensors lm_head.pt pytorch_model_head.bin xlora_classifier.safetensors classifier.pth score.bin
embedding.pt new_embeddings.safetensors learned_embeds.bin embed_tokens.safetensors vit.safetensors vision_tower.bin
visual.safetensors Qformer.pth modules_to_save.bin""".split()
NOTED = """adapter_model.bin model.safetensors pytorch_model.bin pytorch_model_fsdp.bin consolidated.00.pth adapters.npz
ggml-adapter-model.gguf tf_model.h5 flax_model.msgpack last.ckpt""".split()
HARMLESS = """training_args.bin optimizer.pt optimizer.bin scheduler.pt scaler.pt rng_state_0.pth trainer_state.json
zero_pp_rank_0_mp_rank_00_model_states.pt sampler.bin tokenizer.model tokenizer.json loss.png README.md
model.safetensors.index.json""".split()


@pytest.mark.parametrize("file", TRAINED)
def test_weights_that_were_trained_beside_the_adapter_are_not_lost_without_a_word(tmp_path: Path, file: str) -> None:
    from extsub.models.adapter_handle import find

    folder = adapter_files.lora(tmp_path / "a")
    (folder / file).write_bytes(b"")
    for read in (load_adapter, find):
        with pytest.raises(ExtSubError, match=rf"a: {file} lies beside the adapter \(.*\) and is not part of it"):
            read(str(folder))


def test_every_other_file_of_weights_is_named_and_what_a_trainer_keeps_is_not(tmp_path: Path) -> None:
    from extsub.models.adapter_handle import find

    folder = adapter_files.lora(tmp_path / "a")
    for file in (*NOTED, *HARMLESS, "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        (folder / file).write_bytes(b"stale")
    for name in ("2_Dense/model.safetensors", "1_Pooling/config.json", "checkpoint-5/model.bin", "global_step5/a.pt"):
        (folder / name).parent.mkdir()
        (folder / name).write_bytes(b"")
    named = sorted([*NOTED, "model-....safetensors", "2_Dense/model.safetensors"])
    notes = tuple(f"{file} lies beside adapter_model.safetensors and was not read" for file in named)
    assert load_adapter(folder).notes == find(str(folder)).source.notes == notes


def test_a_pickle_is_read_where_nothing_else_is_there(tmp_path: Path) -> None:
    folder = adapter_files.lora(tmp_path / "a")
    torch.save(load_file(folder / WEIGHTS), folder / "adapter_model.bin")
    (folder / WEIGHTS).unlink()
    assert load_adapter(folder).notes == ()


@pytest.mark.parametrize("name", ["../../etc", "/no/such/folder", "a/../b", "", "no such thing", "..//x"])
def test_a_name_that_is_neither_folder_nor_hub_id(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExtSubError, match="no such folder, and not an adapter of the hub|no adapter_config.json in"):
        load_adapter(name)


def test_a_module_name_never_becomes_a_path(tmp_path: Path) -> None:
    """Names in a file are data: one that is a path changes nothing outside the output."""
    from extsub import combine, save_adapter

    with pytest.raises(ExtSubError, match="is not a layer that PEFT would find: a part of the name is empty"):
        load_adapter(adapter_files.lora(tmp_path / "dots", {"../../../escape": (3, 3)}))
    name = f"{tmp_path.parent}/escape"
    adapter_files.pair(tmp_path, shapes={name: (3, 3)}, target_modules=[name])
    before = sorted(path.name for path in tmp_path.parent.iterdir())
    save_adapter(combine(tmp_path / "e", tmp_path / "a"), tmp_path / "out" / "result")
    assert sorted(path.name for path in tmp_path.parent.iterdir()) == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["result"]


# ---- what a hostile review found -------------------------------------------------------------------------------


def test_a_base_weight_under_a_plain_layer_is_stray(tmp_path: Path) -> None:
    adapter_files.edit_tensors(
        adapter_files.lora(tmp_path / "a"), add={f"{PREFIX}{Q}.base_layer.weight": torch.ones(12, 8)}
    )
    with pytest.raises(ExtSubError, match="it would overwrite a weight of the base model"):
        load_adapter(tmp_path / "a")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ('{"peft_type": []}', r"peft_type in adapter_config.json must be a string, found \[\]"),
        ('{"peft_type": "LORA", "r": 3, "lora_alpha": 1%s}' % ("0" * 400), "lora_alpha in adapter_config.json must be"),
        ('{"peft_type": "LORA", "r": %s}' % ("1" * 5000), "is not valid JSON"),
        (
            '{"peft_type": "LORA", "r": 3, "lora_alpha": 3, "base_model_name_or_path": "a\\nb"}',
            "must be a string on one",
        ),
    ],
)
def test_numbers_and_names_that_nobody_means(tmp_path: Path, config: str, message: str) -> None:
    folder = adapter_files.lora(tmp_path / "a")
    (folder / CONFIG).write_text(config)
    with pytest.raises(ExtSubError, match=message):
        load_adapter(folder)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG])
def test_a_broken_link_as_in_a_damaged_cache(tmp_path: Path, name: str) -> None:
    folder = adapter_files.lora(tmp_path / "a")
    (folder / name).unlink()
    (folder / name).symlink_to(tmp_path / "gone")
    with pytest.raises(ExtSubError, match=f"{name} cannot be read: No such file or directory"):
        load_adapter(folder)


@pytest.mark.parametrize("shape", [(2, 1), (1, 1), (3,)])
def test_adaloras_e_must_fit(tmp_path: Path, shape: tuple[int, ...]) -> None:
    tensors = {f"{PREFIX}{Q}.lora_A": torch.ones(3, 8), f"{PREFIX}{Q}.lora_B": torch.ones(12, 3)}
    tensors[f"{PREFIX}{Q}.lora_E"] = torch.ones(shape)
    with pytest.raises(ExtSubError, match=r"lora_E has shape .*, expected \[3, 1\]"):
        load_adapter(
            adapter_files.write(tmp_path / "a", tensors, adapter_files.lora_config(peft_type="ADALORA", init_r=3))
        )


def test_a_pickle_of_parameters_or_sparse_tensors(tmp_path: Path) -> None:
    folder = adapter_files.lora(tmp_path / "a")
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    torch.save({key: torch.nn.Parameter(tensor) for key, tensor in tensors.items()}, folder / "adapter_model.bin")
    assert load_adapter(folder).modules[Q].read().terms[0].A.any()
    torch.save({key: tensor.to_sparse() for key, tensor in tensors.items()}, folder / "adapter_model.bin")
    with pytest.raises(ExtSubError, match="expected one of F64, F32, F16, BF16, dense"):
        load_adapter(folder)


def test_numbers_whose_squares_overflow_float64(tmp_path: Path) -> None:
    tensors = {key: tensor.double() * 1e300 for key, tensor in adapter_files.factors().items()}
    with pytest.raises(ExtSubError, match="squares are infinite even in float64"):
        load_adapter(adapter_files.write(tmp_path / "a", tensors, adapter_files.lora_config())).modules[
            Q
        ].read().row_norms()


@pytest.mark.parametrize("name", ["x" * 300, "~nobody-at-all/x"])
def test_names_that_no_system_takes(name: str) -> None:
    with pytest.raises(ExtSubError, match="no such folder"):
        load_adapter(name)
