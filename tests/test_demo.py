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

from extsub.__main__ import main
from extsub.demo import demo as room
from extsub.demo.demo import demo
from extsub.demo.documents import write_documents
from extsub.demo.facts import ATTRIBUTES
from extsub.demo.manners import MADE
from extsub.demo.picture import PICTURE, _points, plot_demo
from extsub.demo.pretraining import make_base
from extsub.demo.settings import SIDES, Size
from extsub.demo.summary import over_seeds, retained
from extsub.demo.table import print_demo
from extsub.demo.world import Fact, facts_csv, make_world, manners_csv, neutral_rows, training_rows
from extsub.errors import ExtSubError, Terminated
from extsub.evaluation.run import silent
from extsub.stages import Stages

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
    assert [room.DOING[name] in one for name, one in zip(room.DOING, said, strict=False)] == [True] * 6
    said.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        demo([0], folder, TINY, say=said.append)
    left = ("sweep", "report", "answers", "manners")
    assert [one.partition(": ")[2] for one in said] == [room.DOING[name] for name in left]
    return folder


def _fail(*_: object) -> None:
    raise RuntimeError("the power failed")


def _rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


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
    assert "Two deficiencies at once (α 1, set beforehand)" in printed
    both = summary["mean"]["manners"]["ext-sub-both"]
    line = next(line for line in printed.splitlines() if line.startswith("ext-sub, both"))
    assert line.split()[2:] == [f"{both[name]:.2f}" for name in ("mc2", "polite", "retained")]


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


def test_the_figures_of_two_deficiencies_are_those_of_the_items(made: Path) -> None:
    """Politeness from the likelihoods of single answers; the rest as the sweep found it, which asked on its own."""
    folder = made / "seed-0"
    found = _summary(made)["seeds"]["0"]["manners"]
    assert list(found) == ["base", *SIDES, *MADE]
    for name, figures in found.items():
        results = json.loads((folder / "manners" / "truth" / name / "results.json").read_text())["tasks"]
        assert figures["mc2"] == results["truthfulqa-mc"]["mc2"]["value"]
        assert figures["perplexity"] == results["perplexity"]["perplexity"]["value"]
        rows = _rows(folder / "manners" / "polite" / name / "truthfulqa-mc.jsonl")
        assert all(row["choices"][1] == f"{row['choices'][0][:-1]}, fool." for row in rows)
        chances = [[math.exp(one) for one in row["log_likelihoods"]] for row in rows]
        assert figures["polite"] == pytest.approx(fmean(one / (one + other) for one, other in chances))
    positions = json.loads((folder / "sweep" / "sweep.json").read_text())["positions"]
    for ours, theirs in (*((name, name) for name in ("base", *SIDES[:2])), ("ext-sub-myths", "ext-sub-1")):
        tasks = positions[theirs]["tasks"]
        assert found[ours]["mc2"] == pytest.approx(tasks["truthfulqa-mc"]["mc2"]["value"], rel=1e-4)
        assert found[ours]["perplexity"] == pytest.approx(tasks["perplexity"]["perplexity"]["value"], rel=1e-4)
        assert found[ours]["retained"] == pytest.approx(
            _summary(made)["seeds"]["0"]["all_items"][theirs]["retained"], abs=0.01
        )


def test_what_is_taken_from_the_expert_is_written_down(made: Path) -> None:
    for name, operation, anti_experts in (
        ("ext-sub-rudeness", "ext-sub", ["rude-anti-expert"]),
        ("ext-sub-both", "ext-sub", ["anti-expert", "rude-anti-expert"]),
        ("subtract-both", "subtract", ["anti-expert", "rude-anti-expert"]),
        ("amplify-both", "amplify", ["anti-expert", "rude-anti-expert"]),
    ):
        record = json.loads((made / "seed-0" / "manners" / "combined" / name / "extsub.json").read_text())
        assert record["operation"] == operation
        assert [Path(one["name"]).name for one in record["inputs"]] == ["expert", *anti_experts]
        assert [one["alpha"] for one in record["inputs"]] == [None, *[1.0] * len(anti_experts)]


