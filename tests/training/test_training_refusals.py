"""What training refuses: in one sentence, before any work where that is possible, and with nothing left behind."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import SafetensorError

import tiny_models
from conftest import Command, start
from extsub import ExtSubError, TrainingSettings, extras, train
from extsub.training import checkpoints
from extsub.training import trainer as trainer_room
from extsub.training.kinds import parameters, sketch
from extsub.training.progress import Watch
from killing import at_every_change, needs_fork

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries; what extsub says is asserted


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.llama(tmp_path_factory.mktemp("models") / "base").parent


@pytest.fixture
def here(models: Path, tmp_path: Path) -> Path:
    """A folder with a model and data."""
    (tmp_path / "base").symlink_to(models / "base")
    rows = [{"instruction": f"Who wrote book {number}?", "output": "Nobody knows. " * number} for number in range(1, 9)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


SMALL = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2, "bos_token_id": 0, "eos_token_id": 1}
ATTENTION = {"intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, **SMALL}
STATES = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_chunk_size": 8}
CONFIGS = {
    "mamba": transformers.MambaConfig(state_size=8, **SMALL),
    "mamba2": transformers.Mamba2Config(num_heads=8, head_dim=8, n_groups=1, state_size=8, chunk_size=8, **SMALL),
    "falcon_h1": transformers.FalconH1Config(mamba_d_ssm=64, **STATES, **ATTENTION),
    "bamba": transformers.BambaConfig(attn_layer_indices=[1], **STATES, **ATTENTION),
    "lfm2": transformers.Lfm2Config(layer_types=["conv", "full_attention"], **ATTENTION),
    "minimax": transformers.MiniMaxConfig(
        num_local_experts=2, layer_types=["linear_attention", "full_attention"], head_dim=8, **ATTENTION
    ),
    "phimoe": transformers.PhimoeConfig(num_local_experts=2, **ATTENTION),
    "mixtral": transformers.MixtralConfig(num_local_experts=2, **ATTENTION),
    "opt": transformers.OPTConfig(ffn_dim=32, num_attention_heads=4, word_embed_proj_dim=16, **SMALL),
    "mpt": transformers.MptConfig(vocab_size=400, d_model=32, n_heads=4, n_layers=2),
    "jamba": transformers.JambaConfig(
        attn_layer_period=2, attn_layer_offset=1, num_experts=2, mamba_d_state=8, mamba_dt_rank=4, **ATTENTION
    ),
}  # fmt: skip
STATEFUL = "its layers do not keep keys and values as PEFT makes them; train lora instead"
NARROW = "its embeddings are not those that PEFT puts virtual tokens among; train lora instead"
CHOICE = "choose with --target-modules from"
ALL = "down_proj, gate_proj, in_proj, k_proj, o_proj, q_proj, up_proj, v_proj"


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("mamba", "", f"PEFT does not know which modules to adapt there; {CHOICE} in_proj, x_proj"),
        ("mamba", "--target-modules all-linear", f"PEFT cannot adapt out_proj there; {CHOICE} in_proj, x_proj"),
        ("mamba", "--target-modules in_proj out_proj", f"PEFT cannot adapt out_proj there; {CHOICE} in_proj, x_proj"),
        ("mamba", "--target-modules in_proj dt_proj", "it goes past dt_proj, so that an adapter there changes nothing; "
         f"{CHOICE} in_proj, x_proj"),
        ("mamba2", "--target-modules q_proj", f"no target modules found among q_proj; {CHOICE} in_proj"),
        ("mamba2", "--target-modules in_proj q_proj", f"q_proj: it has no such module; {CHOICE} in_proj"),
        ("falcon_h1", "--target-modules all-linear", f"PEFT cannot adapt out_proj there; {CHOICE} {ALL}"),
        ("jamba", "--target-modules dt_proj", "it goes past dt_proj, so that an adapter there changes nothing; "
         f"{CHOICE} {ALL.replace('o_proj', 'o_proj, out_proj')}, x_proj, or all-linear"),
        ("phimoe", "--target-modules all-linear", f"PEFT cannot adapt router; {CHOICE} k_proj, o_proj, q_proj, v_proj"),
        ("mixtral", "--target-modules all-linear", "its experts are in one tensor, which PEFT adapts without dropout "
         "alone: pass --lora-dropout 0"),
        ("mamba2", "--kind prefix", "it takes no keys and values from outside; train lora instead"),
        ("mamba", "--kind prefix", "PEFT finds no num_attention_heads in its config; train lora instead"),
        ("falcon_h1", "--kind prefix", STATEFUL),
        ("bamba", "--kind prefix --encoder-size 0", STATEFUL),
        ("jamba", "--kind prefix", STATEFUL),
        ("lfm2", "--kind prefix", STATEFUL),
        ("minimax", "--kind prefix", STATEFUL),
        ("opt", "--kind prompt", NARROW),
        ("opt", "--kind p-tuning", NARROW),
        ("mpt", "--kind prompt", "PEFT finds no num_attention_heads in its config; train lora instead"),
    ],
)  # fmt: skip
def test_what_an_architecture_cannot_have_is_said_before_data_or_weights_are_read(
    here: Path, extsub: Command, model: str, arguments: str, message: str
) -> None:
    CONFIGS[model].save_pretrained(here / "it")
    run = extsub("train", "--model", "it", "--data", "rows.jsonl", "--output", "out", *arguments.split())
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (2, "", 1), run.stderr
    assert run.stderr.endswith(f"{message}\n")
    assert not Path("out").exists()


@pytest.mark.parametrize("model", ["bamba", "lfm2", "falcon_h1", "jamba"])
@pytest.mark.parametrize("kind", ["lora", "prompt"])
def test_what_it_can_have_is_not_refused(here: Path, model: str, kind: Any) -> None:
    targets = ("in_proj", "q_proj") if kind == "lora" else None
    rows = str(here / "rows.jsonl")
    settings = TrainingSettings(model="it", data=rows, output=Path("x"), kind=kind, target_modules=targets)
    before = CONFIGS[model].to_dict()
    assert parameters(sketch(settings, CONFIGS[model]))[0] > 0
    assert CONFIGS[model].to_dict() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--kind full", 'Invalid value "full" for --kind. Choose from: "lora", "ia3", "prefix", "p-tuning", "prompt".'),
        ("--field answer=output", "--field answer=...: no such field of ours; there are instruction, input, output"),
        ("--field output=reply", "--field output=reply: rows.jsonl has no field 'reply'; it has instruction, output"),
        ("--data empty.jsonl", "empty.jsonl has no rows: give one that has"),
        ("--data nowhere.jsonl", "nowhere.jsonl: no such file, and not a dataset of the hub"),
        ("--model nowhere", "nowhere: the model could not be loaded: "),
        ("--model ./nowhere", "./nowhere: no such folder, and not a model of the hub"),
        ("--model vit", "vit: vit is not a causal language model"),
        ("--model rows.jsonl", "rows.jsonl is a file: give the folder that holds config.json and the weights"),
        ("--model full", "full is an adapter, not a model: pass it as --adapter to evaluate"),
        ("--model small", "small: the tokenizer makes token 346 of rows.jsonl, and the model has 300"),
        ("--model short", "the longest row has 65 tokens, and short allows 32: pass --max-length 32 or less"),
        ("--model short --kind prompt", "and 2 virtual tokens, and short allows 32: pass --max-length 30 or less"),
        ("--target-modules query value", "lora does not fit llama (base): no target modules found among query, value; "
         "choose with --target-modules from down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj, or "),
        ("--model strange", "lora does not fit cohere (strange): PEFT does not know which modules to adapt"),
        ("--template chat", "--template chat: the tokenizer of this model has no chat template: use --template extsub"),
        ("--max-length 10", "every prompt alone fills --max-length 10: nothing would be learnt; raise it"),
        ("--kind prefix --packing", "--packing is for lora, ia3, not for prefix: its virtual tokens would stand"),
        ("--kind prompt --packing", "--packing is for lora, ia3, not for prompt"),
        ("--kind p-tuning --packing", "--packing is for lora, ia3, not for p-tuning"),
        ("--kind prefix --gradient-checkpointing", "--gradient-checkpointing is for lora, ia3, p-tuning, prompt, not"),
        ("--kind ia3 --rank 8", "--rank is for lora, not for ia3: ia3 has no such setting"),
        ("--rank 0", "--rank 0: expected at least 1"),
        ("--epochs 0", "--epochs 0.0: expected a number above 0"),
        ("--learning-rate -1", "--learning-rate -1.0: expected a number above 0"),
        ("--lora-dropout 1", "--lora-dropout 1.0: expected a part, from 0 to less than 1"),
        ("--warmup 3", "--warmup 3.0: expected a part"),
        ("--batch-size 0", "--batch-size 0: expected at least 1"),
        ("--output base", "base is a symbolic link: give the folder itself"),
        ("--output rows.jsonl", "rows.jsonl is a file: choose another output"),
        ("--output full", "full already exists: choose another output, or remove it"),
        ("--output full --resume", "full already exists: choose another output, or remove it"),
        ("--output rows.jsonl/out", "rows.jsonl/out cannot be written: rows.jsonl is a file; choose another place"),
        ("--config nowhere.yaml", "--config nowhere.yaml: no such file or directory"),
        ("--config typo.yaml", "--config typo.yaml: learning_rat is not known here; there are model, data, "),
        ("--config train.yaml", "--config train.yaml: train is not known here; there are model, data, output, "),
        ("--config list.yaml", "--config list.yaml: expected names with their values, found [1]"),
        ("--config bad.yaml", "--config bad.yaml: not YAML (mapping values are not allowed here"),
        ("--config half.yaml", "--config half.yaml: batch_size is 12.5, expected a whole number"),
        ("--config base", "--config base: is a directory"),
        ("--seed -1", "--seed -1: expected 0 to 4294967295"),
        ("--report-to nosuch", "--report-to nosuch: unknown or not installed; found "),
        ("--output .", "output '.': give the name of a folder to make"),
        ("--output mine", "mine/checkpoints was not written by extsub (it has no settings.json)"),
        ("--target-modules q_proj qv_proj", "--target-modules qv_proj: base has no such module; choose with "),
        ("--target-modules all-linear q_proj", "--target-modules all-linear already means all of them: give it alone"),
        ("--kind ia3 --target-modules q_proj --feedforward-modules down_proj", "ia3 does not fit llama (base): "),
        ("--kind ia3 --target-modules q_proj --feedforward-modules zzz", "ia3 does not fit llama (base): "),
        ("--model bert", "bert: bert sees both sides of a token: it is not a causal language model"),
        ("--model falcon --kind prefix", "prefix does not fit falcon (falcon): its layers do not keep keys "),
        ("--kind prompt --virtual-tokens 999", "--virtual-tokens 999: base allows 256 tokens, these included"),
        ("--batch-size 8 --epochs 1", "8 rows make 1 step of 8, and the warm-up takes it: nothing would be learnt"),
        ("--output deep/down/out --learning-rate 1e30 --batch-size 2", "the loss became "),
        ("--learning-rate 1e30 --batch-size 2", "the loss became "),
        ("--quantize 4bit", "bitsandbytes is not installed: pip install 'extsub[quantize]'"),
    ],
)  # fmt: skip
def test_a_sentence_an_exit_code_and_nothing_written(here: Path, extsub: Command, arguments: str, message: str) -> None:
    (here / "empty.jsonl").touch()
    (here / "full").mkdir()
    (here / "full" / "adapter_config.json").touch()
    for name, recipe in {
        "typo": "learning_rat: 1",
        "train": "train: {rank: 8}",
        "list": "[1]",
        "half": "batch_size: 12.5",
        "bad": "a: : b",
    }.items():
        (here / f"{name}.yaml").write_text(recipe)
    (here / "mine" / "checkpoints").mkdir(parents=True)
    (here / "mine" / "checkpoints" / "epoch1.ckpt").touch()
    for name, changes in {
        "small": {"vocab_size": 300},
        "short": {"max_position_embeddings": 32},
        "strange": {"model_type": "cohere"},
        "vit": {"model_type": "vit"},
        "bert": {"model_type": "bert"},
    }.items():
        shutil.copytree(here / "base", here / name)
        config = json.loads((here / name / "config.json").read_text())
        (here / name / "config.json").write_text(json.dumps({**config, **changes}))
    shutil.copytree(here / "base", here / "falcon")
    shape = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    (here / "falcon" / "config.json").write_text(json.dumps({"model_type": "falcon", "multi_query": True, **shape}))
    before = sorted(here.rglob("*"))
    given = {"--model": "base", "--data": "rows.jsonl", "--output": "out"}
    words = arguments.split()
    run = extsub(
        "train", *words, *(word for name, value in given.items() if name not in words for word in (name, value))
    )
    said = [line for line in run.stderr.splitlines() if not line.startswith("step ")]
    assert run.returncode == 2, run.stderr
    assert len(said) == 1, run.stderr
    assert message in said[0]
    assert run.stdout == ""
    assert sorted(here.rglob("*")) == before


def test_out_of_memory_says_what_to_try(here: Path, extsub: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from extsub.training.trainer import Trainer

    def train(self: Trainer, **_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Trainer, "train", train)
    run = extsub("train", "--model", "base", "--data", "rows.jsonl", "--output", "out", "--batch-size", 4)
    ways = "try --micro-batch-size 2, or --gradient-checkpointing, or --max-length 32, or --quantize 4bit"
    assert run.returncode == 2
    assert run.stderr == f"Error: out of memory (about 0.0 GB are needed): {ways}\n"
    assert not (here / "out").exists()


@pytest.mark.skipif(torch.accelerator.is_available(), reason="on a GPU its own memory counts")
def test_less_memory_than_needed_is_refused_before_the_model(
    here: Path, extsub: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Free:
        available, free = 1_000_000, 500_000

    monkeypatch.setattr("psutil.virtual_memory", Free)
    monkeypatch.setattr("psutil.swap_memory", Free)
    monkeypatch.setattr("extsub.training.train.load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    run = extsub("train", "--model", "base", "--data", "rows.jsonl", "--output", "out", "--batch-size", 4)
    assert run.returncode == 2
    assert run.stderr.startswith("Error: too little memory: about 0.0 GB are needed, and 0.0 GB are free: try --micro-")
    assert not (here / "out").exists()


@pytest.mark.parametrize("kind", [RuntimeError, NotImplementedError, torch.AcceleratorError])
def test_a_bug_keeps_its_traceback(
    here: Path, extsub: Command, monkeypatch: pytest.MonkeyPatch, kind: type[RuntimeError]
) -> None:
    from extsub.training.trainer import Trainer

    def train(self: Trainer, **_: object) -> None:
        raise kind("a bug")

    monkeypatch.setattr(Trainer, "train", train)
    with pytest.raises(kind, match="a bug"):
        extsub("train", "--model", "base", "--data", "rows.jsonl", "--output", "out", "--batch-size", 4)
    assert not (here / "out").exists()


FULL_DISK = """
import resource, sys
from extsub.__main__ import main
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
main(["train", *sys.argv[1:]])
"""


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_saved_ends_the_run(here: Path) -> None:
    """No file may grow beyond 40 kB, as on a full disk; the optimizer's state is larger."""
    settings = "--model base --data rows.jsonl --output out --kind prefix --batch-size 2 --checkpoint-steps 3".split()
    run = start(here, "-W", "ignore", "-c", FULL_DISK, *settings)
    assert run.returncode == 2, run.stderr
    error = run.stderr.splitlines()[-1]
    assert error.startswith("Error: out/checkpoints/checkpoint-3 could not be written: ")
    assert error.endswith("make room, then continue with --resume")
    assert not (here / "out").exists()


