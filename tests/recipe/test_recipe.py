"""A recipe from its data to the result, as a user runs it; and what is done again when something changed."""

from __future__ import annotations

import json
import math
import re
import runpy
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file

import adapter_files
import benchmark_files
import reference
import tiny_models
from benchmark_files import lines, rows_of
from conftest import ROOT, Command
from extsub import OPERATIONS, ExtSubError, run_recipe
from extsub.demo.data import Mix, write_data
from extsub.files.locks import locked
from extsub.files.writing import write_whole
from extsub.recipe import run as room
from extsub.recipe.plan import check_choice
from extsub.recipe.schema import read_recipe
from extsub.recipe.stages import Stage, Stages
from extsub.sweeping.selection import half_of
from extsub.training import plan as planning
from extsub.training.progress import Watch
from killing import at_every_change, needs_fork
from sweep_files import record_of

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries
EXAMPLES = [path for path in (ROOT / "examples").rglob("*.yaml") if "sweep:" in path.read_text()]
RECIPE: dict[str, Any] = {
    "model": "base",
    "output": "out",
    "training": {"rank": 4, "epochs": 1, "batch_size": 8, "learning_rate": "2e-3", "max_length": 64, "lora_dropout": 0},
    "expert": {"data": "good.jsonl"},
    "anti_experts": {"wrong": {"data": "bad.jsonl", "learning_rate": 4e-3}},
    "sweep": {
        "tasks": ["truthfulqa-mc", "perplexity"],
        "data": ["data", "perplexity=data/rows.jsonl"],
        "operations": ["ext-sub"],
        "alphas": "0.5,1",
        "score": "mc2",
        "budget": "perplexity <= 2 * expert",
    },
    "result": {"rank": 6},
}
OTHER_KIND = {"rank": None, "lora_dropout": None}
STAGES = ["expert", "anti-wrong", "sweep", "report", "result"]


def write(folder: Path, **changes: Any) -> None:
    """The recipe, of which some parts are others; a mapping's entries are added."""
    recipe = {**RECIPE, **{k: {**RECIPE.get(k, {}), **v} if isinstance(v, dict) else v for k, v in changes.items()}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))


