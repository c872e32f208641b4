"""Training: the adapter is the one that a plain loop would train; interrupted, shared out or packed, it is the same."""

from __future__ import annotations

import copy
import functools
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from huggingface_hub.repocard import metadata_load
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import tiny_models
from architectures import made
from conftest import Command
from extsub import ExtSubError, TrainingSettings, load_adapter, plan_training, train
from extsub.training.curve import plot_losses
from extsub.training.kinds import peft_config
from extsub.training.progress import Watch
from extsub.training.sampler import LengthOrderedBatches
from extsub.training.trainer import Trainer

KINDS = ("lora", "ia3", "prefix", "p-tuning", "prompt")
SOME_KINDS = ["lora", "prefix", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("ia3", "p-tuning", "prompt"))]
QUICK = {"batch_size": 12, "learning_rate": 1e-2, "epochs": 3, "checkpoint_steps": 2, "max_length": 80}

pytestmark = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # torch's own, about CPU autocast and gloo
]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.llama(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.instructions(tmp_path_factory.mktemp("data") / "rows.jsonl")


Trained = Callable[[str], TrainingSettings]


@pytest.fixture(scope="module")
def trained(base: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """One uninterrupted run for each kind, on the first request."""
    folder = tmp_path_factory.mktemp("trained")

    @functools.cache
    def run(kind: str) -> TrainingSettings:
        chosen = settings(base, data, folder / kind, kind=kind)
        train(chosen)
        return chosen

    return run


def settings(base: Path, data: Path, output: Path, **changes: Any) -> TrainingSettings:
    return TrainingSettings(model=str(base), data=str(data), output=output, **{**QUICK, **changes})


def weights(adapter: Path) -> dict[str, torch.Tensor]:
    return load_file(adapter / "adapter_model.safetensors")


def difference(first: Path, second: Path) -> float:
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    return max((ours[name] - theirs[name]).abs().max().item() for name in ours)


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def by_hand(chosen: TrainingSettings) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], list[float]]:
    """The same training without any trainer, collator or padding: one row at a time, torch's AdamW, a line of a
    schedule. (the adapter as PEFT saves it before and after, the loss of each step)"""
    plan = plan_training(chosen)
    torch.manual_seed(chosen.seed)
    model = AutoModelForCausalLM.from_pretrained(plan.model.name, dtype=torch.float32)
    torch.manual_seed(chosen.seed)
    model = peft.get_peft_model(model, peft_config(chosen))
    before = copy.deepcopy(peft.get_peft_model_state_dict(model))
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=chosen.learning_rate, weight_decay=0.0)
    warm, total, step, losses = math.ceil(chosen.warmup * plan.steps), plan.steps, 0, []
    order = LengthOrderedBatches(plan.rows.lengths, chosen.batch_size, 1, chosen.seed)
    for epoch in range(int(chosen.epochs)):
        order.set_epoch(epoch)
        rows = list(order)
        for start in range(0, len(rows), chosen.batch_size):
            rate = step / warm if step < warm else (total - step) / (total - warm)
            optimizer.param_groups[0]["lr"] = chosen.learning_rate * rate
            batch = rows[start : start + chosen.batch_size]
            count = sum(len(plan.rows.tokens[row]) - plan.rows.answers[row] for row in batch)
            loss = torch.zeros(())
            for row in batch:
                tokens, answer = torch.tensor([plan.rows.tokens[row]]), plan.rows.answers[row]
                # logits has virtual tokens in front for p-tuning and prompt
                scores = model(input_ids=tokens).logits[0, -tokens.shape[1] :].log_softmax(-1)
                loss = loss - scores[range(answer - 1, tokens.shape[1] - 1), tokens[0, answer:]].sum()
            (loss / count).backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss / count))
            step += 1
    return before, peft.get_peft_model_state_dict(model), losses


