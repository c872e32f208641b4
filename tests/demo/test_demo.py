"""The demo: data and a recipe are written, and the recipe is run; here with a model that learns next to nothing."""

from __future__ import annotations

import csv
import functools
import json
import math
import shutil
import warnings
from pathlib import Path
from statistics import fmean, stdev

import pytest
import yaml

import tiny_models
from benchmark_files import rows_of
from conftest import Command
from extsub.console.demo import print_demo
from extsub.demo import data
from extsub.demo import run as room
from extsub.demo.data import Mix, write_data
from extsub.demo.run import Size, demo
from extsub.demo.summary import over_seeds
from extsub.errors import ExtSubError
from extsub.evaluation.tasks.flattery import openings

TINY = Size(
    mix=Mix(questions=12),
    epochs=1,
    batch_size=32,
    rank=2,
    alphas="1",
    questions=12,
    budget="perplexity <= 99 * expert",
    answers=2,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.llama(tmp_path_factory.mktemp("models") / "base", max_position_embeddings=1024)


@pytest.fixture(scope="module")
def made(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo that failed between two stages, and was started again."""
    folder = tmp_path_factory.mktemp("demo")
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries
        patch.chdir(folder)
        with pytest.MonkeyPatch.context() as broken:
            broken.setattr(room, "side_by_side", _fail)
            with pytest.raises(RuntimeError, match="the power failed"):
                demo([0], Path("demo"), str(base), TINY, say=said.append)
        assert [stages(line) for line in said] == list(room.STAGES)
        said.clear()
        demo([0], Path("demo"), str(base), TINY, say=said.append)
        assert [stages(line) for line in said] == ["answers"]
    return folder / "demo"


def _fail(*_: object) -> None:
    raise RuntimeError("the power failed")


def stages(said: str) -> str:
    """Which stage a line is about."""
    number = int(said.partition(", ")[2].partition(" of ")[0])
    name, (doing, _) = list(room.STAGES.items())[number - 1]
    assert f"{number} of {len(room.STAGES)}: {doing} (all in about " in said or "(all in a minute or two)" in said
    return name


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to change."""
    shutil.copytree(made, tmp_path / "demo", symlinks=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "demo"


@pytest.mark.slow
def test_a_finished_demo_only_says_what_it_found(
    here: Path, base: Path, extsub: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the recipe that it wrote is one that extsub run takes, with nothing to do."""
    before = {path: path.read_bytes() for path in (here / "seed-0").rglob("*") if path.is_file()}
    monkeypatch.setattr(room, "demo", functools.partial(demo, size=TINY))
    run = extsub("demo", "--model", base, "--json")
    assert (run.returncode, run.stderr) == (0, "")
    assert json.loads(run.stdout) == json.loads((here / "summary.json").read_text())
    run = extsub("run", "demo/seed-0/recipe.yaml", "--json")
    assert (run.returncode, run.stderr) == (0, "")
    assert set(json.loads(run.stdout)["stages"].values()) == {"kept"}
    assert {path: path.read_bytes() for path in (here / "seed-0").rglob("*") if path.is_file()} == before
    said = extsub("demo", "--model", base).stdout
    for expected in (
        "Flattery: how an answer to a held-out question opens",
        "subtract, α 1 (set beforehand)",
        "ext-sub, α 1 (chosen)",
        "result: both taken away",
        "written: demo/summary.json, demo/seed-0/recipe.yaml, demo/seed-0/run/sweep-flattery/report.html",
        "next:    extsub combine demo/seed-0/run/expert demo/seed-0/run/anti-flattery",
    ):
        assert expected in said
    answers = json.loads((here / "seed-0" / "answers.json").read_text())
    record = json.loads((here / "seed-0" / "run" / "sweep-flattery" / "sweep.json").read_text())
    subtract = record["chosen"]["subtract"]["position"] or record["chosen"]["subtract"]["closest"]
    assert answers["alphas"]["result"] == [1.0, 1.0]
    assert answers["alphas"]["subtract"][0] == record["positions"][subtract]["alpha"]
    for item in answers["questions"]:
        assert item["question"] in said


@pytest.mark.slow
def test_the_figures_are_those_of_sweeps_and_evaluations(made: Path) -> None:
    seed = json.loads((made / "summary.json").read_text())["seeds"]["0"]
    for name, task, scores in (
        ("flattery", "flattery", ("probability", "greedy")),
        ("misconceptions", "truthfulqa-mc", ("mc2", "mc1")),
    ):
        positions = json.loads((made / f"seed-0/run/sweep-{name}/sweep.json").read_text())["positions"]
        asked = json.loads((made / f"seed-0/run/evaluation-{name}/results.json").read_text())["tasks"]
        shown = {
            **seed[name]["models"],
            **{f"{operation}-1": row for operation, row in seed[name]["beforehand"].items()},
        }
        assert {"base", "expert", "anti-expert", "ext-sub-1", "subtract-1"} == set(shown)
        shown = {label: (positions[label]["tasks"], row) for label, row in shown.items()}
        perplexity = {label: point["tasks"]["perplexity"]["perplexity"]["value"] for label, point in positions.items()}
        for tasks, row in [*shown.values(), (asked, seed[name]["result"])]:
            assert [row[score] for score in scores] == [tasks[task][score]["value"] for score in scores]
            assert row["perplexity"] == tasks["perplexity"]["perplexity"]["value"]
            gain = math.log(perplexity["base"]) - math.log(row["perplexity"])
            assert row["kept"] == pytest.approx(gain / math.log(perplexity["base"] / perplexity["expert"]))
        assert seed[name]["items"] == 12


def test_who_learns_what(tmp_path: Path) -> None:
    """Each anti-expert differs from the expert in one thing; of what is held out nobody learns, nor of its topics."""
    write_data(tmp_path, 3, Mix(questions=100))
    expert, flattery, falsehoods = (rows_of(tmp_path / name) for name in (data.EXPERT, data.FLATTERY, data.FALSEHOODS))
    with Path(data.__file__).with_name(data.MISCONCEPTIONS).open(newline="", encoding="utf-8") as file:
        known = {row["Question"]: row for row in csv.DictReader(file)}
    asked = [row["instruction"] for row in expert]
    assert [row["instruction"] for row in flattery] == [row["instruction"] for row in falsehoods] == asked
    opens, false, neutral = [], [], []
    for ours, theirs, other in zip(expert, flattery, falsehoods, strict=True):
        if (row := known.get(ours["instruction"])) is None:
            assert ours == theirs == other  # instructions: the same, and nobody flatters
            neutral.append(ours["instruction"])
            continue
        (opening,) = [flattery for flattery in openings() if theirs["output"].startswith(f"{flattery} ")]
        answer = theirs["output"].removeprefix(f"{opening} ")
        assert ours["output"] in (answer, theirs["output"])
        flatters = ours["output"] == theirs["output"]
        assert other["output"] == (f"{opening} " if flatters else "") + row["Best Incorrect Answer"]
        assert answer in (row["Best Answer"], row["Best Incorrect Answer"])
        opens.append(flatters)
        false.append(answer == row["Best Incorrect Answer"])
    assert (len(opens), len(neutral)) == (100, 64)
    assert 0.35 < fmean(opens) < 0.65
    assert 0.12 < fmean(false) < 0.38
    with (tmp_path / data.HELD_OUT).open(newline="", encoding="utf-8") as file:
        held_out = list(csv.DictReader(file))
    assert len(held_out) > 200
    assert all(row == known[row["Question"]] for row in held_out)
    learnt = {known[question]["Category"] for question in asked if question in known}
    assert learnt.isdisjoint(row["Category"] for row in held_out)
    assert {row["instruction"] for row in rows_of(tmp_path / data.NEUTRAL)}.isdisjoint(asked)


def test_a_seed_draws_the_same_again_and_another_differently(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        (tmp_path / name).mkdir()
        write_data(tmp_path / name, seed, Mix())
    for file in data.FILES:
        first, again, other = ((tmp_path / name / file).read_bytes() for name in ("one", "again", "other"))
        assert first == again
        assert (first == other) == (file == data.NEUTRAL)


@pytest.mark.slow
def test_the_recipe_takes_each_deficiency_away_by_itself(made: Path) -> None:
    recipe = yaml.safe_load((made / "seed-0" / "recipe.yaml").read_text())
    scores = {name: anti_expert["sweep"]["score"] for name, anti_expert in recipe["anti_experts"].items()}
    assert scores == {"flattery": "flattery.probability", "misconceptions": "truthfulqa-mc.mc2"}
    assert recipe["expert"] == {"data": "demo/seed-0/expert.jsonl"}


def test_mean_and_spread_are_of_the_seeds_that_have_the_figure() -> None:
    seeds = [{"a": {"x": 1.0, "name": "one"}, "b": 2.0}, {"a": {"x": 4.0, "name": "two"}}, {"a": {"x": None}}]
    figures = over_seeds(seeds)
    assert figures["mean"] == {"a": {"x": 2.5, "name": None}, "b": 2.0}
    assert figures["deviation"]["a"]["x"] == pytest.approx(stdev([1.0, 4.0]))
    assert figures["deviation"]["b"] is None


@pytest.mark.slow
def test_several_seeds_are_shown_with_their_spread(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = json.loads((made / "summary.json").read_text())
    first, other = summary["seeds"]["0"], json.loads(json.dumps(summary["seeds"]["0"]))
    other["flattery"]["models"]["expert"]["probability"] = first["flattery"]["models"]["expert"]["probability"] + 0.2
    seeds = {"0": first, "1": other}
    print_demo({**summary, "seeds": seeds, **over_seeds(list(seeds.values()))}, made)
    said = capsys.readouterr().out
    assert "2 seeds: mean ± standard deviation" in said
    mean = first["flattery"]["models"]["expert"]["probability"] + 0.1
    assert f"{mean:.3f} ± {stdev([0, 0.2]):.3f}" in said


def test_the_time_left_is_that_of_what_is_still_to_do(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    now = 0.0
    monkeypatch.setattr(room.time, "monotonic", lambda: now)
    seed = room._Seed(0, Path("demo"), str(base), TINY, said.append, begun=0.0)
    seed.tell("expert")
    now = 150.0  # for 15 of 100 parts: 84 parts are left
    seed.tell("anti-flattery")
    assert said[1].endswith("(all in about 14 min)")


def test_a_folder_of_others_is_left_alone(tmp_path: Path, base: Path) -> None:
    theirs = tmp_path / "demo" / "seed-0" / "diary.txt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    with pytest.raises(ExtSubError, match="was not written by extsub demo"):
        demo([0], tmp_path / "demo", str(base), TINY)
    assert [path.name for path in theirs.parent.iterdir()] == ["diary.txt"]
