"""Combining adapters: files in, file out, against the dense oracle; and each defect of the authors' script that
concerns combining, as a test."""

from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import adapter_files
import extsub
import oracle
from adapter_files import PREFIX, SHAPES, Q, V
from conftest import Command
from extsub import (
    OPERATIONS,
    ExtSubError,
    Operation,
    combine,
    ext_sub,
    load_adapter,
    register_operation,
    save_adapter,
)
from extsub.algebra import RESERVED
from extsub.report.reading import MODELS
from extsub.sweeping.grid import CONTROLS
from extsub.sweeping.references import METHODS

TOLERANCE = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def run(expert: Path, *anti_experts: Path, output: Path | None = None, **options: object) -> Path:
    output = output or expert.with_name("result")
    save_adapter(combine(expert, *anti_experts, **options), output, overwrite=True)
    return output


def expected(name: str, operation: str, alphas: list[float], expert: Path, *anti_experts: Path) -> Tensor:
    return oracle.combined(
        operation,
        adapter_files.read_delta(expert, name),
        [adapter_files.read_delta(a, name) for a in anti_experts],
        alphas,
    )


def error(result: Path, want: Tensor, name: str = Q) -> float:
    """The relative error of what a result adds to a layer."""
    return oracle.relative_error(adapter_files.read_delta(result, name), want)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ranks=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    lora_alphas=st.tuples(st.sampled_from([1, 4, 16.0, 2.5]), st.sampled_from([1, 8, 32])),
    dtypes=st.tuples(*[st.sampled_from([torch.float16, torch.bfloat16, torch.float32])] * 2),
    operation=st.sampled_from(sorted(extsub.OPERATIONS)),
    alpha=st.sampled_from([0.0, 0.5, 1.0, 2.0, -1.0]),
)
def test_any_ranks_scalings_and_dtypes(
    tmp_path: Path, ranks: tuple[int, int], lora_alphas: tuple[float, float],
    dtypes: tuple[torch.dtype, torch.dtype], operation: str, alpha: float,
) -> None:  # fmt: skip
    expert, anti_expert = (
        adapter_files.lora(tmp_path / name, rank=rank, seed=seed, dtype=dtype, lora_alpha=lora_alpha)
        for seed, (name, rank, dtype, lora_alpha) in enumerate(zip(("e", "a"), ranks, dtypes, lora_alphas, strict=True))
    )
    result = run(expert, anti_expert, operation=operation, alpha=alpha)
    config = adapter_files.config_of(result)
    assert config["r"] == config["lora_alpha"] == (sum(ranks) if operation != "amplify" else ranks[0])
    stored = torch.promote_types(*dtypes)
    tensors = adapter_files.tensors_of(result)
    assert {tensor.dtype for tensor in tensors.values()} == {stored}
    for name in SHAPES:
        want = expected(name, operation, [alpha], expert, anti_expert)
        size = adapter_files.read_delta(expert, name).norm() + adapter_files.read_delta(anti_expert, name).norm()
        assert (adapter_files.read_delta(result, name) - want).norm() <= TOLERANCE[stored] * size


def test_factors_a_pass_through_bit_for_bit(tmp_path: Path) -> None:
    expert, anti_expert = adapter_files.lora(tmp_path / "e"), adapter_files.lora(tmp_path / "a", seed=1, rank=2)
    A = adapter_files.tensors_of(run(expert, anti_expert))[f"{PREFIX}{Q}.lora_A.weight"]
    stacked = [
        adapter_files.factors()[f"{PREFIX}{Q}.lora_A.weight"],
        adapter_files.factors(rank=2, seed=1)[f"{PREFIX}{Q}.lora_A.weight"],
    ]
    assert torch.equal(A, torch.cat(stacked))


# ---- each defect of the authors' script that concerns combining ----------------------------------------------------


def test_the_anti_experts_own_scaling_counts(tmp_path: Path) -> None:
    """Theirs kept only the expert's lora_alpha / r: 26 to 40 % off."""
    expert = adapter_files.lora(tmp_path / "e", rank=4, lora_alpha=8)
    anti_expert = adapter_files.lora(tmp_path / "a", rank=2, seed=1, lora_alpha=32)
    result = run(expert, anti_expert)
    assert error(result, expected(Q, "ext-sub", [1], expert, anti_expert)) < 1e-6


def test_rslora_on_one_side(tmp_path: Path) -> None:
    """Theirs kept the flag while r changed."""
    expert = adapter_files.lora(tmp_path / "e", rank=4, lora_alpha=8, use_rslora=True)
    anti_expert = adapter_files.lora(tmp_path / "a", rank=2, seed=1)
    result = run(expert, anti_expert)
    e, a = adapter_files.read_delta(expert, Q, scaling=8 / 4**0.5), adapter_files.read_delta(anti_expert, Q)
    assert error(result, oracle.combined("ext-sub", e, [a], [1])) < 1e-6
    assert "use_rslora" not in adapter_files.config_of(result)