@pytest.mark.parametrize("kind", SOME_KINDS)
def test_the_adapter_is_the_one_that_a_plain_loop_trains(base: Path, data: Path, tmp_path: Path, kind: str) -> None:
    chosen = settings(base, data, tmp_path / kind, kind=kind, **({"lora_dropout": 0.0} if kind == "lora" else {}))
    record = train(chosen)
    before, wanted, losses = by_hand(chosen)
    assert [step["loss"] for step in record["losses"]] == pytest.approx(losses, abs=1e-5)
    written = weights(chosen.output)
    assert written.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(written[name], tensor, atol=1e-4, rtol=1e-3)
        assert (tensor - before[name]).abs().max() > 0.01
    assert files(tmp_path) == {kind} | {
        f"{kind}/{name}"
        for name in ("README.md", "adapter_config.json", "adapter_model.safetensors", "loss.png", "training.json")
    }
    card, config = chosen.output / "README.md", json.loads((chosen.output / "adapter_config.json").read_text())
    assert metadata_load(card)["tags"][-1] == config["peft_type"].lower().replace("_", "-")
    text = card.read_text()
    assert f"PeftModel.from_pretrained(model, '{kind}')" in text
    assert f"adapter for the local model {base.name}, trained by extsub" in text
    assert f"| data | {data.name}, " in text.replace("\\", "")
    assert not any(str(folder) in text for folder in (tmp_path, base.parent, data.parent))


@pytest.mark.parametrize("layer", [pytest.param("lm_head", marks=pytest.mark.slow), "model.embed_tokens"])
def test_output_layer_and_embeddings_can_be_adapted(base: Path, data: Path, tmp_path: Path, layer: str) -> None:
    """The output layer sees the states before answers alone; neither is written beside its adapter, as PEFT would."""
    targets = ("q_proj", layer.rpartition(".")[2])
    chosen = settings(base, data, tmp_path / "lora", lora_dropout=0.0, target_modules=targets)
    train(chosen)
    before, wanted, _ = by_hand(chosen)
    written = weights(chosen.output)
    assert wanted.keys() - written.keys() == {f"base_model.model.{layer}.base_layer.weight"}
    for name, tensor in written.items():
        torch.testing.assert_close(tensor, wanted[name], atol=1e-4, rtol=1e-3)
        assert (tensor - before[name]).abs().max() > 0.01
    assert layer in load_adapter(str(chosen.output)).modules


@pytest.mark.parametrize("kind", ["lora", pytest.param("p-tuning", marks=pytest.mark.slow)])
def test_the_loss_is_that_of_the_model(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Trained, kind: str
) -> None:
    """Which is taken on all logits, and normalised by transformers."""
    ours = trained(kind).output
    monkeypatch.setattr(Trainer, "compute_loss", transformers.Trainer.compute_loss)
    train(settings(base, data, tmp_path / kind, kind=kind))
    assert difference(ours, tmp_path / kind) < 2e-5


def test_a_step_is_the_mean_over_its_tokens_for_every_architecture(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Trained
) -> None:
    """Gemma 3n and 4 say that their own loss is not: transformers then averages micro-batches of other lengths."""
    monkeypatch.setattr(transformers.LlamaForCausalLM, "accepts_loss_kwargs", False, raising=False)
    train(settings(base, data, tmp_path / "lora"))
    assert difference(trained("lora").output, tmp_path / "lora") == 0.0


