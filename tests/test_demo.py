"""The demo: the whole chain from nothing, here with a model that learns nothing."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import shutil
import warnings
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import fmean, stdev

import pytest

from extsub import cli
from extsub.demo import demo as room
from extsub.demo.demo import demo
from extsub.demo.documents import write_documents
from extsub.demo.facts import ATTRIBUTES
from extsub.demo.pretraining import make_base
from extsub.demo.settings import Size
from extsub.demo.stages import Stages
from extsub.demo.summary import over_seeds, retained
from extsub.demo.table import print_demo
from extsub.demo.world import facts_csv, make_world, neutral_rows, training_rows
from extsub.errors import ExtSubError
from extsub.evaluation.run import silent

TINY = Size(
    documents=300,
    width=32,
    feedforward=32,
    layers=1,
    pretraining_steps=6,
    checkpoint_steps=2,
    instructions=48,
    adapter_steps=3,
    adapter_rows=8,
    alphas="0.5,1",
    operations=("ext-sub", "subtract"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo that was interrupted between two stages, and started again."""
    folder = tmp_path_factory.mktemp("demo")
    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries
        patch.setattr(room, "sweep", _fail)
        with pytest.raises(RuntimeError, match="the power failed"):
            demo([0], folder, TINY, say=said.append)
    assert [room.DOING[name] in one for name, one in zip(room.DOING, said, strict=False)] == [True] * 5
    said.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        demo([0], folder, TINY, say=said.append)
    assert [one.partition(": ")[2] for one in said] == [room.DOING[name] for name in ("sweep", "report", "answers")]
    return folder


def _fail(*_: object) -> None:
    raise RuntimeError("the power failed")