def test_rank_and_alpha_patterns_match_as_in_peft(tmp_path: Path) -> None:
    """The first key in file order that matches the end of the name wins; rank and alpha on their own."""
    shapes = {Q: (12, 8), V: (4, 8), "model.layers.1.self_attn.q_proj": (12, 8)}
    tensors = adapter_files.factors(shapes, rank=3) | adapter_files.factors({V: (4, 8)}, rank=5)
    config = adapter_files.lora_config(
        3,
        lora_alpha=6,
        rank_pattern={"v_proj": 5, "self_attn.v_proj": 9},
        alpha_pattern={r"layers\.0.*": 12, "q_proj": 1},
    )
    adapter = load_adapter(adapter_files.write(tmp_path / "e", tensors, config))
    ranks_and_scalings = {name: (module.rank, module.scaling) for name, module in adapter.modules.items()}
    assert ranks_and_scalings == {Q: (3, 12 / 3), V: (5, 12 / 5), "model.layers.1.self_attn.q_proj": (3, 1 / 3)}
    result = run(tmp_path / "e", adapter_files.lora(tmp_path / "a", shapes, rank=2, seed=1))
    config = adapter_files.config_of(result)
    assert config["r"] == config["lora_alpha"] == 5 + 2, "one rank for all, zero-padded"
    assert not config.keys() & {"rank_pattern", "alpha_pattern"}
    e, a = adapter_files.read_delta(tmp_path / "e", V, scaling=12 / 5), adapter_files.read_delta(tmp_path / "a", V)
    assert error(result, oracle.combined("ext-sub", e, [a], [1]), V) < 1e-6


def test_zero_and_opposite_rows_stay_finite(tmp_path: Path) -> None:
    """Theirs wrote NaN and exited with 0."""
    tensors = adapter_files.factors()
    B = tensors[f"{PREFIX}{Q}.lora_B.weight"]
    B[0] = 0
    expert = adapter_files.write(tmp_path / "e", tensors, adapter_files.lora_config())
    opposite = {key: -tensor if "lora_B" in key else tensor.clone() for key, tensor in tensors.items()}
    opposite[f"{PREFIX}{Q}.lora_B.weight"][0] = 1  # only the expert's row is zero
    opposite[f"{PREFIX}{Q}.lora_B.weight"][1] = 0  # only the anti-expert's is
    result = run(expert, adapter_files.write(tmp_path / "a", opposite, adapter_files.lora_config()))
    delta, e = adapter_files.read_delta(result, Q), adapter_files.read_delta(expert, Q)
    assert delta[0].abs().max() == 0
    assert torch.allclose(delta[1], e[1], rtol=1e-6)
    assert torch.allclose(delta[2:], 2 * e[2:], rtol=1e-5)
    record = adapter_files.record_of(result)
    assert record["zero_rows"] == {"expert": 1, "anti_experts": [1]}


def test_the_expert_alone_is_not_silently_kept_where_modules_differ(tmp_path: Path) -> None:
    expert = adapter_files.lora(tmp_path / "e")
    anti_expert = adapter_files.lora(tmp_path / "a", {Q: SHAPES[Q]}, seed=1)
    with pytest.raises(ExtSubError, match=r"a lacks 1 of the modules of .*/e, first model.layers.0.self_attn.v_proj"):
        run(expert, anti_expert)
    result = run(expert, anti_expert, missing_modules="zero")
    assert error(result, adapter_files.read_delta(expert, V), V) < 1e-7
    result = run(anti_expert, expert, missing_modules="zero")
    assert not adapter_files.read_delta(result, V).any(), "a zero expert row stays zero"
    result = run(anti_expert, expert, missing_modules="zero", operation="subtract")
    assert error(result, -adapter_files.read_delta(expert, V), V) < 1e-7


def test_embeddings_are_combined_by_token(tmp_path: Path) -> None:
    """Theirs left them at the old scale. The row is the token, so that a tied head stays tied."""
    keys = [f"{PREFIX}model.embed_tokens.lora_embedding_{factor}" for factor in "AB"]

    def adapter(name: str, rank: int, seed: int) -> tuple[Path, Tensor]:
        A, B = (torch.randn(s, generator=torch.Generator().manual_seed(seed)) for s in ((rank, 11), (6, rank)))
        config = adapter_files.lora_config(rank, target_modules=["embed_tokens"])
        folder = adapter_files.write(tmp_path / name, dict(zip(keys, (A, B), strict=True)), config)
        return folder, 2 * (B.double() @ A.double()).T

    (expert, e), (anti_expert, a) = adapter("e", 3, 0), adapter("a", 2, 1)
    tensors = adapter_files.tensors_of(run(expert, anti_expert))
    A, B = (tensors[key].double() for key in keys)
    assert oracle.relative_error((B @ A).T, oracle.combined("ext-sub", e, [a], [1])) < 1e-6


def test_convolutions(tmp_path: Path) -> None:
    """Theirs crashed."""
    name, keys = "conv", [f"{PREFIX}conv.lora_{factor}.weight" for factor in "AB"]

    def adapter(folder: str, rank: int, seed: int) -> tuple[Path, Tensor]:
        A, B = (
            torch.randn(s, generator=torch.Generator().manual_seed(seed)) for s in ((rank, 3, 2, 2), (5, rank, 1, 1))
        )
        config = adapter_files.lora_config(rank, target_modules=[name])
        path = adapter_files.write(tmp_path / folder, dict(zip(keys, (A, B), strict=True)), config)
        return path, 2 * torch.einsum("or,rikl->oikl", B[..., 0, 0].double(), A.double()).flatten(1)

    (expert, e), (anti_expert, a) = adapter("e", 3, 0), adapter("a", 2, 1)
    tensors = adapter_files.tensors_of(run(expert, anti_expert))
    A, B = (tensors[key].double() for key in keys)
    assert (A.shape, B.shape) == ((5, 3, 2, 2), (5, 5, 1, 1))
    delta = torch.einsum("or,rikl->oikl", B[..., 0, 0], A).flatten(1)
    assert oracle.relative_error(delta, oracle.combined("ext-sub", e, [a], [1])) < 1e-6