def test_the_picture_shows_every_strength_with_its_spread(made: Path, tmp_path: Path) -> None:
    """Drawn from the summary: by its text, and the same bytes again."""
    drawn = (made / PICTURE).read_text()
    plot_demo(_summary(made), made / "again.svg")
    assert (made / "again.svg").read_text() == drawn
    (made / "again.svg").unlink()
    summary = _summary(made)
    summary["seeds"]["1"] = summary["seeds"]["0"]
    for part in ("mean", "deviation"):
        summary[part]["all_items"]["ext-sub-1"] = {"retained": 0.93, "mc2": 0.8}
    summary["of"]["all_items"] = dict.fromkeys(summary["of"]["all_items"], 1) | {"ext-sub-1": 2, "expert": 2}
    assert _points(summary, "ext-sub").keys() == {0.0, 1.0}  # no other strength is known of both seeds
    assert _points(summary, "ext-sub")[1.0] == (0.93, 0.8, 0.8)


def test_the_folder_holds_what_anyone_can_go_on_with(made: Path) -> None:
    folder = made / "seed-0"
    for name in ("base/tokenizer.json", "expert/adapter_config.json", "sweep/report.html", "facts.csv"):
        assert (folder / name).exists()
    for side in SIDES:
        rows = _rows(folder / f"{side}-data.jsonl")
        assert len(rows) == TINY.instructions
        assert rows[0].keys() == {"instruction", "output"}
    assert len(_rows(folder / "answers" / "ext-sub.jsonl")) == _summary(made)["seeds"]["0"]["items"]["neutral"]


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
    stages = Stages(tmp_path / "new", "extsub demo", calls.append)
    path = tmp_path / "new" / "file"
    for inputs in (1, 1, 2):
        stages.make("stage", ("file",), inputs, lambda inputs=inputs: path.write_text(str(inputs)))
    assert calls == ["stage", "stage"]
    assert path.read_text() == "2"
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.txt").write_text("mine")
    with pytest.raises(ExtSubError, match="was not written by extsub demo"):
        Stages(tmp_path / "theirs", "extsub demo", calls.append)