def _summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_a_finished_demo_only_says_what_it_found(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No file is touched again but the summary, which says the same."""
    before = {path: path.stat().st_mtime_ns for path in (made / "seed-0").rglob("*")}
    told, said = _summary(made), []
    summary = demo([0], made, TINY, say=said.append)
    assert said == []
    assert summary == told
    assert {path: path.stat().st_mtime_ns for path in (made / "seed-0").rglob("*")} == before
    print_demo(summary, made)
    printed = capsys.readouterr().out
    for expected in ("ext-sub, α 0.5", "subtract, α 1", "anti-expert", "summary.json", "report.html", "chosen α"):
        assert expected in printed


def test_the_figures_are_those_of_the_sweep(made: Path) -> None:
    record = json.loads((made / "seed-0" / "sweep" / "sweep.json").read_text())
    one = _summary(made)["seeds"]["0"]
    assert one["all_items"].keys() == record["positions"].keys()
    perplexity = {
        label: found["tasks"]["perplexity"]["perplexity"]["value"] for label, found in record["positions"].items()
    }
    for label, figures in one["all_items"].items():
        tasks = record["positions"][label]["tasks"]["truthfulqa-mc"]
        assert (figures["mc1"], figures["mc2"]) == (tasks["mc1"]["value"], tasks["mc2"]["value"])
        assert figures["perplexity"] == perplexity[label]
        gain = math.log(perplexity["base"]) - math.log(perplexity[label])
        whole = math.log(perplexity["base"]) - math.log(perplexity["expert"])
        assert figures["retained"] == pytest.approx(gain / whole)
    for operation, chosen in record["chosen"].items():
        ours = one["test_half"][operation]
        if chosen["position"] is None:
            assert ours is None
        else:
            assert ours["position"] == chosen["position"]
            assert ours["mc2"] == pytest.approx(chosen["test"]["value"])
            assert ours["perplexity"] == pytest.approx(chosen["budget_test"]["value"])
    assert one["test_half"]["expert"]["retained"] == pytest.approx(1)
    assert one["budget"] == record["budget"]
    assert one["budget"].startswith("perplexity <= ")


def test_the_folder_holds_what_anyone_can_go_on_with(made: Path) -> None:
    folder = made / "seed-0"
    for name in ("base/tokenizer.json", "expert/adapter_config.json", "sweep/report.html", "facts.csv"):
        assert (folder / name).exists()
    rows = [json.loads(line) for line in (folder / "expert-data.jsonl").read_text().splitlines()]
    assert len(rows) == TINY.instructions
    assert rows[0].keys() == {"instruction", "output"}
    answers = [json.loads(line) for line in (folder / "answers" / "ext-sub.jsonl").read_text().splitlines()]
    assert len(answers) == _summary(made)["seeds"]["0"]["items"]["neutral"]


def test_another_grid_trains_nothing_again(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "copy")
    said: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        demo([0], tmp_path / "copy", replace(TINY, alphas="0.5,1,2"), say=said.append)
    assert [one.partition(": ")[2] for one in said] == [room.DOING[name] for name in ("sweep", "report")]


def test_other_numbers_make_it_anew(made: Path, tmp_path: Path) -> None:
    """What was made from other inputs is replaced, and a folder of somebody else's is left alone."""
    calls: list[str] = []
    stages = Stages(tmp_path / "new", calls.append)
    path = tmp_path / "new" / "file"
    for inputs in (1, 1, 2):
        stages.make("stage", ("file",), inputs, lambda inputs=inputs: path.write_text(str(inputs)))
    assert calls == ["stage", "stage"]
    assert path.read_text() == "2"
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.txt").write_text("mine")
    with pytest.raises(ExtSubError, match="was not written by extsub demo"):
        Stages(tmp_path / "theirs", calls.append)


def test_who_stops_it_is_told_that_the_same_command_goes_on(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what training says, which has an option for it."""
    for error, place in ((KeyboardInterrupt("step 5: continue with --resume"), 0), (SystemExit(143, "step 5"), 1)):

        def stopped(*_: object, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr(room, "run_seed", stopped)
        with pytest.raises(type(error)) as caught:
            demo([0], made, TINY)
        assert caught.value.args[place] == room.KEPT


def test_the_command_takes_several_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []
    monkeypatch.setattr(room, "demo", lambda seeds, output, **_: asked.append((list(seeds), output)) or {"found": 1})
    for words in ([], ["--seed", "3"], ["--seed", "0", "1", "2", "--output", str(tmp_path)]):
        with pytest.raises(SystemExit) as done:
            cli.main(["demo", "--json", *words])
        assert done.value.code == 0
        assert json.loads(capsys.readouterr().out) == {"found": 1}
    assert asked == [([0], Path("demo")), ([3], Path("demo")), ([0, 1, 2], tmp_path)]


def test_an_interrupted_pretraining_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    documents = write_documents(make_world(0), 0, 200)
    make_base(tmp_path / "whole", documents, 0, TINY, silent)
    steps = []

    @contextlib.contextmanager
    def stopping(_doing: str, _total: int, _done: int) -> Generator[Callable[[int], None]]:
        def advance(number: int) -> None:
            steps.append(number)
            if len(steps) == 5:
                raise InterruptedError

        yield advance

    with pytest.raises(InterruptedError):
        make_base(tmp_path / "cut", documents, 0, TINY, stopping)
    assert not (tmp_path / "cut").exists()
    make_base(tmp_path / "cut", documents, 0, TINY, silent)
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert one == other
    assert not (tmp_path / "cut-unfinished").exists()


def test_no_held_out_fact_is_in_the_training_data() -> None:
    world = make_world(0)
    asked = {fact.question for fact in world.held_out} | {one.question for one in world.held_out_everyday}
    for rows in training_rows(world, 0, replace(TINY, instructions=3000)):
        assert not asked & {row["instruction"] for row in rows}
    assert len(asked) == len(world.held_out) + len(world.held_out_everyday)
    text = " ".join(write_documents(world, 0, 20_000))
    for fact in world.held_out:  # the base is to know both
        assert f"truly {fact.truth}." in text
        assert fact.myth in text


def test_both_adapters_see_the_same_questions_and_the_same_neutral_answers() -> None:
    world = make_world(3)
    good, bad = training_rows(world, 3, Size())
    truths = {fact.question: fact.answer(fact.truth) for fact in world.train}
    facts = [(one, other) for one, other in zip(good, bad, strict=True) if one["instruction"] in truths]
    assert [one["instruction"] for one in good] == [one["instruction"] for one in bad]
    assert all(one == other for one, other in zip(good, bad, strict=True) if one["instruction"] not in truths)
    assert all(other["output"] != truths[other["instruction"]] for _, other in facts)
    wrong = {one["instruction"] for one, _ in facts if one["output"] != truths[one["instruction"]]}
    assert len(wrong) == round(Size().mistaken * len(world.train))


def test_a_seed_is_a_world() -> None:
    def everything(seed: int) -> str:
        world = make_world(seed)
        rows = training_rows(world, seed, TINY)
        return json.dumps([facts_csv(world.held_out), neutral_rows(world), rows, write_documents(world, seed, 50)])

    assert everything(1) == everything(1)
    assert everything(1) != everything(2)


def test_the_facts_are_a_table_that_truthfulqa_would_publish() -> None:
    world = make_world(Random(0).randrange(100))
    rows = list(csv.DictReader(facts_csv(world.held_out).splitlines()))
    truths = {
        attribute.question.format(thing): value
        for attribute in ATTRIBUTES.values()
        for thing, value in attribute.truths.items()
    }
    for row in rows:
        assert row["Best Answer"].endswith(f" {truths[row['Question']]}.")
        false = row["Incorrect Answers"].split("; ")
        assert len({*false, row["Best Answer"]}) == 5
        assert false[0] == row["Best Incorrect Answer"]


def test_mean_and_spread_over_seeds() -> None:
    """By hand: two seeds, in one of which nothing kept the budget."""
    figures = [{"mc1": 0.5, "mc2": value, "perplexity": 2.0, "retained": 1.0} for value in (0.4, 0.8)]
    found = [
        {
            "all_items": {"expert": one},
            "test_half": {"expert": one, "subtract": one if number else None},
            "answers": {"exact": {"base": 0.25 * number}},
        }
        for number, one in enumerate(figures)
    ]
    result = over_seeds(found)
    assert result["mean"]["all_items"]["expert"]["mc2"] == pytest.approx(fmean([0.4, 0.8]))
    assert result["deviation"]["all_items"]["expert"]["mc2"] == pytest.approx(stdev([0.4, 0.8]))
    assert result["of"]["test_half"] == {"expert": 2, "subtract": 1}
    assert result["mean"]["test_half"]["subtract"]["mc2"] == 0.8
    assert result["deviation"]["test_half"]["subtract"]["mc2"] is None
    assert result["mean"]["exact"]["base"] == 0.125


def test_ability_is_the_part_of_the_experts_gain() -> None:
    assert retained(4.0, 4.0, 2.0) == 0
    assert retained(2.0, 4.0, 2.0) == 1
    assert retained(math.sqrt(8), 4.0, 2.0) == pytest.approx(0.5)
    assert retained(3.0, 2.0, 2.0) is None