@pytest.mark.parametrize("operation", sorted(extsub.OPERATIONS))
def test_ia3_is_the_same_operation_on_the_vector_minus_one(tmp_path: Path, operation: str) -> None:
    """Theirs subtracted two identity adapters to 2, ignored alpha in addition, and in half of ext-sub."""
    expert, anti_expert = adapter_files.ia3(tmp_path / "e"), adapter_files.ia3(tmp_path / "a", seed=1)
    result = run(expert, anti_expert, operation=operation, alpha=0.7)
    written, e, a = (adapter_files.tensors_of(folder) for folder in (result, expert, anti_expert))
    for key in e:
        expert_row, anti_row = (vectors[key].double().reshape(1, -1) - 1 for vectors in (e, a))
        want = 1 + oracle.combined(operation, expert_row, [anti_row], [0.7])
        assert written[key].shape == e[key].shape
        assert oracle.relative_error(written[key].reshape(1, -1), want) < 1e-6
    config = adapter_files.config_of(result)
    assert (config["target_modules"], config["feedforward_modules"]) == (["down_proj", "k_proj"], ["down_proj"])


def test_two_identity_ia3_adapters_stay_the_identity(tmp_path: Path) -> None:
    expert = adapter_files.ia3(tmp_path / "e")
    identity = {key: torch.ones_like(tensor) for key, tensor in adapter_files.tensors_of(expert).items()}
    adapter_files.edit_tensors(adapter_files.ia3(tmp_path / "a"), add=identity)
    result = adapter_files.tensors_of(run(expert, tmp_path / "a", operation="subtract"))
    for key, tensor in adapter_files.tensors_of(expert).items():
        assert torch.equal(result[key], tensor)


@pytest.mark.parametrize("operation", sorted(extsub.OPERATIONS))
def test_prefix_rows_are_heads(tmp_path: Path, operation: str) -> None:
    expert, anti_expert = adapter_files.prefix(tmp_path / "e"), adapter_files.prefix(tmp_path / "a", seed=1)
    result = run(expert, anti_expert, operation=operation, alpha=0.7)
    written, e, a = (
        adapter_files.tensors_of(folder)["prompt_embeddings"].double() for folder in (result, expert, anti_expert)
    )
    want = oracle.combined(operation, e.reshape(-1, 4), [a.reshape(-1, 4)], [0.7]).reshape(written.shape)
    assert oracle.relative_error(written, want) < 1e-6


def test_prefix_of_an_old_gqa_config_takes_its_heads_from_the_file(tmp_path: Path) -> None:
    """PEFT before 0.12 wrote the attention heads; the tensor has key/value heads of the same size."""
    for name, seed in (("e", 0), ("a", 1)):
        adapter_files.prefix(tmp_path / name, seed, width=2 * 2 * 2 * 4, token_dim=16, num_attention_heads=4)
    config = adapter_files.config_of(run(tmp_path / "e", tmp_path / "a"))
    assert (config["num_attention_heads"], config["token_dim"]) == (2, 8)


def test_adalora_becomes_lora(tmp_path: Path) -> None:
    """delta = B diag(E) A lora_alpha / (init_r + 1e-5); pruned modules may have any rank, also 0."""
    generator = torch.Generator().manual_seed(0)
    tensors, deltas = {}, {}
    for name, rank in ((Q, 2), (V, 0)):
        A, B, E = (torch.randn(s, generator=generator) for s in ((rank, 8), (SHAPES[name][0], rank), (rank, 1)))
        tensors |= {f"{PREFIX}{name}.lora_{key}": tensor for key, tensor in zip("ABE", (A, B, E), strict=True)}
        deltas[name] = (B.double() @ (E * A).double()) * 32 / (12 + 1e-5)
    config = adapter_files.lora_config(
        8, peft_type="ADALORA", lora_alpha=32, init_r=12, target_r=8, rank_pattern={"x": [True]}
    )
    expert = adapter_files.write(tmp_path / "e", tensors, config)
    anti_expert = adapter_files.lora(tmp_path / "a", rank=3, seed=1)
    result = run(expert, anti_expert)
    assert adapter_files.config_of(result)["peft_type"] == "LORA"
    want = oracle.combined("ext-sub", deltas[Q], [adapter_files.read_delta(anti_expert, Q)], [1])
    assert error(result, want) < 1e-6
    assert not adapter_files.read_delta(result, V).any()


def test_moe_parameters_keep_their_interleaving(tmp_path: Path) -> None:
    """A is stored expert by expert, B rank by rank: concatenating A naively mixes the experts up."""
    name, E, keys = (
        "model.layers.0.mlp.experts",
        3,
        [f"{PREFIX}model.layers.0.mlp.experts.lora_{f}.weight" for f in "AB"],
    )

    def adapter(folder: str, rank: int, seed: int) -> tuple[Path, Tensor]:
        A, B = (torch.randn(s, generator=torch.Generator().manual_seed(seed)) for s in ((E * rank, 5), (7, rank * E)))
        config = adapter_files.lora_config(rank, target_modules=[], target_parameters=["mlp.experts.gate_up_proj"])
        path = adapter_files.write(tmp_path / folder, dict(zip(keys, (A, B), strict=True)), config)
        return path, dense(A, B, 2.0)

    def dense(A: Tensor, B: Tensor, scaling: float) -> Tensor:
        A, B = A.double().reshape(E, -1, 5), B.double().reshape(7, -1, E)
        return scaling * torch.einsum("ore,eri->eoi", B, A)

    (expert, e), (anti_expert, a) = adapter("e", 3, 0), adapter("a", 2, 1)
    result = run(expert, anti_expert)
    tensors = adapter_files.tensors_of(result)
    delta = dense(*(tensors[key] for key in keys), scaling=1.0)
    assert oracle.relative_error(delta, oracle.combined("ext-sub", e, [a], [1])) < 1e-6
    assert adapter_files.config_of(result)["target_parameters"] == ["mlp.experts.gate_up_proj"]
    assert load_adapter(result).modules[name].shape == (E, 7, 5)