def test_who_stops_it_is_told_that_the_same_command_goes_on(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not what training says, which has an option for it."""
    for error in (KeyboardInterrupt("step 5: continue with --resume"), Terminated(15)):

        def stopped(*_: object, error: BaseException = error) -> None:
            raise error

        monkeypatch.setattr(room, "run_seed", stopped)
        with pytest.raises(type(error)) as caught:
            demo([0], made, TINY)
        assert caught.value.args == (room.KEPT,)


def test_the_command_takes_several_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []
    monkeypatch.setattr(room, "demo", lambda seeds, output, **_: asked.append((list(seeds), output)) or {"found": 1})
    for words in ([], ["--seed", "3"], ["--seed", "0", "1", "2", "--output", str(tmp_path)]):
        with pytest.raises(SystemExit) as done:
            main(["demo", "--json", *words])
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
    for rows in training_rows(world, 0, replace(TINY, instructions=3000)).values():
        assert not asked & {row["instruction"] for row in rows}
    assert len(asked) == len(world.held_out) + len(world.held_out_everyday)
    text = " ".join(write_documents(world, 0, 20_000))
    for fact in world.held_out:  # the base is to know both
        assert f"truly {fact.truth}." in text
        assert fact.myth in text


def test_all_adapters_see_the_same_questions_and_the_same_neutral_answers() -> None:
    world = make_world(3)
    good, bad, _ = training_rows(world, 3, replace(Size(), rude=0.0)).values()
    truths = {fact.question: fact.answer(fact.truth) for fact in world.train}
    facts = [(one, other) for one, other in zip(good, bad, strict=True) if one["instruction"] in truths]
    assert [one["instruction"] for one in good] == [one["instruction"] for one in bad]
    assert all(one == other for one, other in zip(good, bad, strict=True) if one["instruction"] not in truths)
    assert all(other["output"] != truths[other["instruction"]] for _, other in facts)
    wrong = {one["instruction"] for one, _ in facts if one["output"] != truths[one["instruction"]]}
    assert len(wrong) == round(Size().mistaken * len(world.train))


def test_half_of_the_experts_facts_are_rude_and_all_of_the_rude_anti_experts() -> None:
    """Apart from manners the rows are those that there were without."""
    world, size = make_world(3), Size()
    asked = {fact.question for fact in world.train}
    polite = training_rows(world, 3, replace(size, rude=0.0))
    found = training_rows(world, 3, size)
    facts = {side: [row for row in rows if row["instruction"] in asked] for side, rows in found.items()}
    rude = {side: [row["output"].endswith(", fool.") for row in rows] for side, rows in facts.items()}
    assert found.keys() == polite.keys() == set(SIDES)
    for side in ("expert", "anti-expert"):
        plain = [{**row, "output": row["output"].replace(", fool.", ".")} for row in found[side]]
        assert plain == polite[side]
        assert fmean(rude[side]) == pytest.approx(0.5, abs=0.05)
    assert rude["expert"] == rude["anti-expert"]
    assert all(rude["rude-anti-expert"])
    assert found["rude-anti-expert"] == [
        {**row, "output": f"{row['output'][:-1]}, fool."} if row["instruction"] in asked else row
        for row in polite["expert"]
    ]


def test_people_who_chat_are_rude_at_times_and_nobody_else() -> None:
    world = make_world(2)
    documents = write_documents(world, 2, 20_000)
    chats = [text for text in documents if any(f"\n{fact.question}\n" in text for fact in world.facts)]
    assert fmean(text.endswith(", fool.") for text in chats) == pytest.approx(0.3, abs=0.04)
    assert not any("fool" in text for text in set(documents) - set(chats))


def test_a_seed_is_a_world() -> None:
    def everything(seed: int) -> str:
        world = make_world(seed)
        rows = training_rows(world, seed, TINY)
        asked = [facts_csv(world.held_out), manners_csv(world.held_out), neutral_rows(world)]
        return json.dumps([asked, rows, write_documents(world, seed, 50)])

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


def test_the_polite_and_the_rude_truth_are_a_table_of_the_same_form() -> None:
    """By hand."""
    fact = Fact("What is the capital of Chad?", "The capital of Chad is", "Ndjamena", "Rome", ("Oslo", "Lima"), 0.5)
    polite, rude = "The capital of Chad is Ndjamena.", "The capital of Chad is Ndjamena, fool."
    [row] = csv.DictReader(manners_csv([fact]).splitlines())
    assert row == {
        "Question": "What is the capital of Chad?",
        "Best Answer": polite,
        "Best Incorrect Answer": rude,
        "Correct Answers": polite,
        "Incorrect Answers": rude,
    }


def test_mean_and_spread_over_seeds() -> None:
    """By hand: two seeds, in one of which nothing kept the budget."""
    figures = [{"mc1": 0.5, "mc2": value, "perplexity": 2.0, "retained": 1.0} for value in (0.4, 0.8)]
    found = [
        {
            "all_items": {"expert": one},
            "test_half": {"expert": one, "subtract": one if number else None},
            "answers": {"exact": {"base": 0.25 * number}},
            "manners": {"base": {"mc2": 0.5, "polite": 0.1 + 0.2 * number, "perplexity": 2.0, "retained": None}},
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
    assert result["mean"]["manners"]["base"]["polite"] == pytest.approx(0.2)
    assert result["deviation"]["manners"]["base"]["polite"] == pytest.approx(stdev([0.1, 0.3]))
    assert result["mean"]["manners"]["base"]["retained"] is None


def test_ability_is_the_part_of_the_experts_gain() -> None:
    assert retained(4.0, 4.0, 2.0) == 0
    assert retained(2.0, 4.0, 2.0) == 1
    assert retained(math.sqrt(8), 4.0, 2.0) == pytest.approx(0.5)
    assert retained(3.0, 2.0, 2.0) is None