@pytest.fixture(scope="module")
def finished(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that was run, with all that it needs."""
    folder = tmp_path_factory.mktemp("recipe")
    for name in ("base", "data"):
        shutil.copytree(made / name, folder / name)
    rows = rows_of(tiny_models.instructions(folder / "good.jsonl"))
    lines(folder / "bad.jsonl", [{**row, "output": f"nobody knows {row['output']}"} for row in rows])
    write(folder)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.chdir(folder)
        run_recipe("recipe.yaml")
    return folder


@pytest.fixture
def here(finished: Path, tmp_path: Path) -> Path:
    """A copy of it to change."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def run(here: Path, extsub: Command) -> Callable[..., tuple[list[str], dict[str, Any]]]:
    """Runs the recipe: the stages that began, and what it says."""

    def run(*more: str) -> tuple[list[str], dict[str, Any]]:
        done = extsub("run", "recipe.yaml", "--json", *more)
        assert done.returncode == 0, done.stderr
        return began(done.stderr), json.loads(done.stdout)

    return run


def began(errors: str) -> list[str]:
    return [line.removeprefix("stage: ") for line in errors.splitlines() if line.startswith("stage: ")]


def times(folder: Path, *names: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for name in names for path in [folder / name, *(folder / name).rglob("*")]}


def test_the_result_may_be_of_an_operation_of_ones_own(here: Path, run: Callable) -> None:
    (here / "level.py").write_text(
        "from extsub import Operation, register_operation\n"
        'register_operation(Operation("level", "e/2 − α·a", lambda e, a, alpha: (-0.5, -alpha)))\n'
    )
    own = {"operations": "level", "task_file": "level.py", "alphas": "0.5"}
    write(here, output="own", sweep=own, result={"operation": "level", "rank": None})
    try:
        run()
    finally:
        OPERATIONS.pop("level", None)
    assert json.loads(Path("own/result/extsub.json").read_text())["operation"] == "level"
    tensors = load_file("own/result/adapter_model.safetensors")
    module = next(iter(tensors)).removeprefix(adapter_files.PREFIX).partition(".lora_")[0]
    e, a, result = (adapter_files.read_delta(Path("own", name), module) for name in ("expert", "anti-wrong", "result"))
    assert torch.allclose(result, e / 2 - 0.5 * a, atol=1e-6)


def test_the_result_is_what_combine_makes_at_the_chosen_strength(here: Path, run: Callable, extsub: Command) -> None:
    before = times(here, "out")
    stages, summary = run()
    assert (stages, times(here, "out")) == ([], before)  # a second run does nothing
    assert summary["stages"] == dict.fromkeys(STAGES, "kept")
    chosen = record_of("out/sweep")["chosen"]["ext-sub"]
    alpha = float(chosen["position"].removeprefix("ext-sub-"))
    assert (summary["sweeps"]["sweep"]["chosen"]["alpha"], summary["sweeps"]["sweep"]["chosen"]["test"]) == (
        alpha,
        chosen["test"],
    )
    words = f"combine out/expert out/anti-wrong --alpha {alpha} --rank 6 -o by-hand"
    assert extsub(*words.split()).returncode == 0
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert Path("by-hand", name).read_bytes() == Path("out/result", name).read_bytes()
    by_hand, record = (json.loads(Path(folder, "extsub.json").read_text()) for folder in ("by-hand", "out/result"))
    scores = record.pop("scores")
    assert by_hand == record
    figures = {score["score"]: score["figures"] for score in scores["tasks"][0]["scores"]}
    assert figures["mc2"]["adapter"] == chosen["test"]
    gain = figures["mc2"]["adapter"]["value"] - figures["mc2"]["expert"]["value"]
    assert gain == pytest.approx(chosen["against_expert"]["value"])
    card = Path("out/result/README.md").read_text()
    assert "on the half of the items that did not choose the strength" in card
    assert ModelCard(card).data.eval_results[0].metric_args["n"] == figures["mc1"]["adapter"]["n"]
    assert Path("out/sweep/report.html").stat().st_size > 10_000
    told = extsub("run", "recipe.yaml").stdout
    for expected in (
        "nothing was to be done",
        f"ext-sub at α {alpha:g}",
        "out/result: 4 modules, rank 6",
        "report.html",
    ):
        assert expected in told


def test_an_anti_experts_data_may_be_made_of_the_experts(here: Path, run: Callable, extsub: Command) -> None:
    with benchmark_files.serving() as served:
        served.answer = lambda prompt: (f"nobody knows {len(prompt)} of it", "stop")
        writing = {"url": served.url, "model": "served", "limit": 12}
        write(here, output="made", anti_experts={"wrong": {"negatives": "untruthful"}}, negatives=writing)
        planned = {stage["stage"]: stage for stage in run("--dry-run")[1]["stages"]}
        assert planned["negatives-wrong"]["estimate"] == {"requests": 12, "writer": "served"}
        assert planned["anti-wrong"]["why"] == "after negatives-wrong"
        assert not served.asked
        stages, summary = run()
        assert stages == ["expert", "negatives-wrong", *STAGES[1:]]
        made = rows_of(here / "made" / "negatives-wrong.jsonl")
        good = rows_of(here / "good.jsonl")
        for row in made:
            asked = f"{good[row['index']]['instruction']} {good[row['index']]['input']}".strip()
            assert row["instruction"] == asked
            assert row["output"].startswith("nobody knows")
        assert json.loads((here / "made" / "anti-wrong" / "training.json").read_text())["plan"]["data"]["rows"] == len(
            made
        )
        writing["limit"] = 15
        write(here, output="made", anti_experts={"wrong": {"negatives": "untruthful"}}, negatives=writing)
        planned = {stage["stage"]: stage["why"] for stage in run("--dry-run")[1]["stages"]}
        assert planned["negatives-wrong"] == "made from other inputs"
        assert planned["expert"] is None
        assert len(served.asked) == 12
    assert summary["stages"]["negatives-wrong"] == "made"


def test_the_card_follows_the_sweep(here: Path, run: Callable) -> None:
    """Also where the result stays as it is, since the same strength was chosen."""
    path = here / "out" / "sweep" / "sweep.json"
    record = json.loads(path.read_text())
    record["budget"] = "perplexity <= 3 * expert"
    path.write_text(json.dumps(record))
    assert run()[0] == []
    scores = json.loads(Path("out/result/extsub.json").read_text())["scores"]
    assert scores["chosen_by"][0]["budget"] == "perplexity <= 3 * expert"
    assert "within the budget perplexity <= 3" in Path("out/result/README.md").read_text()


def test_settings_are_those_of_the_recipe(here: Path) -> None:
    rates = {"expert": 2e-3, "anti-wrong": 4e-3}
    for name, rate in rates.items():
        settings = json.loads((here / "out" / name / "training.json").read_text())["settings"]
        assert (settings["learning_rate"], settings["rank"], settings["model"]) == (rate, 4, "base")


def test_another_grid_or_page_trains_nothing_and_asks_only_what_is_new(here: Path, run: Callable) -> None:
    before = times(here, "out/expert", "out/anti-wrong", "out/sweep/positions/ext-sub-1/perplexity.jsonl")
    write(here, sweep={"alphas": "0.5,1,2"})
    stages, _ = run("--dry-run")
    assert stages == []
    stages, summary = run()
    assert stages[:2] == ["sweep", "report"]  # and the result, if another strength is the best now
    assert "ext-sub-2" in record_of("out/sweep")["positions"]
    assert times(here, "out/expert", "out/anti-wrong", "out/sweep/positions/ext-sub-1/perplexity.jsonl") == before
    write(here, sweep={"alphas": "0.5,1,2"}, result={"rank": None}, training={"micro_batch_size": 2})
    stages, summary = run()
    assert (stages, summary["result"]["rank"]) == (["result"], 8)


@pytest.mark.slow
def test_other_data_trains_just_that_adapter(here: Path, run: Callable) -> None:
    expert = times(here, "out/expert")
    lines(here / "bad.jsonl", rows_of(here / "bad.jsonl")[1:])
    _, plan = run("--dry-run")
    assert [stage["why"] for stage in plan["stages"]] == [
        None, "made from other inputs", "after anti-wrong", "after sweep", "after sweep"
    ]  # fmt: skip
    stages, summary = run()
    assert (stages, summary["stages"]["expert"]) == (STAGES[1:], "kept")
    assert times(here, "out/expert") == expert


def test_a_plan_says_what_is_to_be_done_and_writes_nothing(here: Path, run: Callable, extsub: Command) -> None:
    _, plan = run("--dry-run")
    assert [(stage["stage"], stage["done"]) for stage in plan["stages"]] == [(name, True) for name in STAGES]
    write(here, sweep={"alphas": "0.5,1,2"})
    _, plan = run("--dry-run")
    sweep = plan["stages"][2]
    assert sweep["why"] == "asked for something else"
    assert sweep["estimate"]["tasks"]["truthfulqa-mc"] == {"positions": 1, "items": 9, "answers": 9}
    write(here, output="new")
    _, plan = run("--dry-run")
    expert, _, sweep, _, result = plan["stages"]
    assert (expert["estimate"]["data"]["rows"], expert["estimate"]["steps"]) == (41, 6)
    written = Path("out/expert/adapter_model.safetensors").stat().st_size
    assert 0.5 * written < expert["estimate"]["bytes"] < written  # without its header
    assert sweep["estimate"]["tasks"]["perplexity"] == {"positions": 5, "items": 6, "answers": 30}
    assert (result["estimate"]["rank"], result["why"]) == (6, "after sweep")
    told = extsub("run", "recipe.yaml", "--dry-run").stdout
    for expected in (
        "to do: not done yet",
        "41 rows",
        "6 steps",
        "5 models x 9 items = 45",
        "writes an adapter of about",
    ):
        assert expected in told
    assert not Path("new").exists()


@pytest.mark.slow
def test_rows_are_tokenised_once_for_plan_and_training_unless_they_changed_since(
    here: Path, extsub: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run that ends before its sweep; or where their tokens are too many to be kept."""
    tokenised: list[int] = []
    encode, train = planning.encode, room.train

    def counted(examples: Any, *given: Any, **more: Any) -> Any:
        tokenised.append(len(examples))
        return encode(examples, *given, **more)

    def changing(*given: Any, **more: Any) -> None:
        train(*given, **more)
        lines(here / "bad.jsonl", rows_of(here / "bad.jsonl")[1:])

    def refuse(*_: Any) -> None:
        raise ExtSubError("that is enough")

    monkeypatch.setattr(planning, "encode", counted)
    monkeypatch.setattr(room, "sweep", refuse)
    with monkeypatch.context() as patch:
        patch.setattr(room, "MOST_TOKENS", 0)
        write(here, output="again")
        assert (extsub("run", "recipe.yaml").returncode, tokenised) == (2, [41, 41, 41, 41])
    for name in STAGES[:2]:
        ours, theirs = (Path(folder, name, "adapter_model.safetensors").read_bytes() for folder in ("again", "out"))
        assert ours == theirs
    tokenised.clear()
    monkeypatch.setattr(room, "train", changing)
    write(here, output="changed")
    assert (extsub("run", "recipe.yaml").returncode, tokenised) == (2, [41, 41, 40])
    record = json.loads(Path("changed/anti-wrong/training.json").read_text())
    assert record["plan"]["data"]["rows"] == 40


@pytest.mark.slow
def test_a_stage_that_fails_says_what_goes_on(here: Path, extsub: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a training that was stopped ends with the bits of one that was not."""
    write(here, output="new", training={"checkpoint_steps": 1})
    step_end = Watch.on_log

    def stop(self: Watch, *given: Any, **more: Any) -> None:
        step_end(self, *given, **more)
        if given[1].global_step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Watch, "on_log", stop)
        stopped = extsub("run", "recipe.yaml")
    assert stopped.returncode == 130
    assert "what was done is kept: 'extsub run recipe.yaml' goes on from there" in stopped.stderr
    assert list(Path("new/expert/checkpoints").glob("checkpoint-*"))

    def fail(*_: Any) -> None:
        raise ExtSubError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(room, "sweep", fail)
        failed = extsub("run", "recipe.yaml")
    assert (failed.returncode, began(failed.stderr)) == (2, STAGES[:3])
    said = "Error: sweep: the disk is full; expert, anti-wrong kept, 'extsub run recipe.yaml' goes on with sweep"
    assert said in failed.stderr
    assert json.loads(Path("new/expert/training.json").read_text())["resumed_from_step"]
    done = extsub("run", "recipe.yaml")
    assert (done.returncode, began(done.stderr)) == (0, STAGES[2:])
    for name in ("expert", "result"):
        new, old = (Path(folder, name, "adapter_model.safetensors").read_bytes() for folder in ("new", "out"))
        assert new == old


@pytest.mark.slow
def test_where_nothing_keeps_the_budget_there_is_no_result(here: Path, run: Callable, extsub: Command) -> None:
    positions = times(here, "out/sweep/positions")
    write(here, sweep={"budget": "perplexity <= 0.01"})
    for stages in (["sweep", "report"], []):
        refused = extsub("run", "recipe.yaml")
        assert (refused.returncode, began(refused.stderr)) == (2, stages)
        assert "no strength of ext-sub keeps perplexity <= 0.01, and ext-sub-" in refused.stderr
        assert "change budget or alphas in recipe.yaml" in refused.stderr
    assert Path("out/sweep/report.html").exists()
    assert not Path("out/result").exists()
    _, plan = run("--dry-run")
    assert plan["stages"][-1]["why"].startswith("no strength of ext-sub keeps")
    write(here)
    assert run()[0] == ["sweep", "report", "result"]
    asked = {path: time for path, time in times(here, "out/sweep/positions").items() if path.suffix == ".jsonl"}
    assert asked == {path: time for path, time in positions.items() if path.suffix == ".jsonl"}


@pytest.mark.slow
def test_a_part_of_the_gain_is_a_budget_and_said_in_words(here: Path, run: Callable, extsub: Command) -> None:
    write(here, sweep={"budget": "keeps 1% of perplexity", "choose": "best", "alphas": "0.01,0.5"})
    stages, summary = run()
    assert stages[:2] == ["sweep", "report"]
    words = "at least 1 % of the expert's gain over the base in perplexity"
    base, expert = (_perplexity(name) for name in ("base", "expert"))
    limit = math.exp(0.99 * math.log(base) + 0.01 * math.log(expert))
    record = record_of("out/sweep")
    note = f"the budget, {words}, is perplexity <= {limit:.4g} on the items to choose by"
    assert note in record["notes"]
    assert summary["notes"] == record["notes"]
    chosen = summary["sweeps"]["sweep"]["chosen"]
    assert (chosen["choose"], chosen["budget"]) == ("best", "keeps 1% of perplexity")
    said = " ".join(extsub("run", "recipe.yaml").stdout.split())
    assert f"the α with the best truthfulqa-mc.mc2 within the budget ({words})" in said
    assert note in said
    page = unescape(Path("out/sweep/report.html").read_text()).replace("\u00a0", " ")
    assert f"the α with the best truthfulqa-mc.mc2 within the budget ({words})" in page
    assert re.search(rf"the budget there is ≤ [\d.]+ \({words}\), and [\d.]+ % of it is kept", page)
    assert "items of truthfulqa-mc to choose by, and fewer than 50 are too few to choose by." in page
    write(here, sweep={"budget": "keeps 1% of perplexity"})
    refused = extsub("run", "recipe.yaml")
    assert refused.returncode == 2
    assert f"no strength of ext-sub keeps {words}, and ext-sub-" in refused.stderr


def _perplexity(position: str) -> float:
    """Of the items that choose."""
    rows = rows_of(Path(f"out/sweep/positions/{position}/perplexity.jsonl"))
    own = [row for row in rows if half_of((row["index"], 0), 0) == "validation"]
    return math.exp(-sum(row["log_likelihood"] for row in own) / sum(row["tokens"] for row in own))


@pytest.mark.slow
def test_adapters_may_be_taken_as_they_are(here: Path, run: Callable, extsub: Command) -> None:
    for seed, name in ((5, "mine"), (6, "theirs")):
        reference.adapter(here / "base", here / name, "lora", seed)
    given = {"expert": {"adapter": "mine"}, "anti_experts": {"wrong": {"adapter": "theirs"}}}
    (here / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, **given, "output": "new"}))
    stages, summary = run()
    assert (stages, summary["result"]["inputs"][1]["name"]) == (STAGES[2:], "theirs")
    (here / "new" / "sweep" / "sweep.json").unlink()  # a damaged sweep is made again
    assert run()[0] == list(STAGES[2:4])
    reference.adapter(here / "base", here / "theirs", "ia3")
    refused = extsub("run", "recipe.yaml")
    assert (refused.returncode, "anti-wrong is IA3: all adapters must be of one kind" in refused.stderr) == (2, True)
    (here / "new" / "stages.json").write_text("[]")
    refused = extsub("run", "recipe.yaml")
    assert (refused.returncode, "stages.json is broken" in refused.stderr) == (2, True)