# ---- options ---------------------------------------------------------------------------------------------------


def test_several_anti_experts_each_with_its_strength(tmp_path: Path) -> None:
    expert = adapter_files.lora(tmp_path / "e")
    antis = [adapter_files.lora(tmp_path / f"a{seed}", rank=seed, seed=seed) for seed in (1, 2)]
    result = run(expert, *antis, alpha=[0.5, 1.5])
    assert error(result, expected(Q, "ext-sub", [0.5, 1.5], expert, *antis)) < 1e-6
    assert load_adapter(result).rank == 3 + 1 + 2


@pytest.mark.parametrize("operation", sorted(extsub.OPERATIONS))
def test_expert_minus_alpha_times_the_deficiency_is_the_result(tmp_path: Path, operation: str) -> None:
    expert, anti_expert = adapter_files.lora(tmp_path / "e"), adapter_files.lora(tmp_path / "a", rank=2, seed=1)
    d = adapter_files.read_delta(run(expert, anti_expert, operation=operation, alpha=0.7, deficiency=True), Q)
    want = expected(Q, operation, [0.7], expert, anti_expert)
    assert oracle.relative_error(adapter_files.read_delta(expert, Q) - 0.7 * d, want) < 1e-6


def test_one_deficiency_adapter_has_one_strength(tmp_path: Path) -> None:
    expert, *antis = (adapter_files.lora(tmp_path / name, seed=seed) for seed, name in enumerate("eab"))
    with pytest.raises(ExtSubError, match="with different values of alpha, write one for each anti-expert"):
        run(expert, *antis, alpha=[1, 2], deficiency=True)


def test_truncation_reports_its_error(tmp_path: Path) -> None:
    expert, anti_expert = adapter_files.pair(tmp_path)
    result = run(expert, anti_expert, rank=2)
    record = adapter_files.record_of(result)
    squared_error = squared_norm = 0.0
    for name in SHAPES:
        exact = expected(name, "ext-sub", [1], expert, anti_expert)
        written = adapter_files.read_delta(result, name)
        assert torch.linalg.matrix_rank(written) == 2
        best = torch.linalg.svdvals(exact)[2:].square().sum().item()
        assert (written - exact).square().sum().item() == pytest.approx(best, rel=1e-5)
        squared_error, squared_norm = squared_error + best, squared_norm + exact.square().sum().item()
    assert record["truncation"]["relative_error"] == pytest.approx((squared_error / squared_norm) ** 0.5, rel=1e-9)
    assert record["rank"] == 2
    exact = adapter_files.record_of(run(expert, anti_expert, rank=99))
    assert (exact["rank"], exact["truncation"]["relative_error"]) == (6, 0.0)


def test_numbers_too_large_for_float16_are_kept_in_float32(tmp_path: Path) -> None:
    """A row of the expert that is tiny beside the anti-expert's is amplified out of float16's range."""
    expert, anti_expert = (adapter_files.factors(dtype=torch.float16, seed=seed) for seed in (0, 1))
    expert[f"{PREFIX}{Q}.lora_B.weight"] *= 1e-3
    anti_expert[f"{PREFIX}{Q}.lora_B.weight"] *= 2e4
    adapter_files.write(tmp_path / "e", expert, adapter_files.lora_config())
    adapter_files.write(tmp_path / "a", anti_expert, adapter_files.lora_config(lora_alpha=48))
    result = run(tmp_path / "e", tmp_path / "a")
    record = adapter_files.record_of(result)
    assert record["dtype"] == "float32"
    assert record["notes"][0] == "stored as float32: some numbers do not fit float16"
    assert record["notes"][1].startswith("rows of the expert scaled by more than 10: 12 of 16; their direction may be")
    want = expected(Q, "ext-sub", [1], tmp_path / "e", tmp_path / "a")
    assert error(result, want) < 1e-6
    with pytest.raises(ExtSubError, match=r"q_proj has numbers too large for float16: choose --dtype float32"):
        run(tmp_path / "e", tmp_path / "a", dtype="float16", output=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_numbers_too_small_for_float16_are_kept_in_float32(tmp_path: Path) -> None:
    adapter_files.pair(tmp_path, dtype=torch.float16, lora_alpha=3e-6)
    assert adapter_files.record_of(run(tmp_path / "e", tmp_path / "a"))["dtype"] == "float32"
    with pytest.raises(ExtSubError, match="has rows too small for float16"):
        run(tmp_path / "e", tmp_path / "a", dtype="float16")


# ---- do they belong together? ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "theirs", "written", "note"),
    [
        ("gpt2", "openai-community/gpt2", "gpt2", None),
        ("a/Model", "a/model", "a/Model", None),
        (None, "a/model", "a/model", "does not name its base model"),
        (None, None, None, "no adapter names its base model"),
        ("unsloth/m-bnb-4bit", "unsloth/m", "unsloth/m-bnb-4bit", "the bases differ in quantisation"),
        ("/home/me/models/llama-7b", "huggyllama/llama-7b", "huggyllama/llama-7b", "by their last names"),
    ],
)
def test_bases_that_mean_the_same(
    tmp_path: Path, mine: str | None, theirs: str | None, written: str | None, note: str | None
) -> None:
    adapter_files.lora(tmp_path / "e", base_model_name_or_path=mine)
    adapter_files.lora(tmp_path / "a", seed=1, base_model_name_or_path=theirs)
    result = combine(tmp_path / "e", tmp_path / "a")
    assert result.base == written
    assert len(result.notes) == (note is not None)
    assert note is None or note in result.notes[0]


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [("a/llama", "a/mistral"), ("a/model", "b/model"), ("/models/llama", "/models/mistral"), ("/models/x", "a/model")],
)
def test_bases_that_differ_are_refused_unless_the_user_knows_better(tmp_path: Path, mine: str, theirs: str) -> None:
    adapter_files.lora(tmp_path / "e", base_model_name_or_path=mine)
    adapter_files.lora(tmp_path / "a", seed=1, base_model_name_or_path=theirs)
    with pytest.raises(ExtSubError, match=f"was trained on {mine} and .*/a on {theirs}: .* with --base-model"):
        run(tmp_path / "e", tmp_path / "a")
    result = run(tmp_path / "e", tmp_path / "a", base_model="owner/real")
    assert adapter_files.config_of(result)["base_model_name_or_path"] == "owner/real"
    assert "base_model: owner/real" in (result / "README.md").read_text()


