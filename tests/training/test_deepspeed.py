"""DeepSpeed on two CPU processes, started as ``examples/accelerate`` says; skipped where it is not installed.

To run it, in an environment of its own:

    pip install -e '.[dev]' wheel setuptools hjson py-cpuinfo msgpack ninja einops
    DS_BUILD_OPS=0 pip install --no-build-isolation --no-deps deepspeed==0.19.8
    pytest tests/training/test_deepspeed.py

The first run compiles DeepSpeed's communication for CPUs, which takes minutes and a C++ compiler.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

import tiny_models
from conftest import ROOT
from extsub import TrainingSettings, train

if importlib.util.find_spec("deepspeed") is None:  # its import prints, and warns
    pytest.skip("deepspeed is not installed: see the head of this file", allow_module_level=True)

CONFIGS = ROOT / "examples" / "accelerate"
PATIENCE = 900
"""seconds; nearly all of them for compiling"""

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # torch's own, about CPU autocast
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.llama(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.instructions(tmp_path_factory.mktemp("data") / "rows.jsonl")


def settings(base: Path, data: Path, output: Path, **changes: object) -> TrainingSettings:
    quick = {"batch_size": 12, "micro_batch_size": 3, "learning_rate": 2e-3, "epochs": 3, "max_length": 80}
    return TrainingSettings(model=str(base), data=str(data), output=output, **{**quick, **changes})


def launched(config: str, chosen: TrainingSettings, *more: str) -> subprocess.Popen[str]:
    """What a user starts, with a free port. The log is beside the output."""
    named = ("model", "data", "output", "kind", "batch_size", "micro_batch_size", "learning_rate", "epochs", "dtype")
    named += ("max_length", "lora_dropout", "checkpoint_steps") if chosen.kind == "lora" else ("max_length",)
    arguments = [word for name in named for word in (f"--{name.replace('_', '-')}", str(getattr(chosen, name)))]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / config)]
    command += ["--main_process_port", "0", "-m", "extsub", "train", *arguments, *more]
    with chosen.output.with_suffix(".log").open("w") as log:
        environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, text=True)


def finished(process: subprocess.Popen[str], chosen: TrainingSettings) -> dict:
    """``training.json`` of a run that succeeded."""
    assert process.wait(PATIENCE) == 0, said(chosen)
    return json.loads((chosen.output / "training.json").read_text())


def said(chosen: TrainingSettings) -> str:
    return chosen.output.with_suffix(".log").read_text()


def weights(adapter: Path) -> dict[str, torch.Tensor]:
    return load_file(adapter / "adapter_model.safetensors")


def difference(first: Path, second: Path) -> float:
    """The largest, relative to the largest number."""
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    assert {tensor.dtype for tensor in theirs.values()} == {torch.float32}
    apart = max((ours[name] - theirs[name]).abs().max().item() for name in ours)
    return apart / max(tensor.abs().max().item() for tensor in ours.values())


@pytest.mark.parametrize("kind", ["lora", "p-tuning"])
def test_zero_2_on_two_processes_gives_the_adapter_of_one(base: Path, data: Path, tmp_path: Path, kind: str) -> None:
    """Without dropout, whose places differ. Each step has two micro-batches on a process, and four on the one."""
    changes = {"kind": kind} | ({"lora_dropout": 0.0} if kind == "lora" else {})
    train(settings(base, data, tmp_path / "one", **changes))
    two = settings(base, data, tmp_path / "two", **changes)
    record = finished(launched("zero2.yaml", two), two)
    assert (record["distributed"], record["plan"]["processes"]) == ("DEEPSPEED", 2)
    assert record["plan"]["accumulation"] == 2
    assert said(two).count(f"{kind} adapter for") == 1  # one process speaks
    assert difference(tmp_path / "one", tmp_path / "two") <= 1e-6
    assert all(weight.abs().max() > 0.01 for weight in weights(tmp_path / "two").values())  # B began at zero


def test_what_zero_trains_in_16_bits_is_written_as_the_float32_it_keeps(base: Path, data: Path, tmp_path: Path) -> None:
    """Rounded to 16 bits, small changes would be lost, and the subtraction of adapters makes it worse."""
    two = settings(base, data, tmp_path / "two", dtype="bfloat16")
    finished(launched("zero2.yaml", two), two)
    written = weights(two.output)
    assert {weight.dtype for weight in written.values()} == {torch.float32}
    assert not any(torch.equal(weight, weight.bfloat16().float()) for weight in written.values())


def test_a_killed_zero_2_run_resumes_with_the_same_bits(base: Path, data: Path, tmp_path: Path) -> None:
    """With dropout, so that the random state of each process counts."""
    many = {"epochs": 15, "checkpoint_steps": 3}
    whole, killed = settings(base, data, tmp_path / "whole", **many), settings(base, data, tmp_path / "killed", **many)
    finished(launched("zero2.yaml", whole), whole)
    process = launched("zero2.yaml", killed)
    deadline = time.monotonic() + PATIENCE
    while not list(killed.output.glob("checkpoints/checkpoint-*/complete")):
        assert process.poll() is None, said(killed)
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for running in (*psutil.Process(process.pid).children(recursive=True), process):  # workers outlive their launcher
        running.kill()
    process.wait()
    record = finished(launched("zero2.yaml", killed, "--resume"), killed)
    assert 0 < record["resumed_from_step"] < record["plan"]["steps"]
    assert difference(whole.output, killed.output) == 0.0


def test_zero_3_gathers_lora_and_refuses_virtual_tokens(base: Path, data: Path, tmp_path: Path) -> None:
    train(settings(base, data, tmp_path / "one", lora_dropout=0.0))
    two = settings(base, data, tmp_path / "two", lora_dropout=0.0)
    finished(launched("zero3.yaml", two), two)
    assert difference(tmp_path / "one", tmp_path / "two") <= 1e-5  # its float32 sums have another order
    prefix = settings(base, data, tmp_path / "prefix", kind="prefix")
    assert launched("zero3.yaml", prefix).wait(PATIENCE) != 0
    assert said(prefix).count("Error: prefix cannot be gathered from ZeRO-3 or FSDP: use ZeRO-2, or train") == 1
    assert not prefix.output.exists()
