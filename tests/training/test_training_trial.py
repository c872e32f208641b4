"""Before anything is trained, a tiny model of the same architecture shows whether it can be."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import tiny_models
from architectures import made
from conftest import Command
from extsub import ExtSubError, TrainingSettings
from extsub.training import plan as planning
from extsub.training.trial import try_architecture, try_model

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries

APART = ("llama", "qwen2", "gemma", "gemma2", "mistral", "mixtral", "gpt2")
TOGETHER = ("mamba", "opt", "bloom", "rwkv", "gpt_oss", "falcon_h1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def settings(model: Path, packing: bool = True) -> TrainingSettings:
    rows = tiny_models.instructions(model.parent / "rows.jsonl")
    return TrainingSettings(model=str(model), data=str(rows), output=Path("out"), packing=packing)


def sketched(model: Path) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))


def leak(model: Any) -> float:
    """How much logits of a second row change when another stands before it, positions begun anew: of their spread."""
    first, second = torch.randint(5, 250, (2, 1, 9), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(9).repeat(2)[None]
    with torch.no_grad():
        alone = model(input_ids=second, use_cache=False).logits[0]
        packed = model(input_ids=torch.cat([first, second], 1), position_ids=positions, use_cache=False).logits[0, 9:]
    return float((packed - alone).std() / alone.std())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", APART)
def test_rows_that_stay_apart_are_packed(folder: Path, architecture: str, dtype: torch.dtype) -> None:
    model = made(folder, architecture)
    assert leak(AutoModelForCausalLM.from_pretrained(model)) < 1e-5
    assert try_architecture(sketched(model), settings(model), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", TOGETHER)
def test_rows_that_see_each_other_are_not(folder: Path, architecture: str, dtype: torch.dtype) -> None:
    """As they are without kernels of their own; what is not packed is trained."""
    model = made(folder, architecture)
    assert leak(AutoModelForCausalLM.from_pretrained(model)) > 0.01
    with pytest.raises(
        ExtSubError, match=rf"{architecture} cannot be trained with --packing: .*; leave out --packing$"
    ) as said:
        try_architecture(sketched(model), settings(model), dtype)
    assert len(str(said.value)) < 400
    assert try_architecture(sketched(model), settings(model, packing=False), dtype)


def test_the_command_says_so_before_it_works(folder: Path, tmp_path: Path, extsub: Command) -> None:
    data = tiny_models.instructions(tmp_path / "rows.jsonl")
    arguments = ["train", "--model", made(folder, "opt"), "--data", data, "--output", tmp_path / "out"]
    for more in (["--packing"], ["--packing", "--dry-run"]):
        result = extsub(*arguments, *more)
        assert result.returncode == 2
        assert "opt cannot be trained with --packing: what it says of a row depends" in " ".join(result.stderr.split())
    assert not (tmp_path / "out").exists()
    assert extsub(*arguments, "--dry-run").returncode == 0
    arguments[2] = made(folder, "bert-generation")
    result = extsub(*arguments, "--target-modules", "query")
    assert "bert-generation sees both sides of a token: it is not a causal language model" in " ".join(
        result.stderr.split()
    )


def test_what_has_no_twin_is_tried_with_its_weights(
    folder: Path, tmp_path: Path, extsub: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "try_architecture", lambda *_: False)
    data = tiny_models.instructions(tmp_path / "rows.jsonl")
    arguments = ["train", "--data", data, "--epochs", 0.1, "--batch-size", 4, "--warmup", 0, "--packing"]
    later = "is tried once it is loaded"
    bad = [*arguments, "--model", made(folder, "opt"), "--output", tmp_path / "bad"]
    assert later in " ".join(extsub(*bad, "--dry-run").stdout.split())
    result = extsub(*bad)
    assert result.returncode == 2
    assert "opt cannot be trained with --packing" in " ".join(result.stderr.split())
    assert not (tmp_path / "bad").exists()
    good = extsub(*arguments, "--model", made(folder, "llama"), "--output", tmp_path / "good")
    assert good.returncode == 0, good.stderr


def before(_: Any, __: Any, states: torch.Tensor) -> torch.Tensor:
    return states + 0.3 * torch.nn.functional.pad(states, (0, 0, 1, -1))


def after(_: Any, __: Any, states: torch.Tensor) -> torch.Tensor:
    return states + 0.3 * torch.nn.functional.pad(states, (0, 0, -1, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("fault", "message"), [(before, "what it says of a row depends on the rows before it"), (after, "sees both sides")]
)
def test_a_small_leak_is_seen(folder: Path, fault: Callable, message: str, dtype: torch.dtype) -> None:
    """A third of the token beside each."""
    model: Any = AutoModelForCausalLM.from_pretrained(made(folder, "llama"), dtype=dtype)
    try_model(model, settings(folder / "llama"))
    model.get_input_embeddings().register_forward_hook(fault)
    with pytest.raises(ExtSubError, match=message):
        try_model(model, settings(folder / "llama"))


def test_it_takes_no_time(folder: Path) -> None:
    """Against minutes of training."""
    begun = time.process_time()
    try_architecture(sketched(made(folder, "llama")), settings(folder / "llama"), torch.float32)
    assert time.process_time() - begun < 3