def test_kinds_shapes_tasks_and_parameters_must_agree(tmp_path: Path) -> None:
    expert = adapter_files.lora(tmp_path / "e")
    for anti_expert, message in (
        (
            adapter_files.ia3(tmp_path / "ia3"),
            "ia3 is a IA3 adapter and .*/e a LORA adapter: train both with the same kind",
        ),
        (
            adapter_files.lora(tmp_path / "wide", {Q: (12, 9), V: (4, 9)}),
            r"q_proj is linear 12 x 8 in .*/e and linear 12 x 9 in",
        ),
        (
            adapter_files.lora(tmp_path / "task", task_type="SEQ_2_SEQ_LM"),
            "e is for CAUSAL_LM and .*/task for SEQ_2_SEQ_LM",
        ),
        (
            adapter_files.lora(tmp_path / "layers", layer_replication=[[0, 1]]),
            r"layer_replication is None in .*/e and \[\[0, 1\]\]",
        ),
    ):
        with pytest.raises(ExtSubError, match=message):
            run(expert, anti_expert)


def test_heads_stored_whole_are_kept_only_when_identical_or_asked_for(tmp_path: Path) -> None:
    """A classifier's head starts at random, so two of them have no meaningful difference."""
    key = f"{PREFIX}score.weight"
    fields = {"task_type": "SEQ_CLS", "modules_to_save": None}  # as real configs: null, and the head is in the file
    for name, seed, head in (("e", 0, 1.0), ("same", 1, 1.0), ("other", 1, 2.0)):
        adapter_files.edit_tensors(
            adapter_files.lora(tmp_path / name, seed=seed, **fields), add={key: torch.full((2, 8), head)}
        )
    result = run(tmp_path / "e", tmp_path / "same")
    assert adapter_files.tensors_of(result)[key].unique().tolist() == [1.0]
    assert adapter_files.config_of(result)["modules_to_save"] == ["score"]
    with pytest.raises(ExtSubError, match=r"score.weight is stored whole .* pass --modules-to-save expert"):
        run(tmp_path / "e", tmp_path / "other")
    result = run(tmp_path / "e", tmp_path / "other", modules_to_save="expert")
    assert adapter_files.tensors_of(result)[key].unique().tolist() == [1.0]


@pytest.mark.parametrize(
    ("fields", "targets"),
    [
        ({}, ["q_proj", "v_proj"]),
        ({"target_modules": ["v_proj", "q_proj", "not_there"]}, ["q_proj", "v_proj"]),
        ({"target_modules": "all-linear"}, ["q_proj", "v_proj"]),
        ({"target_modules": ".*_proj"}, [Q, V]),
        ({"target_modules": None}, [Q, V]),
        ({"layers_to_transform": [0]}, [Q, V]),
    ],
)
def test_targets_are_short_names_only_where_those_are_sure(
    tmp_path: Path, fields: dict[str, object], targets: list[str]
) -> None:
    adapter_files.pair(tmp_path, **fields)
    config = adapter_files.config_of(run(tmp_path / "e", tmp_path / "a"))
    assert config["target_modules"] == targets


def test_a_zero_expert_is_refused_and_a_zero_anti_expert_noted(tmp_path: Path) -> None:
    expert, zero = adapter_files.lora(tmp_path / "e"), adapter_files.lora(tmp_path / "zero")
    nothing = {key: torch.zeros_like(t) for key, t in adapter_files.factors().items() if "lora_B" in key}
    adapter_files.edit_tensors(zero, add=nothing)
    with pytest.raises(ExtSubError, match="zero is zero in every row: it was never trained"):
        run(zero, expert)
    assert not (tmp_path / "result").exists()
    record = adapter_files.record_of(run(expert, zero))
    assert record["notes"] == ["zero is zero in every row, so it changes nothing"]


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    expert, anti_expert = adapter_files.pair(tmp_path)
    first, second = (run(expert, anti_expert, output=tmp_path / name / "out") for name in ("one", "other"))
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name


def test_a_written_adapter_loads_and_combines_again(tmp_path: Path) -> None:
    """Saving what was loaded keeps its meaning, with the scaling folded in."""
    source = adapter_files.lora(tmp_path / "e", rank=4, lora_alpha=12, use_rslora=True)
    save_adapter(load_adapter(source), tmp_path / "copy")
    assert error(tmp_path / "copy", adapter_files.read_delta(source, Q, 6.0)) < 1e-6
    run(run(source, adapter_files.lora(tmp_path / "a", seed=1)), tmp_path / "copy", output=tmp_path / "again")


# ---- what a hostile review found -------------------------------------------------------------------------------


def test_multihead_attention_takes_its_patterns_from_the_module(tmp_path: Path) -> None:
    """PEFT nests the output projection inside the module that the config names."""
    names = {"attn": (12, 4), "attn.base_layer.out_proj": (4, 4)}
    adapter_files.lora(
        tmp_path / "e", names, target_modules=["attn"], alpha_pattern={"attn": 30}, rank_pattern={"attn": 3}, r=9
    )
    modules = load_adapter(tmp_path / "e").modules
    assert {name: (m.rank, m.scaling) for name, m in modules.items()} == dict.fromkeys(names, (3, 10.0))