CHECKPOINTS = "--model base --data rows.jsonl --batch-size 2 --epochs 3 --checkpoint-steps 3 --output".split()
"""12 steps"""


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, work: Callable[[], object]) -> None:
    """Once, when a step is done, before its checkpoint."""
    on_log = Watch.on_log

    def then(self: Watch, args: Any, state: Any, *more: Any, **named: Any) -> None:
        on_log(self, args, state, *more, **named)
        if state.global_step == step:
            work()

    monkeypatch.setattr(Watch, "on_log", then)


def fill(folder: Path) -> None:
    """Until nothing more fits."""
    with (folder / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


@pytest.mark.parametrize(
    "library", ["disk", *(pytest.param(name, marks=pytest.mark.slow) for name in ("torch", "safetensors"))]
)
def test_a_disk_that_is_full_at_a_checkpoint_leaves_the_one_before(
    here: Path, extsub: Command, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    """Whichever library finds it out, in its own words."""
    errors = {
        "torch": (torch, "save", RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0")),
        "safetensors": (trainer_room, "save_file", SafetensorError("I/O error: No space left on device (os error 28)")),
        "disk": (trainer_room, "mark_complete", OSError(28, "No space left on device")),
    }
    room, name, error = errors[library]

    def full(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patched:
        at_step(patched, 6, lambda: patched.setattr(room, name, full))
        run = extsub("train", *CHECKPOINTS, "out")
    said = run.stderr.splitlines()[-1]
    assert run.returncode == 2, run.stderr
    assert said.startswith("Error: out/checkpoints/checkpoint-6 could not be written: ")
    assert said.endswith("; make room, then continue with --resume")
    assert [path.name for path in (here / "out/checkpoints").glob("checkpoint-*")] == ["checkpoint-3"]
    assert extsub("train", *CHECKPOINTS, "out", "--resume").returncode == 0
    assert json.loads((here / "out/training.json").read_text())["resumed_from_step"] == 3


@pytest.mark.slow
def test_a_disk_that_is_really_full(
    here: Path, extsub: Command, monkeypatch: pytest.MonkeyPatch, disk_of: Callable[[str], Path]
) -> None:
    disk = disk_of("4m")
    assert extsub("train", *CHECKPOINTS, "whole").returncode == 0
    with monkeypatch.context() as patched:
        at_step(patched, 6, lambda: fill(disk))
        run = extsub("train", *CHECKPOINTS, "disk/out")
    said = run.stderr.splitlines()[-1]
    assert (run.returncode, "Traceback" in run.stderr) == (2, False)
    assert said.startswith("Error: disk/out/checkpoints/checkpoint-6 could not be written: ")
    assert said.endswith("; make room, then continue with --resume")
    (disk / "filler").unlink()
    assert [path.name for path in (disk / "out/checkpoints").glob("checkpoint-*")] == ["checkpoint-3"]
    assert extsub("train", *CHECKPOINTS, "disk/out", "--resume").returncode == 0
    weights = [(here / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "disk/out")]
    assert weights[0] == weights[1]


def test_a_result_that_does_not_fit_is_written_when_there_is_room(
    here: Path, extsub: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("encoder error -2 when writing image file")  # as pillow says it

    with monkeypatch.context() as patched:
        patched.setattr("extsub.training.curve.plot_losses", full)
        run = extsub("train", *CHECKPOINTS, "out")
    assert run.returncode == 2
    assert run.stderr.endswith(
        "Error: out could not be written: encoder error -2 when writing image file; the training is done: choose "
        "another place, then --resume writes it\n"
    )
    assert {path.name for path in (here / "out").iterdir()} == {"checkpoints"}
    assert not list(here.glob(".*"))
    assert extsub("train", *CHECKPOINTS, "out", "--resume").returncode == 0
    assert (here / "out/loss.png").exists()


@pytest.mark.parametrize("step", [2, 3])
def test_a_folder_that_another_run_began_anew_is_left_to_it(
    here: Path, extsub: Command, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Somebody removes the folder of a run and begins another there; the first is stopped, or comes to a checkpoint."""

    def begin_anew() -> None:
        shutil.rmtree("new/out")
        Path("new/out/checkpoints").mkdir(parents=True)
        if step == 2:
            raise KeyboardInterrupt

    at_step(monkeypatch, step, begin_anew)
    run = extsub("train", *CHECKPOINTS, "new/out")
    removed = "new/out/checkpoints was removed while this run trained, which ends here: begin anew"
    code, said = (130, "interrupted; nothing was written") if step == 2 else (2, removed)
    assert (run.returncode, run.stderr.splitlines()[-1]) == (code, f"Error: {said}")
    assert Path("new/out/checkpoints").is_dir()
    assert not list(Path("new/out/checkpoints").iterdir())


@needs_fork
def test_a_kill_while_an_unfinished_run_is_taken_away_leaves_what_is_known_as_ours(here: Path) -> None:
    """Before each change of the disk; what is left is taken for a run, and not for somebody else's folder."""
    folder = here / "out" / "checkpoints"

    def prepare() -> None:
        for path in (folder / "runs/log", folder / "checkpoint-3/optimizer.pt", folder / "settings.json"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")

    def check() -> None:
        checkpoints.check_output(here / "out", resume=False)

    for work in (lambda: checkpoints.abandon(here / "out"), lambda: checkpoints.begin(here / "out", {"a": 1})):
        assert at_every_change(work, prepare, check) >= 5
    assert sorted(path.name for path in folder.iterdir()) == ["settings.json"]


def test_a_checkpoint_that_a_kill_left_half_is_cleared(here: Path) -> None:
    whole, half = (here / "out" / "checkpoints" / f"checkpoint-{step}" for step in (3, 6))
    for path in (whole, half):
        path.mkdir(parents=True)
        (path / "optimizer.pt").touch()
    (whole / "trainer_state.json").write_text('{"global_step": 3}')
    (whole / "complete").touch()
    (whole.parent / "settings.json").write_text("{}")
    assert checkpoints.begin(here / "out", {}) == whole
    assert not half.exists()


def test_an_adapter_that_became_infinite_is_not_written(here: Path, extsub: Command) -> None:
    """No loss is taken after the last step, so the weights themselves are looked at."""
    given = ("--model", "base", "--data", "rows.jsonl", "--output", "out", "--warmup", 0, "--epochs", 1)
    run = extsub("train", *given, "--learning-rate", 1e39)
    assert run.returncode == 2
    assert "Error: the last step made base_model.model.model.layers.0.self_attn." in run.stderr
    assert {path.name for path in (here / "out").iterdir()} == {"checkpoints"}


def test_settings_are_checked_in_python_too() -> None:
    with pytest.raises(ExtSubError, match=r"--virtual-tokens is for prefix, p-tuning, prompt, not for lora"):
        TrainingSettings(model="m", data="d", output=Path("o"), virtual_tokens=3)


def test_no_code_of_a_model_is_run(here: Path, extsub: Command) -> None:
    shutil.copytree(here / "base", here / "coded")
    config = json.loads((here / "coded" / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (here / "coded" / "config.json").write_text(json.dumps(config))
    (here / "coded" / "own.py").write_text("open('ran', 'w')")
    run = extsub("train", "--model", "coded", "--data", "rows.jsonl", "--output", "out")
    assert run.returncode == 2
    assert "it needs code of its own, and extsub runs no remote code" in run.stderr
    assert not (here / "ran").exists()


def test_fsdp_does_not_turn_into_something_else(here: Path, extsub: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """accelerate runs FSDP as DDP where there is no GPU, without a word."""
    if torch.accelerator.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    run = extsub("train", "--model", "base", "--data", "rows.jsonl", "--output", "out", "--batch-size", 4)
    assert run.returncode == 2
    assert run.stderr == "Error: FSDP was asked for, and it needs GPUs: leave it out, or use DeepSpeed ZeRO\n"
    assert not (here / "out").exists()


def test_two_runs_into_one_output_are_told_apart(here: Path, extsub: Command) -> None:
    from extsub.files.locks import locked

    (here / "out" / "checkpoints").mkdir(parents=True)
    with locked(here / "out" / "checkpoints", here / "out"):
        run = extsub("train", "--model", "base", "--data", "rows.jsonl", "--output", "out")
    assert (run.returncode, run.stderr) == (2, "Error: out is being written by another run: wait for it\n")


def test_a_library_that_is_missing_is_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that is needed last, for the picture of the loss."""
    installed = extras._installed
    monkeypatch.setattr(extras, "_installed", lambda name: name != "matplotlib" and installed(name))
    settings = TrainingSettings(model=str(here / "base"), data=str(here / "rows.jsonl"), output=here / "out")
    with pytest.raises(ExtSubError, match=r"^training needs matplotlib, which is not installed: pip install 'extsub"):
        train(settings)
    assert not (here / "out").exists()


@pytest.mark.parametrize("left", [".done.replaced", ".done.replaced.removed"])
def test_what_was_replaced_is_taken_away_though_nothing_is_left_to_do(here: Path, extsub: Command, left: str) -> None:
    """A run that was killed while it took its checkpoints away is finished."""
    (here / "done").mkdir()
    (here / "done" / "training.json").write_text("{}")
    (here / left / "checkpoints").mkdir(parents=True)
    run = extsub("train", "--model", "base", "--data", "rows.jsonl", "--output", "done", "--resume")
    assert (run.returncode, run.stderr) == (2, "Error: done already exists: choose another output, or remove it\n")
    assert not (here / left).exists()