@pytest.mark.slow
def test_a_mixture_of_experts_learns_the_answers_and_nothing_else(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own loss has a part for the balance of the experts, where its config says so."""
    base = made(tmp_path, "mixtral")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "output_router_logits": True, "router_aux_loss_coef": 0.5}))
    own = {"lora_dropout": 0.0, "target_modules": ("q_proj", "v_proj")}
    chosen = settings(base, data, tmp_path / "lora", **own)
    losses = [entry["loss"] for entry in train(chosen)["losses"]]
    assert losses == pytest.approx(by_hand(chosen)[2], abs=1e-5)
    monkeypatch.setattr(Trainer, "compute_loss", transformers.Trainer.compute_loss)
    theirs = train(settings(base, data, tmp_path / "other", **own))["losses"]
    assert theirs[0]["loss"] > losses[0] + 0.1


@pytest.mark.parametrize("kind", SOME_KINDS)
def test_peft_loads_the_adapter_on_the_base_as_it_is(base: Path, trained: Trained, kind: str) -> None:
    """No vocabulary grew, and the loaded model has the loss that the trained one had."""
    chosen = trained(kind)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    before = model.get_input_embeddings().weight.shape
    plain, loaded = copy.deepcopy(model), peft.PeftModel.from_pretrained(model, chosen.output)
    assert loaded.get_input_embeddings().weight.shape == before
    plan = plan_training(chosen)

    def loss(model: Any) -> float:
        total = 0.0
        for tokens, labels in zip(plan.rows.tokens, plan.rows.labels, strict=True):
            with torch.no_grad():
                total += float(model(input_ids=torch.tensor([tokens]), labels=torch.tensor([labels])).loss)
        return total / len(plan.rows.tokens)

    assert loss(loaded) < loss(plain) - 0.003


def test_expert_and_anti_expert_combine(base: Path, data: Path, extsub: Command, tmp_path: Path) -> None:
    """The whole way through the command line, with a recipe and settings that override it."""
    recipe = {"model": str(base), "data": str(data), **QUICK, "field": {"output": "instruction"}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    for output, seed in (("expert", 1), ("anti", 2)):
        run = extsub("train", "--config", "recipe.yaml", "--output", output, "--seed", seed, "--field", "output=output")
        assert run.returncode == 0, run.stderr
        assert run.stdout.startswith(f"{output}: lora adapter for {base}\n  steps      12 in ")
    record = json.loads((tmp_path / "anti" / "training.json").read_text())
    assert record["settings"]["seed"] == 2
    assert record["settings"]["batch_size"] == 12
    run = extsub("combine", "expert", "anti", "--output", "result", "--json")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["modules"] == 4
    assert load_adapter(str(tmp_path / "result")).base == str(base)


def test_json_has_the_record_of_the_run(base: Path, data: Path, extsub: Command, tmp_path: Path) -> None:
    run = extsub("train", "--model", base, "--data", data, "--output", "a", "--json", "--epochs", 1, "--batch-size", 40)
    assert run.returncode == 0, run.stderr
    record = json.loads(run.stdout)
    assert record == {"output": "a", **json.loads((tmp_path / "a" / "training.json").read_text())}
    assert record["plan"]["notes"] == [
        "2 steps will teach little: lower --batch-size, or raise --epochs or --learning-rate"
    ]
    assert [step["step"] for step in record["losses"]] == [1, 2]
    assert record["distributed"] == "NO"


def test_a_dry_run_needs_no_weights_and_writes_nothing(base: Path, data: Path, extsub: Command, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "bare").mkdir(exist_ok=True)
        (tmp_path / "bare" / name).write_bytes((base / name).read_bytes())
    before = files(tmp_path)
    arguments = ("train", "--model", "bare", "--data", data, "--output", "a", "--dry-run")
    plan = json.loads(extsub(*arguments, "--json", "--batch-size", 8).stdout)
    assert files(tmp_path) == before
    assert (plan["steps"], plan["accumulation"], plan["micro_batch_size"]) == (12, 2, 4)
    # 2 layers, q (32 -> 32) and v (32 -> 16): r x (in + out)
    assert plan["trainable_parameters"] == 2 * 16 * (32 + 32 + 32 + 16)
    assert plan["base_parameters"] == sum(
        weight.numel() for weight in AutoModelForCausalLM.from_pretrained(base).parameters()
    )
    assert plan["example"]["masked"].startswith("<s><|user|>\n")
    assert plan["example"]["masked"].endswith(" so\n<|assistant|>\n")
    assert plan["example"]["loss_on"].endswith("</s>")
    tokenizer = AutoTokenizer.from_pretrained(base)
    assert plan["tokens_per_epoch"] == sum(
        len(tokenizer(f"<|user|>\n{row['instruction']}{' ' + row['input'] if row['input'] else ''}\n<|assistant|>\n"
                      f"{row['output']}</s>")["input_ids"])
        for row in map(json.loads, data.read_text().splitlines())
    )  # fmt: skip
    shown = extsub(*arguments).stdout
    for line in ("steps      2; 32 x 4 rows a step", "masked     '<s><|user|>\\n", "loss on    '", "memory     about "):
        assert f"  {line}" in shown


class _StopError(Exception):
    """Ends a run in its middle."""


@pytest.mark.parametrize(
    ("kind", "stop"),
    [
        ("lora", 7),
        ("prefix", 7),
        *(
            pytest.param(*rest, marks=pytest.mark.slow)
            for rest in [("ia3", 7), ("p-tuning", 7), ("prompt", 7), ("lora", 3), ("lora", 9), ("lora", 12)]
        ),
    ],
)
def test_a_resumed_run_ends_with_the_same_bits(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Trained, kind: str, stop: int
) -> None:
    """12 steps with dropout, in three epochs of 4; checkpoints after 2, 4, 6, ... steps."""
    whole, halves = trained(kind), settings(base, data, tmp_path / "halves", kind=kind)
    with monkeypatch.context() as patched:
        patched.setattr(Watch, "on_log", _stopping_at(stop))
        with pytest.raises(_StopError):
            train(halves)
    assert {path.name for path in halves.output.iterdir()} == {"checkpoints"}
    kept = {path.name for path in (halves.output / "checkpoints").glob("checkpoint-*")}
    last = (stop - 1) // 2 * 2
    assert kept == {f"checkpoint-{step}" for step in (last - 2, last) if step > 0}  # older ones are pruned
    resumed = train(halves, resume=True)
    assert resumed["resumed_from_step"] == last
    assert difference(whole.output, halves.output) == 0.0
    assert resumed["losses"] == json.loads((whole.output / "training.json").read_text())["losses"]
    assert files(whole.output) == files(halves.output)


def _stopping_at(step: int) -> Any:
    original = Watch.on_log

    def on_log(self: Watch, args: Any, state: Any, control: Any, **more: Any) -> None:
        original(self, args, state, control, **more)
        if state.global_step == step:
            raise _StopError

    return on_log


@pytest.mark.parametrize("missing", ["complete", pytest.param("trainer_state.json", marks=pytest.mark.slow)])
def test_an_incomplete_checkpoint_is_passed_over(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Trained, missing: str
) -> None:
    """One process was killed before another had written its part, or the power failed."""
    whole, halves = trained("lora"), settings(base, data, tmp_path / "halves")
    with monkeypatch.context() as patched:
        patched.setattr(Watch, "on_log", _stopping_at(7))
        with pytest.raises(_StopError):
            train(halves)
    checkpoint = halves.output / "checkpoints" / "checkpoint-6"
    if missing == "complete":
        (checkpoint / "complete").unlink()
    else:
        (checkpoint / "trainer_state.json").write_text('{"global_step": 6')
    assert train(halves, resume=True)["resumed_from_step"] == 4
    assert difference(whole.output, halves.output) == 0.0


def test_an_unfinished_run_is_continued_only_on_request_and_only_as_it_began(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"field": {"output": "output"}, "target_modules": ("q_proj", "o_proj")}
    chosen = settings(base, data, tmp_path / "a", **own)
    with monkeypatch.context() as patched:
        patched.setattr(Watch, "on_log", _stopping_at(5))
        with pytest.raises(_StopError):
            train(chosen)
    with pytest.raises(
        ExtSubError, match=r"holds a run that stopped after step 4: pass --resume, or remove the folder"
    ):
        train(chosen)
    with pytest.raises(ExtSubError, match=r"--resume: seed was 42 when the run in .* began, and is now 43"):
        train(settings(base, data, tmp_path / "a", seed=43, **own), resume=True)
    other = tmp_path / "other.jsonl"
    other.write_text(data.read_text() * 2)
    with pytest.raises(ExtSubError, match=r"--resume: data was "):
        train(settings(base, other, tmp_path / "a", **own), resume=True)
    assert train(settings(base, data, tmp_path / "a", micro_batch_size=2, **own), resume=True)["resumed_from_step"] == 4
    with pytest.raises(ExtSubError, match=r"already exists: choose another output, or remove it"):
        train(chosen, resume=True)


def test_ctrl_c_says_how_to_go_on(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extsub: Command
) -> None:
    def interrupt(self: Watch, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.global_step == 5:
            raise KeyboardInterrupt

    arguments = ["train", "--model", base, "--data", data, "--output", "new/a", "--batch-size", 12]
    with monkeypatch.context() as patched:
        patched.setattr(Watch, "on_log", interrupt)
        run = extsub(*arguments, "--checkpoint-steps", 2)
        assert (run.returncode, run.stderr) == (
            130,
            "Error: interrupted; step 4 is saved in new/a: continue with --resume\n",
        )
        arguments[arguments.index("new/a")] = "other/b"
        run = extsub(*arguments)  # no checkpoint before the fiftieth step
        assert (run.returncode, run.stderr) == (130, "Error: interrupted; nothing was written\n")
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "p-tuning"])
def test_a_killed_run_resumes_with_the_same_bits(base: Path, data: Path, tmp_path: Path, kind: str) -> None:
    """SIGKILL: nobody can tidy up."""
    many = {"kind": kind, "epochs": 15, "checkpoint_steps": 3}
    train(settings(base, data, tmp_path / "whole", **many))
    killed = settings(base, data, tmp_path / "killed", **many)
    code = "from extsub import *; from pathlib import PosixPath; train({}, resume=True)"
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code.format(killed)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(killed.output.glob("checkpoints/checkpoint-1[0-9]/complete")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    record = train(killed, resume=True)
    assert 0 < record["resumed_from_step"] < record["plan"]["steps"]
    assert difference(tmp_path / "whole", killed.output) == 0.0
    assert files(tmp_path / "whole") == files(killed.output)


@pytest.mark.slow
def test_two_processes_give_the_adapter_of_one(base: Path, data: Path, tmp_path: Path) -> None:
    """Over gloo, without dropout, whose places differ. 41 rows: the last batch has 5, and one process less than its
    share."""
    chosen = {**QUICK, "learning_rate": 2e-3, "lora_dropout": 0.0}
    train(settings(base, data, tmp_path / "one", **chosen))
    arguments = ["--model", base, "--data", data, "--output", tmp_path / "two"]
    arguments += [word for name, value in chosen.items() for word in (f"--{name.replace('_', '-')}", value)]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", 2, "--standalone"]
    command += ["-m", "extsub", "train", *arguments]
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=200, check=False)
    assert run.returncode == 0, run.stderr
    record = json.loads((tmp_path / "two" / "training.json").read_text())
    assert (record["distributed"], record["plan"]["processes"]) == ("MULTI_CPU", 2)
    assert run.stdout.count("lora adapter for") == 1  # one process speaks
    assert difference(tmp_path / "one", tmp_path / "two") <= 1e-6
    assert all(weight.abs().max() > 0.01 for weight in weights(tmp_path / "two").values())  # B began at zero


@pytest.mark.parametrize("kind", ["lora", "ia3"])
@pytest.mark.slow
def test_packed_rows_do_not_see_each_other(base: Path, data: Path, tmp_path: Path, kind: str) -> None:
    """With all rows in one batch the steps are the same, packed or not."""
    whole = {"kind": kind, "batch_size": 64, "epochs": 6, "micro_batch_size": 1, "max_length": 200}
    whole |= {"lora_dropout": 0.0} if kind == "lora" else {}
    plain, packed = (
        settings(base, data, tmp_path / "plain", **whole),
        settings(base, data, tmp_path / "packed", **whole, packing=True),
    )
    train(plain)
    record = train(packed)
    assert record["plan"]["packed_rows"] < 41 / 2
    assert difference(tmp_path / "plain", tmp_path / "packed") < 2e-5


@pytest.mark.parametrize(
    "changes", [{"gradient_checkpointing": True}, {"micro_batch_size": 1}, {"micro_batch_size": 12}]
)
@pytest.mark.slow
def test_what_saves_memory_changes_nothing(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict
) -> None:
    train(settings(base, data, tmp_path / "plain", lora_dropout=0.0))
    twice, name = [], "_checkpoint_without_reentrant_generator"
    once = getattr(torch.utils.checkpoint, name)
    monkeypatch.setattr(torch.utils.checkpoint, name, lambda *given, **more: twice.append(1) or once(*given, **more))
    train(settings(base, data, tmp_path / "other", lora_dropout=0.0, **changes))
    assert bool(twice) == ("gradient_checkpointing" in changes)
    assert difference(tmp_path / "plain", tmp_path / "other") < 2e-5


@pytest.mark.slow
def test_other_architectures_and_formats(data: Path, tmp_path: Path, extsub: Command) -> None:
    """GPT-2 (Conv1D, learnt positions), a base in bfloat16, targets of the user's choice."""
    tiny_models.gpt2(tmp_path / "gpt2")
    for kind, more in {
        "lora": ("--target-modules", "all-linear", "--dtype", "bfloat16", "--report-to", "none"),
        "ia3": ("--target-modules", "c_attn", "mlp.c_proj", "--feedforward-modules", "mlp.c_proj"),
        "prefix": ("--encoder-size", 0, "--virtual-tokens", 5),
    }.items():
        arguments = ("--model", "gpt2", "--data", data, "--output", kind, "--kind", kind, "--batch-size", 16)
        run = extsub("train", *arguments, "--max-length", 100, *more)
        assert run.returncode == 0, run.stderr
        assert "combine    yes" in extsub("inspect", kind).stdout
    lora = weights(tmp_path / "lora")
    assert {name.split(".h.0.")[1].split(".lora")[0] for name in lora if ".h.0." in name} == {
        "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"
    }  # fmt: skip
    assert {weight.dtype for weight in lora.values()} == {torch.float32}


def test_tensorboard_logs_lie_beside_the_adapter(base: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    train(settings(base, data, tmp_path / "a", report_to=("tensorboard",), epochs=1))
    assert list((tmp_path / "a" / "runs").rglob("events.out.tfevents.*"))


def test_the_picture_of_the_loss_shows_the_name_of_the_data_as_it_is(tmp_path: Path) -> None:
    """Neither TeX nor a letter that the font lacks is an error; pytest makes errors of warnings."""
    losses = [{"step": step, "loss": 1 / step, "learning_rate": 0.1} for step in (1, 2, 3)]
    plan = {"steps": 3, "data": {"name": "data/$\\frac$ 模型 \x1b[31m\ud800.jsonl"}}
    plot_losses({"losses": losses, "settings": {"kind": "lora"}, "plan": plan}, tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


GROWTH = """
import json, sys
import peft, transformers
from pathlib import Path
from extsub.training.plan import plan_training
from extsub.training.settings import TrainingSettings
from extsub.training.train import train
given = {**json.loads(sys.argv[1]), "target_modules": ("all-linear",)}
train(TrainingSettings(**{**given, "model": "small", "output": Path("first"), "max_length": 64}))  # loads the libraries
settings = TrainingSettings(**given, output=Path("out"))
estimate = plan_training(settings).to_dict()["memory_estimate"]["together"]
def peak():
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024
Path("/proc/self/clear_refs").write_text("5")  # the peak is what is resident now
before = peak()
train(settings)
print(json.dumps([estimate, peak() - before]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux says what was resident at most")
@pytest.mark.parametrize(
    ("vocabulary", "more"),
    [(400, {"lora_dropout": 0.0}), (400, {"lora_dropout": 0.05}), (400, {"kind": "ia3"}), (32_000, {"kind": "ia3"})],
)
def test_memory_is_estimated_as_it_grows(tmp_path: Path, vocabulary: int, more: dict[str, object]) -> None:
    tiny_models.llama(tmp_path / "small")
    shape = {"hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 8, "max_position_embeddings": 1024}
    base = tiny_models.llama(tmp_path / "base", vocab_size=vocabulary, **shape)
    row = {"instruction": "what is said", "output": "nobody knows the answer " * 40}
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for _ in range(8)))
    given = {"model": str(base), "data": "rows.jsonl", "epochs": 1.0, "batch_size": 4, "micro_batch_size": 4, **more}
    command = [sys.executable, "-c", GROWTH, json.dumps(given)]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    estimate, grown = json.loads(run.stdout.splitlines()[-1])
    assert estimate == pytest.approx(grown, rel=0.15)