def test_exactly_opposite_adapters_pass_verification(tmp_path: Path) -> None:
    """The same adapter with its sign flipped: the paper's formula is 0/0 and rounding noise has no direction."""
    expert = adapter_files.lora(tmp_path / "e", lora_alpha=8)
    anti_expert = adapter_files.lora(tmp_path / "a", lora_alpha=-7)
    result = run(expert, anti_expert)
    assert error(result, (1 + 7 / 8) * adapter_files.read_delta(expert, Q)) < 1e-6


def test_a_tiny_row_is_kept_and_its_amplification_reported(tmp_path: Path) -> None:
    tensors = adapter_files.factors()
    tensors[f"{PREFIX}{Q}.lora_B.weight"][0] *= 1e-20
    expert = adapter_files.write(tmp_path / "e", tensors, adapter_files.lora_config())
    anti_expert = adapter_files.lora(tmp_path / "a", seed=1)
    record = adapter_files.record_of(run(expert, anti_expert))
    assert record["largest_amplification"]["factor"] > 1e18
    assert "direction may be noise" in record["notes"][-1]
    want = expected(Q, "ext-sub", [1], expert, anti_expert)
    assert torch.allclose(adapter_files.read_delta(tmp_path / "result", Q)[0], want[0], rtol=1e-5)


def test_one_row_that_float16_would_lose_is_enough_for_float32(tmp_path: Path) -> None:
    for name, seed in (("e", 0), ("a", 1)):
        tensors = adapter_files.factors(dtype=torch.float16, seed=seed)
        tensors[f"{PREFIX}{Q}.lora_B.weight"][5] = 1e-4
        adapter_files.write(tmp_path / name, tensors, adapter_files.lora_config(lora_alpha=0.02))
    expert, anti_expert = tmp_path / "e", tmp_path / "a"
    result = run(expert, anti_expert)
    assert adapter_files.record_of(result)["dtype"] == "float32"
    want = expected(Q, "ext-sub", [1], expert, anti_expert)
    assert torch.allclose(adapter_files.read_delta(result, Q)[5], want[5], rtol=1e-5)


def test_numbers_out_of_every_range_are_refused(tmp_path: Path) -> None:
    expert, anti_expert = adapter_files.pair(tmp_path)
    with pytest.raises(ExtSubError, match="has numbers too large for float32: lower alpha, or check the adapters"):
        run(expert, anti_expert, alpha=1e290)


def test_ia3_targets_stay_apart_where_a_short_name_means_both(tmp_path: Path) -> None:
    """A module that multiplies inputs in one layer and outputs in another."""
    vectors = {"layers.0.dense": (1, 6), "layers.1.dense": (6, 1)}
    fields = {"target_modules": ["dense"], "feedforward_modules": r".*0\.dense"}
    for name, seed in (("e", 0), ("a", 1)):
        adapter_files.ia3(tmp_path / name, seed, vectors, **fields)
    config = adapter_files.config_of(run(tmp_path / "e", tmp_path / "a"))
    assert config["target_modules"] == ["layers.0.dense", "layers.1.dense"]
    assert config["feedforward_modules"] == ["layers.0.dense"]


def test_the_deficiency_of_classifiers_keeps_the_head_that_peft_asks_for(tmp_path: Path) -> None:
    key = f"{PREFIX}score.weight"
    for name, seed in (("e", 0), ("a", 1)):
        head = {key: torch.full((2, 8), float(seed))}
        adapter_files.edit_tensors(adapter_files.lora(tmp_path / name, seed=seed, task_type="SEQ_CLS"), add=head)
    result = run(tmp_path / "e", tmp_path / "a", deficiency=True, modules_to_save="expert")
    assert not adapter_files.tensors_of(result)[key].any()


def test_base_weights_under_embeddings_must_agree_between_all(tmp_path: Path) -> None:
    """PEFT stores them beside adapted embeddings; two anti-experts that differ were trained on different bases."""
    keys = [f"{PREFIX}embed_tokens.lora_embedding_{factor}" for factor in "AB"]
    for name, base in (("e", None), ("a", 1.0), ("b", 2.0)):
        tensors = dict(zip(keys, (torch.randn(3, 11), torch.randn(6, 3)), strict=True))
        if base:
            tensors[f"{PREFIX}embed_tokens.base_layer.weight"] = torch.full((11, 6), base)
        adapter_files.write(tmp_path / name, tensors, adapter_files.lora_config(target_modules=["embed_tokens"]))
    with pytest.raises(ExtSubError, match="store different base weights under .*embed_tokens.base_layer.weight"):
        run(tmp_path / "e", tmp_path / "a", tmp_path / "b")
    notes = combine(tmp_path / "e", tmp_path / "a").notes
    assert notes == ("a: base weights under adapted embeddings, taken as unchanged and left out: 1",)


T5 = "decoder.block.0.layer.1.EncDecAttention.q"
TOWER = "model.vision_tower.encoder.layers.0.q_proj"


