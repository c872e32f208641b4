"""What a config claims of its file: where the tensors say otherwise, they decide, or it is refused or said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import adapter_files
import oracle
from adapter_files import PREFIX, Q, V
from extsub import ExtSubError, combine, load_adapter, save_adapter

HEAD = {f"{PREFIX}lm_head.weight": torch.ones(9, 8)}


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({"bias": "all"}, "bias is all, and the file has no biases: taken to be of a base without"),
        ({"bias": "lora_only"}, "bias is lora_only, and the file has no biases: taken to be of a base without"),
        ({"ensure_weight_tying": True}, None),
        ({"use_dora": False, "lora_bias": False, "trainable_token_indices": []}, None),
        (
            {"modules_to_save": ["lm_head"]},
            "modules_to_save names lm_head, which the file lacks: if it was trained, it",
        ),
        (
            {"target_parameters": ["mlp.experts.up_proj"]},
            "target_parameters names mlp.experts.up_proj, of which the fi",
        ),
        ({"layers_to_transform": [0]}, None),
        ({"layers_to_transform": 0, "layers_pattern": "layers"}, None),
        (
            {"layers_to_transform": [3]},
            f"2 of 2 layers, first {Q}, are not what the config names: PEFT would leave them",
        ),
        ({"layers_to_transform": [0], "layers_pattern": ["h"]}, "2 of 2 layers, first"),
        ({"target_modules": ["q_proj"]}, f"1 of 2 layers, first {V}, are not what the config names"),
        ({"target_modules": [Q, V], "layers_to_transform": [3]}, None),
        ({"modules_to_save": ["self_attn"]}, "modules_to_save names self_attn, which the file lacks"),
        ({"exclude_modules": ["v_proj"]}, f"1 of 2 layers, first {V}, are not what the config names"),
        ({"target_modules": ".*nothing"}, None),
        ({"fan_in_fan_out": True, "peft_version": "0.1"}, None),
        ({"alpha_pattern": {"v_proj": 0}}, f"alpha_pattern gives 1 modules 0, first {V}: they change nothing"),
    ],
)
def test_the_tensors_decide_and_a_claim_that_they_do_not_bear_out_is_said(
    tmp_path: Path, fields: dict[str, object], note: str | None
) -> None:
    adapter = load_adapter(adapter_files.lora(tmp_path / "a", **fields))
    plain = load_adapter(adapter_files.lora(tmp_path / "plain"))
    for name in (Q,) if "alpha_pattern" in fields else (Q, V):
        assert torch.equal(
            adapter_files.dense(adapter.modules[name].read()), adapter_files.dense(plain.modules[name].read())
        )
    assert (len(adapter.notes) > 0) == (note is not None)
    assert note is None or adapter.notes[0].startswith(note)


@pytest.mark.parametrize(
    ("fields", "key", "message"),
    [
        ({"bias": "none"}, f"{Q}.bias", "it is an absolute bias"),
        ({"bias": "all"}, f"{Q}.base_layer.bias", "it would overwrite a weight of the base"),
        ({"use_dora": False}, f"{Q}.lora_magnitude_vector", "DoRA rescales the base weights"),
        (
            {"use_dora": True},
            f"{Q}.lora_magnitude_vector.default.weight",
            "lora_magnitude_vector.* cannot be combined or merged",
        ),
        (
            {"use_dora": True},
            None,
            "use_dora is True .* the file has no lora_magnitude_vector: they were lost, or the fi",
        ),
        ({"lora_bias": True}, f"{Q}.lora_B.default.bias", "lora_bias adds a bias"),
        (
            {"lora_bias": True},
            None,
            "lora_bias is True .* the file has no lora_B.bias: they were lost, or the field is",
        ),
        (
            {"trainable_token_indices": [1]},
            None,
            "the file has no trainable_tokens_delta: they were lost, or the field",
        ),
        (
            {"layers_to_transform": [0], "layers_pattern": 5},
            None,
            "layers_pattern in .* must be a list of names, found 5",
        ),
        ({"ensure_weight_tying": True, "modules_to_save": ["lm_head"]}, "lm_head.weight", "and the file has .*lm_head"),
    ],
)
def test_what_neither_can_settle_is_refused(
    tmp_path: Path, fields: dict[str, object], key: str | None, message: str
) -> None:
    folder = adapter_files.lora(tmp_path / "a", **fields)
    if key:
        adapter_files.edit_tensors(folder, add={PREFIX + key: torch.ones(12)})
    with pytest.raises(ExtSubError, match=message):
        load_adapter(folder)


def test_one_head_of_the_names_that_peft_lists_is_enough(tmp_path: Path) -> None:
    folder = adapter_files.lora(tmp_path / "a", task_type="SEQ_CLS", modules_to_save=["classifier", "score"])
    adapter_files.edit_tensors(folder, add={f"{PREFIX}score.weight": torch.ones(2, 8)})
    assert load_adapter(folder).notes == ()
    adapter_files.edit_config(folder, modules_to_save=["classifier", "score", "embed_tokens"])
    assert load_adapter(folder).notes == (
        "modules_to_save names embed_tokens, which the file lacks: if it was trained, it was lost",
    )


def test_a_layer_whose_name_has_embedding_in_it_is_no_embedding(tmp_path: Path) -> None:
    name = "vision_tower.patch_embedding.projection"
    adapter = load_adapter(adapter_files.lora(tmp_path / "a", {name: (12, 8)}, target_modules=["projection"]))
    assert adapter.modules[name].shape == (12, 8)


# ---- placeholders ------------------------------------------------------------------------------------------------

EMPTY = "model.layers.0.mlp.experts.w3"


@pytest.mark.parametrize("shapes", [((0,), (0,)), ((0, 8), (12, 0)), ((0, 0), (0, 0))])
def test_a_layer_of_empty_tensors_is_a_placeholder(tmp_path: Path, shapes: tuple[tuple[int, ...], ...]) -> None:
    add = {f"{PREFIX}{EMPTY}.lora_{which}.weight": torch.empty(s) for which, s in zip("AB", shapes, strict=True)}
    adapter = load_adapter(adapter_files.edit_tensors(adapter_files.lora(tmp_path / "a"), add=add))
    assert set(adapter.modules) == {Q, V}
    assert adapter.notes[0].startswith(f"1 layer of empty tensors alone, first {EMPTY}: taken for placeholders")


def test_half_a_layer_or_a_whole_file_of_empty_tensors_was_sharded(tmp_path: Path) -> None:
    message = "is empty, of shape .*: it was saved from a sharded model"
    half = {f"{PREFIX}{EMPTY}.lora_A.weight": torch.empty(0), f"{PREFIX}{EMPTY}.lora_B.weight": torch.ones(4, 3)}
    with pytest.raises(ExtSubError, match=message):
        load_adapter(adapter_files.edit_tensors(adapter_files.lora(tmp_path / "half"), add=half))
    nothing = {key: torch.empty(0) for key in adapter_files.factors()}
    with pytest.raises(ExtSubError, match=message):
        load_adapter(adapter_files.write(tmp_path / "all", nothing, adapter_files.lora_config()))
    head = adapter_files.lora(tmp_path / "head", modules_to_save=["lm_head"])
    with pytest.raises(ExtSubError, match=f"lm_head.weight {message}"):
        load_adapter(adapter_files.edit_tensors(head, add={f"{PREFIX}lm_head.weight": torch.empty(0)}))


@pytest.mark.parametrize(("A", "B"), [((1, 4, 8), (3, 12, 4)), ((3, 4, 8), (3, 12, 4)), ((3, 4, 8), (1, 12, 4))])
def test_the_factors_of_all_experts_in_one_tensor_are_told(
    tmp_path: Path, A: tuple[int, ...], B: tuple[int, ...]
) -> None:
    tensors = {f"{PREFIX}{Q}.lora_A.weight": torch.ones(A), f"{PREFIX}{Q}.lora_B.weight": torch.ones(B)}
    with pytest.raises(ExtSubError, match="the factors of all experts in one 3-D tensor, which is not PEFT's layout"):
        load_adapter(adapter_files.write(tmp_path / "a", tensors, adapter_files.lora_config(4)))


# ---- fused experts, as versions of PEFT stored them -----------------------------------------------------------------

EXPERTS, HIDDEN, INNER = 3, 10, 6
OWNER = "model.layers.0.mlp.experts"
PARAMETERS = ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]
ATTENTION = {"model.layers.0.self_attn.q_proj": (8, HIDDEN)}


def fused(
    folder: Path, rank: int, seed: int, exchanged: bool, names: list[str] = PARAMETERS, hidden: int = HIDDEN,
    inner: int = INNER, attention: bool = True, **fields: object,
) -> dict[str, Tensor]:  # fmt: skip
    """A file of fused experts, and the change of each parameter, (experts, outputs, inputs)."""
    generator = torch.Generator().manual_seed(seed)
    tensors = adapter_files.factors(ATTENTION, rank, seed) if attention else {}
    changes = {}
    for depth, name in enumerate(names):
        rows, columns = (hidden, inner) if "down" in name or "w2" in name else (2 * inner, hidden)
        if exchanged:
            rows, columns = columns, rows
        A = torch.randn(EXPERTS * rank, columns, generator=generator)
        B = torch.randn(rows, rank * EXPERTS, generator=generator)
        key = f"{PREFIX}{OWNER}{'.base_layer' * depth}"
        tensors |= {f"{key}.lora_A.weight": A, f"{key}.lora_B.weight": B}
        change = 2 * torch.einsum(
            "ore,eri->eoi", B.double().reshape(rows, rank, EXPERTS), A.double().reshape(EXPERTS, rank, columns)
        )
        changes[f"{OWNER}{'.base_layer' * depth}"] = change.mT if exchanged else change
    fields = {"target_modules": ["q_proj"] if attention else [], "target_parameters": names} | fields
    adapter_files.write(folder, tensors, adapter_files.lora_config(rank, **fields))
    return changes


@pytest.mark.parametrize("sizes", [(10, 6), (8, 4), (6, 6)], ids=["usual", "gate_up is square", "down is square"])
@pytest.mark.parametrize("exchanged", [(False, False), (True, True), (True, False)])
def test_the_shapes_tell_which_way_round_fused_experts_are_stored(
    tmp_path: Path, exchanged: tuple[bool, bool], sizes: tuple[int, int]
) -> None:
    """PEFT 0.18 exchanged A and B for most models of transformers 5; a row is an output all the same."""
    e, a = (
        fused(tmp_path / name, 3 - seed, seed, is_exchanged, hidden=sizes[0], inner=sizes[1], attention=False)
        for seed, (name, is_exchanged) in enumerate(zip("ea", exchanged, strict=True))
    )
    result = combine(tmp_path / "e", tmp_path / "a", alpha=0.8)
    save_adapter(result, tmp_path / "out")
    written = load_adapter(tmp_path / "out")
    for name, change in e.items():
        want = oracle.combined("ext-sub", change, [a[name]], [0.8])
        assert oracle.relative_error(adapter_files.dense(written.modules[name].read()), want) < 1e-6
    said = "fused experts are stored with A and B exchanged"
    assert [said in note for note in result.notes] == [True] * sum(exchanged)
    assert not written.notes, "written the usual way"


@pytest.mark.parametrize("name", [*PARAMETERS, "mlp.experts.w1", "mlp.experts.w2"])
@pytest.mark.parametrize("exchanged", [False, True])
def test_beside_attention_one_parameter_is_enough_to_tell(tmp_path: Path, name: str, exchanged: bool) -> None:
    changes = fused(tmp_path / "a", 2, 0, exchanged, names=[name])
    assert torch.allclose(adapter_files.dense(load_adapter(tmp_path / "a").modules[OWNER].read()), changes[OWNER])


def test_where_shapes_do_not_tell_the_version_does(tmp_path: Path) -> None:
    changes = fused(tmp_path / "a", 2, 0, False, names=PARAMETERS[:1], attention=False)
    message = (
        "experts has fused experts, which PEFT 0.18 and 0.19.0 stored in two ways, and the shapes do not tell which"
    )
    for version in ("0.18.1", "0.19.0.dev0@abc"):
        adapter_files.edit_config(tmp_path / "a", peft_version=version)
        with pytest.raises(ExtSubError, match=message):
            load_adapter(tmp_path / "a")
    for version in (None, "0.19.1", "0.20.0", "1.0"):  # 0.17 wrote none, and could not do it wrongly
        adapter_files.edit_config(tmp_path / "a", peft_version=version)
        assert torch.allclose(adapter_files.dense(load_adapter(tmp_path / "a").modules[OWNER].read()), changes[OWNER])
    save_adapter(load_adapter(tmp_path / "a"), tmp_path / "out")
    assert load_adapter(tmp_path / "out").modules[OWNER].shape == (EXPERTS, HIDDEN, INNER), "read again"


def test_the_parameters_that_are_there_are_those_of_the_result(tmp_path: Path) -> None:
    """Lists that name the parameters of many models are common; PEFT looks for every one of them."""
    fused(tmp_path / "a", 2, 0, False, target_parameters=[*PARAMETERS, "feed_forward.experts.down_proj"])
    save_adapter(load_adapter(tmp_path / "a"), tmp_path / "out")
    assert adapter_files.config_of(tmp_path / "out")["target_parameters"] == PARAMETERS


def test_one_of_two_nested_parameters_is_not_taken_for_the_other(tmp_path: Path) -> None:
    fused(tmp_path / "a", 2, 0, False)
    adapter_files.edit_tensors(tmp_path / "a", remove="base_layer")
    with pytest.raises(ExtSubError, match=r"and the file has no .*experts.base_layer: part of the adapter is missing"):
        load_adapter(tmp_path / "a")


def test_a_flat_parameter_of_two_dimensions_is_a_linear_layer(tmp_path: Path) -> None:
    """The router of transformers 5 is a bare parameter, and was a linear layer before."""
    gate = "model.layers.0.mlp.gate"
    folder = adapter_files.lora(tmp_path / "a", {gate: (4, 8)}, target_modules=[], target_parameters=["gate.weight"])
    module = load_adapter(folder).modules[gate]
    assert (module.shape, module.parameter) == ((4, 8), True)