def test_an_adapter_of_another_base_is_refused_before_anything_is_trained(here: Path, extsub: Command) -> None:
    reference.adapter(here / "base", here / "theirs", "lora", 6)
    config = json.loads((here / "theirs" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "owner/other"
    (here / "theirs" / "adapter_config.json").write_text(json.dumps(config))
    given = {"anti_experts": {"wrong": {"adapter": "theirs"}}, "output": "new"}
    (here / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, **given}))
    for words in (["--dry-run"], []):
        refused = extsub("run", "recipe.yaml", *words)
        assert refused.returncode == 2
        assert (
            "anti-wrong: theirs was trained on owner/other, and model is base: they must be the same" in refused.stderr
        )
    assert not (here / "new").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sweeps": 1}, "recipe.yaml: sweeps is not known here; there are model, output, training, expert"),
        ({"training": {"rnak": 1}}, "recipe.yaml: training: rnak is not known here; there are kind, field"),
        ({"training": {"rank": 1.5}}, "recipe.yaml: training: rank is 1.5, expected a whole number"),
        ({"training": {"rank": 0}}, "recipe.yaml: expert: --rank 0: expected at least 1"),
        ({"training": {**OTHER_KIND, "kind": "prompt"}}, "recipe.yaml: expert: prompt cannot be combined"),
        ({"training": {"data": "x"}}, "recipe.yaml: training: data is not known here"),
        ({"expert": {"output": "x"}}, "recipe.yaml: expert: output is not known here"),
        ({"expert": {"adapter": "x"}}, "recipe.yaml: expert: data is not known here; there are adapter"),
        ({"expert": {"data": "none.jsonl"}}, "recipe.yaml: expert: none.jsonl: no such file"),
        ({"expert": {"batch_size": 4096}}, "recipe.yaml: expert: 41 rows make 1 step of 4096"),
        ({"anti_experts": []}, "recipe.yaml: anti_experts: expected one or more"),
        ({"anti_experts": {"a/b": {"data": "bad.jsonl"}}}, "recipe.yaml: anti_experts: a/b: a name is of letters"),
        ({"anti_experts": {"wrong": {"kind": "ia3"}}}, "recipe.yaml: anti_experts: wrong: say what it is trained on"),
        (
            {"anti_experts": {"wrong": {"negatives": "rude"}}},
            "recipe.yaml: anti-wrong: negatives: --behaviour rude: expected untruthful, toxic",
        ),
        (
            {"anti_experts": {"wrong": {"negatives": {"limit": 3}}}},
            "anti_experts: wrong: negatives: say which behaviour",
        ),
        (
            {"anti_experts": {"wrong": {"negatives": {"behaviour": "toxic", "output": "x"}}}},
            "anti_experts: wrong: negatives: output is not known here",
        ),
        (
            {"anti_experts": {"wrong": {"negatives": {"behaviour": "toxic", "mode": "instruct"}}}},
            "anti_experts: wrong: negatives: say what they are made of",
        ),
        (
            {"anti_experts": {"wrong": {"negatives": "toxic", "data": "bad.jsonl"}}},
            "anti_experts: wrong: data and negatives: what negatives are made of stands inside",
        ),
        ({"expert": {"kind": "ia3"}}, "recipe.yaml: expert: --rank is for lora, not for ia3"),
        ({"sweep": {"alpha": 1}}, "recipe.yaml: sweep: alpha is not known here; there are"),
        ({"sweep": {"alphas": 180.25}}, "sweep: alphas is 180.25, expected text: put it in quotes"),
        ({"sweep": {"alphas": "0"}}, "sweep: --alphas: all are 0, which is the expert"),
        ({"sweep": {"score": "mc9"}}, "sweep: --score mc9: no such score"),
        ({"sweep": {"budget": "mc1"}}, 'sweep: --budget "mc1": expected'),
        ({"sweep": {"limit": "all"}}, "sweep: limit is 'all', expected a whole number"),
        (
            {"sweep": {"truth_judge": "none"}},
            "sweep: --truth-judge is for truthfulqa-gen, which is not asked: leave it",
        ),
        ({"sweep": {"lm-eval": 3}}, "sweep: lm_eval is 3, expected text: put it in quotes"),
        ({"sweep": {"options": {}}}, "sweep: options is not known here; there are prompt,"),
        (
            {"sweep": {"tasks": ["drift"], "reference": "x"}},
            "sweep: a sweep has no --reference for drift: leave it out",
        ),
        ({"sweep": {"dtype": "int4"}}, "sweep: dtype is 'int4', expected auto, float32, float16, bfloat16"),
        ({"sweep": {"data": ["none.csv"]}}, "none.csv"),
        ({"result": {"operation": "contrast"}}, "result has operation contrast, and operations here are ext-sub: add"),
        ({"sweep": {"operations": "negated"}, "result": {"operation": "negated"}}, "result: operation must be one of"),
        ({"result": {"dtype": "int4"}}, "result: dtype is 'int4', expected auto, float32, float16, bfloat16"),
        ({"result": {"alpha": 1}}, "result: alpha is not known here; there are operation, rank, dtype"),
        ({"model": "none/"}, "none/"),
        ({"output": "data"}, "data was not written by extsub run"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(here: Path, extsub: Command, changes: dict, message: str) -> None:
    shutil.rmtree("out")
    write(here, **changes) if "sweeps" not in changes else (here / "recipe.yaml").write_text("sweeps: 1")
    for more in ((), ("--dry-run",)):
        refused = extsub("run", "recipe.yaml", *more)
        assert (refused.returncode, began(refused.stderr)) == (2, [])
        assert message in refused.stderr
        assert refused.stderr.count("\n") == 1
    assert not Path("out").exists()


def test_what_is_no_recipe_is_refused(tmp_path: Path, extsub: Command) -> None:
    for text, message in (
        ("a: 1\na: 2", "not YAML (a is there twice"),
        ("a: [", "not YAML"),
        ("words", "expected names with their values, found 'words'"),
        ("model: base", "output is missing"),
    ):
        (tmp_path / "recipe.yaml").write_text(text)
        refused = extsub("run", "recipe.yaml")
        assert (refused.returncode, message in refused.stderr) == (2, True)
    assert "none.yaml: no such file" in extsub("run", "none.yaml").stderr


def test_an_option_that_sweeps_share_goes_to_those_that_ask_its_task(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    own = {
        "wrong": {"tasks": "toxicity", "toxicity-model": "owner/own"},
        "loud": {"tasks": ["truthfulqa-gen", "toxicity"], "truth_judge": "none"},
    }
    anti_experts = {name: {"data": "bad.jsonl", "sweep": settings} for name, settings in own.items()}
    shared = {"operations": "ext-sub", "toxicity_model": "owner/shared", "info-judge": "none"}
    recipe = {**RECIPE, "anti_experts": anti_experts, "sweep": shared}
    (here / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    wrong, loud = (sweep.settings.options for sweep in read_recipe(Path("recipe.yaml")).sweeps)
    assert wrong == {"toxicity_model": "owner/own"}
    assert loud == {"toxicity_model": "owner/shared", "info_judge": "none", "truth_judge": "none"}
    recipe["sweep"]["reference"] = "x"
    (here / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    with pytest.raises(ExtSubError, match="recipe.yaml: sweep: reference is an option of no task that is asked"):
        read_recipe(Path("recipe.yaml"))


@pytest.mark.slow
def test_each_anti_expert_may_have_a_strength_of_its_own(here: Path, run: Callable, extsub: Command) -> None:
    """And the result, which no sweep has seen, is asked what all of them ask."""
    rows = rows_of(here / "good.jsonl")
    lines(here / "loud.jsonl", [{**row, "output": f"{row['output']}!"} for row in rows])
    own = {"tasks": ["perplexity"], "data": ["perplexity=data/rows.jsonl"], "score": "perplexity", "alphas": "2"}
    anti_experts = {**RECIPE["anti_experts"], "loud": {"data": "loud.jsonl", "sweep": {**own, "budget": None}}}
    write(here, anti_experts=anti_experts)
    refused = extsub("run", "recipe.yaml")
    assert refused.returncode == 2
    assert "recipe.yaml: anti_experts: wrong: sweep is missing, and loud has one: give each its own" in refused.stderr
    anti_experts["wrong"] = {**anti_experts["wrong"], "sweep": {"alphas": "0.5"}}
    recipe = {**RECIPE, "anti_experts": anti_experts}
    recipe["sweep"] = {name: value for name, value in RECIPE["sweep"].items() if name != "budget"}
    (here / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    _, plan = run("--dry-run")
    both = ["sweep-wrong", "report-wrong", "sweep-loud", "report-loud"]
    after = ["result", "evaluation-wrong", "evaluation-loud"]
    assert [stage["stage"] for stage in plan["stages"]] == [*STAGES[:2], "anti-loud", *both, *after]
    stages, summary = run()
    assert stages == ["anti-loud", *both, *after]
    assert {name: sweep["chosen"]["alpha"] for name, sweep in summary["sweeps"].items()} == {
        "sweep-wrong": 0.5,
        "sweep-loud": 2,
    }
    words = "combine out/expert out/anti-wrong out/anti-loud --alpha 0.5 --alpha 2 --rank 6 -o by-hand"
    assert extsub(*words.split()).returncode == 0
    weights = (Path(folder, "adapter_model.safetensors").read_bytes() for folder in ("by-hand", "out/result"))
    assert next(weights) == next(weights)
    words = "evaluate truthfulqa-mc perplexity --data data --data perplexity=data/rows.jsonl --adapter by-hand --json"
    asked = json.loads(extsub(*words.split()).stdout)["results"][0]["tasks"]
    scored = json.loads(Path("out/evaluation-wrong/results.json").read_text())["tasks"]
    for task, scores in scored.items():
        for score, figure in scores.items():
            assert figure["value"] == pytest.approx(asked[task][score]["value"], rel=1e-5)
    assert list(json.loads(Path("out/evaluation-loud/results.json").read_text())["tasks"]) == ["perplexity"]
    scores = json.loads(Path("out/result/extsub.json").read_text())["scores"]
    assert [task["task"] for task in scores["tasks"]] == ["truthfulqa-mc", "perplexity"], "the same figures once"
    assert [score["score"] for score in scores["chosen_by"]] == ["truthfulqa-mc.mc2", "perplexity.perplexity"]
    rows = rows_of(Path("out/evaluation-wrong/truthfulqa-mc.jsonl"))
    own = [row for row in rows if half_of((row["index"], 0), 0) == "test"]
    figures = {score["score"]: score["figures"] for score in scores["tasks"][0]["scores"]}
    assert figures["mc2"]["adapter"]["value"] == pytest.approx(sum(row["scores"]["mc2"] for row in own) / len(own))
    assert set(figures["mc2"]) == {"adapter", "expert", "base"}
    assert run()[0] == []


@pytest.mark.slow
def test_two_processes_take_the_same_way(here: Path) -> None:
    """Over gloo: the adapters of one process up to rounding, the same choice; and they stop together."""
    write(here, output="two", sweep={"alphas": "0.5"}, result={"rank": None})
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += ["-m", "extsub", "run", "recipe.yaml"]
    run = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=200, check=False)
    assert run.returncode == 0, run.stderr
    assert began(run.stderr) == STAGES
    assert run.stdout.count("report.html") == 1  # one process speaks
    for name in ("expert", "anti-wrong"):
        alone, two = (load_file(here / folder / name / "adapter_model.safetensors") for folder in ("out", "two"))
        for tensor, value in alone.items():
            torch.testing.assert_close(value, two[tensor], rtol=0, atol=1e-6)
        assert json.loads((here / "two" / name / "training.json").read_text())["distributed"] == "MULTI_CPU"
    assert (here / "two" / "result" / "adapter_model.safetensors").exists()


def halves(folder: Path, learn_from: int) -> None:
    """What examples/truthfulqa.py writes of seven questions in TruthfulQA's columns."""
    rows = [f"Question {number}?,Yes {number},Yes {number}; Quite {number},No {number}\n" for number in range(7)]
    Path("TruthfulQA.csv").write_text("".join(["Question,Best Answer,Correct Answers,Incorrect Answers\n", *rows]))
    write_halves = runpy.run_path(str(ROOT / "examples" / "truthfulqa.py"))["write_halves"]
    write_halves(folder, "TruthfulQA.csv", learn_from, seed=0)


def test_halves_hold_every_question_out_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked: list[str] = []
    for learn_from in (1, 2):
        folder = Path(f"half-{learn_from}")
        halves(folder, learn_from)
        held_out = [row["Question"] for row in rows_of(folder / "held-out.jsonl")]
        for name, wanted in (("expert", ("Yes ", "Quite ")), ("anti-expert", ("No ",))):
            learnt = rows_of(folder / f"{name}.jsonl")
            for row in learnt:
                number = row["instruction"].removeprefix("Question ").removesuffix("?")
                assert row["output"] in {f"{start}{number}." for start in wanted}
            assert sorted([*held_out, *(row["instruction"] for row in learnt)]) == [f"Question {n}?" for n in range(7)]
        asked += held_out
        assert len(rows_of(folder / "neutral.jsonl")) == 128
    assert sorted(asked) == [f"Question {number}?" for number in range(7)]


def test_pairs_are_learnt_or_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [
        {"knowledge": "", "question": f"Question {n}?", "right_answer": f"Yes {n}.", "hallucinated_answer": f"No {n}."}
        for n in range(9)
    ]
    lines(Path("qa.jsonl"), rows)
    monkeypatch.syspath_prepend(ROOT / "examples")
    runpy.run_path(str(ROOT / "examples" / "halueval.py"))["write_pairs"](Path("pairs"), "qa.jsonl", 3, seed=0)
    names = ("expert", "anti-expert", "held-out", "right")
    expert, anti, held_out, right = (rows_of(Path("pairs", f"{name}.jsonl")) for name in names)
    assert len(expert) == len(anti) == len(held_out) == 3
    assert right == [{"instruction": row["question"], "output": row["right_answer"]} for row in held_out]
    for good, bad in zip(expert, anti, strict=True):
        assert good["instruction"] == bad["instruction"]
        assert good["output"].removeprefix("Yes") == bad["output"].removeprefix("No")
    assert not {row["question"] for row in held_out} & {row["instruction"] for row in expert}
    assert all(row in rows for row in held_out)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_are_recipes(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as that can be known without the hub."""
    monkeypatch.chdir(tmp_path)
    for name in ("toxic_test.json", "held-out.jsonl"):  # the user's own
        Path(name).touch()
    folder = Path("evidence", path.stem)
    halves(folder, 1)
    write_data(folder, 0, Mix())  # what examples/flattery.py writes
    (folder / "right.jsonl").touch()  # examples/halueval.py has it beside files of the same names
    recipe = read_recipe(path)
    for sweep in recipe.sweeps:
        check_choice(sweep, recipe.result.operation)
        assert sweep.settings.budget


def test_stages_remember_whose_folder_it_is(tmp_path: Path) -> None:
    said: list[str] = []
    stages = Stages(tmp_path / "new", "extsub run", said.append)
    assert not (tmp_path / "new").exists()
    made = tmp_path / "new" / "made"
    for alphas, why in (("1", "not done yet"), ("1", None), ("2", "asked for something else")):
        stage = Stage("first", ("made",), {}, again={"alphas": alphas})
        assert stages.why(stage) == why
        stages.make(stage, lambda alphas=alphas: write_whole(made, alphas))
    assert said == ["first", "first"]
    made.unlink()
    assert Stages(tmp_path / "new", "extsub run", said.append).why(stage) == "made is missing"
    made.touch()
    with pytest.raises(ExtSubError, match="made is in the way"):
        stages.make(Stage("second", ("made",), {}), list)
    with pytest.raises(ExtSubError, match="was not written by extsub demo"):
        Stages(tmp_path / "new", "extsub demo", said.append)


@needs_fork
def test_what_is_made_anew_is_never_half_of_what_was(tmp_path: Path) -> None:
    """Killed before each change of the disk while other inputs are tried, then run with the old ones again."""
    folder = tmp_path / "new"
    made = folder / "made"

    def work(inputs: int) -> None:
        made.mkdir(exist_ok=True)
        for name in ("one", "two"):
            write_whole(made / name, f"{inputs}")

    def make(inputs: int) -> None:
        stage = Stage("first", ("made",), {"inputs": inputs})
        Stages(folder, "extsub run", lambda _: None).make(stage, lambda: work(inputs))

    def check() -> None:
        make(1)
        assert {path.name: path.read_text() for path in made.iterdir()} == {"one": "1", "two": "1"}
        assert {path.name for path in folder.iterdir()} == {"made", "stages.json"}

    assert at_every_change(lambda: make(2), lambda: make(1), check) > 10


def test_two_runs_of_one_recipe_are_told_apart(here: Path, extsub: Command) -> None:
    """The second would take away what the first is making, if its recipe says something else."""
    write(here, training={"rank": 8})
    before = times(here, "out")
    with locked(Path("out"), Path("out")):
        run = extsub("run", "recipe.yaml")
    assert (run.returncode, run.stderr) == (2, "Error: out is being written by another run: wait for it\n")
    assert times(here, "out") == before


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_who_stops_it_before_the_first_stage_is_told_that_nothing_is_kept(
    here: Path, extsub: Command, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write(here, output="new")
    monkeypatch.setattr(room._Run, "look_at", lambda *_: signal.raise_signal(getattr(signal, name)))
    run = extsub("run", "recipe.yaml")
    assert run.stderr.endswith("; nothing was written\n")
    assert not Path("new").exists()


def test_who_stops_the_last_stage_is_told_what_is_kept(
    here: Path, extsub: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree("out/result")
    with monkeypatch.context() as patched:
        patched.setattr(room, "save_adapter", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
        run = extsub("run", "recipe.yaml")
    kept = "Error: terminated; what was done is kept: 'extsub run recipe.yaml' goes on from there"
    assert (run.returncode, run.stderr.splitlines()) == (143, ["stage: result", kept])
    assert began(extsub("run", "recipe.yaml").stderr) == ["result"]


def test_auto_is_the_word_that_it_means(here: Path, run: Callable) -> None:
    """Whoever says that word has said nothing new; another is another training, and another sweep."""
    write(here, training={"template": "extsub"}, sweep={"prompt": "extsub"})
    assert run()[0] == []
    benchmark_files.chatting(here / "base")
    write(here, training={"template": "chat"}, anti_experts={"wrong": {"data": "bad.jsonl", "template": "extsub"}})
    plan = run("--dry-run")[1]["stages"]
    said = {stage["stage"]: stage["estimate"] for stage in plan}
    assert [said[name]["template"] for name in ("expert", "anti-wrong")] == ["chat", "extsub"]
    assert said["sweep"]["prompt"] == "chat"  # the expert's
    write(here)
    said = {stage["stage"]: stage["estimate"] for stage in run("--dry-run")[1]["stages"]}
    assert said["expert"]["template"] == "chat"
    taken = {**RECIPE, "expert": {"adapter": "out/expert"}, "output": "other"}  # which was trained with ours
    (here / "recipe.yaml").write_text(yaml.safe_dump(taken))
    said = {stage["stage"]: stage["estimate"] for stage in run("--dry-run")[1]["stages"]}
    assert (said["anti-wrong"]["template"], said["sweep"]["prompt"]) == ("chat", "extsub")