@pytest.mark.parametrize(
    ("name", "fields", "problem"),
    [
        (Q, {"task_type": "CAUSAL_LM"}, None),
        (Q, {"task_type": None}, None),
        ("transformer.h.0.attn.c_attn", {}, None),
        ("model.decoder.layers.0.self_attn.q_proj", {}, None),
        ("model.language_model.layers.0.self_attn.q_proj", {}, None),
        (
            Q,
            {"task_type": "SEQ_2_SEQ_LM"},
            "applies adapters to causal language models, and this one is for SEQ_2_SEQ_LM",
        ),
        (Q, {"task_type": "SEQ_CLS"}, "and this one is for SEQ_CLS"),
        (Q, {"task_type": "FEATURE_EXTRACTION"}, "and this one is for FEATURE_EXTRACTION"),
        (T5, {"task_type": None}, "causal language models, and these layers are not of one"),
        ("model.encoder.layers.0.self_attn.q_proj", {"task_type": None}, "these layers are not of one"),
        ("down_blocks.0.attn1.to_q", {"task_type": None}, "these layers are not of one"),
        (TOWER, {"task_type": None}, "and this one changes a vision or audio tower"),
        ("lm_head", {}, "applies adapters of embeddings and heads to few models"),
        (Q, {"layer_replication": [[0, 1]]}, "does not repeat layers"),
    ],
)
def test_vllm_is_offered_for_what_it_serves(
    tmp_path: Path, name: str, fields: dict[str, object], problem: str | None
) -> None:
    adapter_files.pair(tmp_path, shapes={name: (9, 8)}, target_modules=[name], **fields)
    result = run(tmp_path / "e", tmp_path / "a")
    serve = adapter_files.record_of(result)["serve"]
    assert serve == {"vllm": "--max-lora-rank 8"} if problem is None else problem in serve["problem"]
    assert ("vllm serve" in (result / "README.md").read_text()) == (problem is None)


def test_vllm_is_not_offered_for_other_kinds_and_layouts(tmp_path: Path) -> None:
    def problem(e: Path, a: Path, **options: object) -> str:
        return adapter_files.record_of(run(e, a, **options))["serve"]["problem"]

    expert, anti_expert = adapter_files.pair(tmp_path, rank=300)
    assert problem(expert, anti_expert) == "vLLM takes rank 512 at most, and this is 600: combine with --rank 512"
    assert "is not an adapter to use alone" in problem(expert, anti_expert, rank=8, deficiency=True)
    assert "not IA3" in problem(adapter_files.ia3(tmp_path / "i"), adapter_files.ia3(tmp_path / "j", seed=1))
    assert "not PREFIX_TUNING" in problem(
        adapter_files.prefix(tmp_path / "p"), adapter_files.prefix(tmp_path / "q", seed=1)
    )
    conv = {
        f"{PREFIX}conv.lora_A.weight": torch.ones(3, 2, 2, 2),
        f"{PREFIX}conv.lora_B.weight": torch.ones(5, 3, 1, 1),
    }
    for name in "cd":
        adapter_files.write(tmp_path / name, conv, adapter_files.lora_config(target_modules=["conv"]))
    assert problem(tmp_path / "c", tmp_path / "d") == "vLLM applies no adapters of convolutions"


# ---- where one is likely wrong ---------------------------------------------------------------------------------


def notes_of(result: Path) -> list[str]:
    return adapter_files.record_of(result)["notes"]


def test_nothing_is_said_where_nothing_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of relative names that could be the hub's: a folder is a folder."""
    monkeypatch.chdir(tmp_path)
    adapter_files.pair(Path("mine"))
    for alpha in (0.25, 1.0):
        result = run(Path("mine/e"), Path("mine/a"), alpha=alpha, output=Path("out"))
        assert notes_of(result) == []
        assert "## Notes" not in (result / "README.md").read_text()


def test_the_same_adapter_twice_is_said(tmp_path: Path) -> None:
    """By its numbers: a copy, or one in another dtype and with other factors, is the same."""
    expert = adapter_files.lora(tmp_path / "e")
    adapter_files.lora(tmp_path / "half", dtype=torch.bfloat16)
    scaled = {key: tensor * (4 if "lora_A" in key else 0.5) for key, tensor in adapter_files.factors().items()}
    adapter_files.write(tmp_path / "scaled", scaled, adapter_files.lora_config(lora_alpha=3))
    for name in ("e", "half", "scaled"):
        note = f"e and {name} are the same adapter: was another one meant?"
        assert note in notes_of(run(expert, tmp_path / name, output=tmp_path / "out"))
        assert note in extsub.inspect(expert, tmp_path / name).notes
    other, again = adapter_files.lora(tmp_path / "a", seed=1), adapter_files.lora(tmp_path / "b", seed=1)
    assert notes_of(run(expert, other, again)) == ["a and b are the same adapter: was another one meant?"]
    part = adapter_files.edit_tensors(
        adapter_files.lora(tmp_path / "part"), add={f"{PREFIX}{V}.lora_B.weight": torch.ones(4, 3)}
    )
    assert not any("same adapter" in note for note in notes_of(run(expert, part)))


@pytest.mark.parametrize(
    ("alpha", "said"),
    [
        (3.0, []),
        (-1.0, ["α is -1: below 0 an operation does the opposite of what it is for"]),
        (4.0, ["α is 4: beyond 3 nothing was measured"]),
    ],
)
def test_a_strength_that_nobody_uses_is_said(tmp_path: Path, alpha: float, said: list[str]) -> None:
    expert, anti_expert = adapter_files.pair(tmp_path)
    assert notes_of(run(expert, anti_expert, operation="subtract", alpha=alpha)) == said


def test_rows_amplified_more_than_tenfold_are_counted(tmp_path: Path) -> None:
    tensors = adapter_files.factors()
    tensors[f"{PREFIX}{Q}.lora_B.weight"][:2] *= 1e-2
    expert = adapter_files.write(tmp_path / "e", tensors, adapter_files.lora_config())
    (note,) = notes_of(run(expert, adapter_files.lora(tmp_path / "a", seed=1)))
    assert note.startswith("rows of the expert scaled by more than 10: 2 of 16; their direction may be noise")


def test_a_row_that_cancels_is_zero_for_the_verification_too(tmp_path: Path) -> None:
    """Parallel rows of A and opposite numbers in B: what is left is float64's rounding, not a direction."""
    tensors = {key: tensor.double() for key, tensor in adapter_files.factors({Q: SHAPES[Q]}, rank=2).items()}
    A, B = (tensors[f"{PREFIX}{Q}.lora_{factor}.weight"] for factor in "AB")
    A[1] = A[0] / 3
    B[1:, 1] = -3 * B[1:, 0]
    expert = adapter_files.write(tmp_path / "e", tensors, adapter_files.lora_config(2))
    anti_expert = adapter_files.lora(tmp_path / "a", {Q: SHAPES[Q]}, seed=1)
    record = adapter_files.record_of(run(expert, anti_expert))
    assert record["zero_rows"]["expert"] == 11
    assert record["largest_amplification"]["factor"] < 1e3


def test_the_task_is_that_of_whichever_adapter_names_one(tmp_path: Path) -> None:
    expert, named, other = (
        adapter_files.lora(tmp_path / name, seed=seed, task_type=task)
        for seed, (name, task) in enumerate((("e", None), ("a", "CAUSAL_LM"), ("b", "SEQ_2_SEQ_LM")))
    )
    result = combine(expert, named)
    assert result.settings["task_type"] == "CAUSAL_LM"
    assert result.notes == ("not every adapter names its task_type; taken to be CAUSAL_LM",)
    with pytest.raises(ExtSubError, match="a is for CAUSAL_LM and .*/b for SEQ_2_SEQ_LM"):
        combine(expert, named, other)


def test_an_operation_of_ones_own_is_saved_and_verified_through_its_weights(tmp_path: Path) -> None:
    """Half of the expert's rows, less the anti-expert's at the expert's length."""
    names = adapter_files.pair(tmp_path)

    def weights(e: Any, a: Any, alpha: float) -> tuple[Any, Any]:
        return -0.5, -alpha * e / np.where(a > 0, a, 1)

    own = Operation("level", "e/2 − α·|e|/|a|·a", weights)
    record = save_adapter(combine(*names, operation=own, alpha=0.7), tmp_path / "out")
    assert (record["operation"], record["formula"]) == ("level", own.formula)
    assert record["verification"]["largest_relative_error"] < 1e-6
    e, a, written = (adapter_files.read_delta(folder, Q) for folder in (*names, tmp_path / "out"))
    want = e / 2 - 0.7 * e.norm(dim=1, keepdim=True) / a.norm(dim=1, keepdim=True) * a
    assert torch.allclose(written, want, atol=1e-6)
    same = Operation("ext-sub", "not the paper's", weights)  # a name does not decide what is verified
    save_adapter(combine(*names, operation=same, alpha=0.7), tmp_path / "same")


def test_names_are_as_good_as_adapters(tmp_path: Path) -> None:
    names = [str(folder) for folder in adapter_files.pair(tmp_path)]
    expert, anti_expert = map(load_adapter, names)
    given = {"names": names, "adapters": (expert, anti_expert), "both": (names[0], anti_expert)}
    for place, pair in given.items():
        save_adapter(combine(*pair), tmp_path / place)
    assert len({(tmp_path / place / "adapter_model.safetensors").read_bytes() for place in given}) == 1


def test_an_adapter_shows_itself_in_one_line(tmp_path: Path) -> None:
    adapter = load_adapter(adapter_files.lora(tmp_path / "e"))
    assert repr(adapter) == f"<Adapter {str(tmp_path / 'e')!r}: LORA of made-up/tiny, 2 modules, float32>"
    assert repr(combine(adapter, adapter)).startswith("<Adapter 'the result': LORA")


LEVEL = """
from extsub import Operation, register_operation
register_operation(Operation("level", "e/2 − α·a", lambda e, a, alpha: (-0.5, -alpha)))
"""


@pytest.fixture
def level(tmp_path: Path) -> Generator[Path]:
    """A file that registers an operation; afterwards nobody knows it."""
    (tmp_path / "level.py").write_text(LEVEL, encoding="utf-8")
    yield tmp_path / "level.py"
    OPERATIONS.pop("level", None)
    for name in [name for name in sys.modules if name.startswith("extsub_plugin_")]:
        del sys.modules[name]


def test_an_operation_is_known_to_the_command_line_by_its_file(extsub: Command, tmp_path: Path, level: Path) -> None:
    adapter_files.pair(tmp_path)
    unknown = extsub("combine", "e", "a", "--operation", "level", "-o", "o")
    assert unknown.returncode == 2
    assert "operation must be one of ext-sub, subtract, add, contrast, amplify, found 'level'" in unknown.stderr
    done = extsub("combine", "e", "a", "--operation", "level", "--operation-file", level.name, "--alpha", 2, "-o", "o")
    assert done.returncode == 0, done.stderr
    e, a, written = (adapter_files.read_delta(tmp_path / name, Q) for name in ("e", "a", "o"))
    assert torch.allclose(written, e / 2 - 2 * a, atol=1e-6)
    assert adapter_files.record_of(tmp_path / "o")["operation"] == "level"


@pytest.mark.parametrize("name", ["ext-sub", "base", "random", "Level", "a b", "../x", ""])
def test_names_that_an_operation_cannot_have(name: str) -> None:
    with pytest.raises(ExtSubError, match="there is an operation called|an operation cannot be called"):
        register_operation(Operation(name, "e", lambda e, a, alpha: (0.0, 0.0)))
    assert OPERATIONS["ext-sub"] is ext_sub


def test_reserved_names_are_those_of_a_sweep() -> None:
    assert (*MODELS, *CONTROLS, *METHODS) == RESERVED
