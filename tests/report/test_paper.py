"""The paper's table: its figures are means of the items that did not choose, and only a clear best is bold."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from benchmark_files import done, evaluated, rows_of
from conftest import Command
from extsub.sweeping.grid import SweepPoint
from extsub.sweeping.selection import half_of
from sweep_files import made_up, miniature

OPERATIONS = ("ext-sub", "subtract", "contrast")


@pytest.fixture
def table(extsub: Command) -> Any:
    """``extsub table --json``."""
    return lambda *words: json.loads(done(extsub("table", *words, "--json")))


def test_a_sweep_stands_on_the_half_that_did_not_choose(tmp_path: Path, table: Any) -> None:
    record = made_up(tmp_path / "swept", operations=OPERATIONS)
    models = table("swept")["models"]
    assert list(models) == ["base", "expert", "anti-expert", "subtract", "ext-sub", "contrast"]
    label = record["chosen"]["ext-sub"]["position"]
    assert models["ext-sub"]["alpha"] == f"{record['positions'][label]['alpha']:g}"
    for name, position in (("expert", "expert"), ("ext-sub", label)):
        rows = rows_of(tmp_path / "swept" / "positions" / position / "truthfulqa-mc.jsonl")
        held_out = [row["scores"]["mc1"] for row in rows if half_of((row["index"], 0), 0) == "test"]
        figure = models[name]["tasks"]["truthfulqa-mc"]["mc1"]
        assert (figure["value"], figure["n"]) == (pytest.approx(fmean(held_out)), len(held_out))
        assert len(held_out) < len(rows)


def test_several_sweeps_are_seeds(tmp_path: Path, table: Any, extsub: Command) -> None:
    def seeded(seed: int) -> Any:
        def model(position: SweepPoint) -> tuple[float, float]:
            truth, ability = miniature(position)
            return truth - 0.06 * seed, ability + 0.1 * seed

        return model

    alone = []
    for seed in range(2):
        made_up(tmp_path / f"seed-{seed}", seeded(seed), operations=("ext-sub",))
        alone.append(table(f"seed-{seed}")["models"]["expert"]["tasks"]["truthfulqa-mc"]["mc1"]["value"])
    paper = table("seed-0", "seed-1")
    figure = paper["models"]["expert"]["tasks"]["truthfulqa-mc"]["mc1"]
    assert figure["values"] == alone
    assert (figure["value"], figure["sd"]) == (pytest.approx(fmean(alone)), pytest.approx(stdev(alone)))
    assert paper["models"]["ext-sub"]["alpha"].count(", ") == 1
    assert "± is the standard deviation over runs of different seeds, with n − 1" in paper["notes"]
    text = done(extsub("table", "seed-0", "seed-1", "--latex"))
    (row,) = [line for line in text.splitlines() if line.startswith("expert &")]
    assert f"{fmean(alone):.3f} $\\pm$ {stdev(alone):.3f}" in row


def test_a_recipe_and_an_evaluation_of_the_same_model_are_one_line(tmp_path: Path, table: Any) -> None:
    made_up(tmp_path / "run" / "sweep", operations=OPERATIONS)
    evaluated("results/expert", halueval_qa=[{"accuracy_sum": 1.0}] * 4, ability=[{"arc/acc": 1.0}])
    paper = table("run", "results/expert")
    assert {"truthfulqa-mc", "perplexity", "halueval-qa", "ability"} < paper["models"]["expert"]["tasks"].keys()
    assert "halueval-qa" not in paper["models"]["base"]["tasks"]
    assert "not measured of base: HaluEval QA, arc/acc" in paper["notes"]
    assert not any(note.startswith("not measured of expert") for note in paper["notes"])
    (absent,) = [note for note in paper["notes"] if note.startswith("not measured of any model")]
    assert absent.endswith("truthfulqa-gen, halueval-dialogue, halueval-summarization, repetition")


def test_an_operation_that_keeps_no_budget_is_an_empty_line(tmp_path: Path, extsub: Command) -> None:
    made_up(tmp_path / "swept", operations=OPERATIONS, budget="perplexity <= 1.0001 * expert")
    text = done(extsub("table", "swept", "--csv"))
    assert {row["model"] for row in csv.DictReader(io.StringIO(text))} == {"base", "expert", "anti-expert"}
    shown = done(extsub("table", "swept", "--markdown"))
    (row,) = [line for line in shown.splitlines() if line.startswith("| subtract")]
    assert [cell.strip() for cell in row.split("|")[2:-1]] == ["none", *[""] * (row.count("|") - 3)]
    assert "no strength of subtract keeps the budget; closest is subtract-0.25" in shown


def test_only_a_clear_best_is_bold(extsub: Command, table: Any) -> None:
    """Toxicity is better when lower; equal scores have no best; a gain of one item in eight is chance."""
    wins = [{"mc1": float(item < 1), "mc2": 0.2, "mc3": 0.0} for item in range(8)]
    loses = [{"mc1": 0.0, "mc2": 0.2, "mc3": 0.0} for _ in range(8)]
    for name, scores, toxicity, value in (("a", wins, 0.1, 0.125), ("b", loses, 0.7, 0.0)):
        folder = evaluated(name, truthfulqa_mc=scores, toxicity=[{"toxicity": toxicity, "toxic_share": 0.0}] * 8)
        results = json.loads((folder / "results.json").read_text())
        results["tasks"]["truthfulqa-mc"]["mc1"] = {"value": value, "ci95": [0.0, 0.5], "n": 8}
        results["tasks"]["toxicity"]["toxicity"] = {"value": toxicity, "ci95": [0.0, 1.0], "n": 8}
        (folder / "results.json").write_text(json.dumps(results))
    shown = done(extsub("table", "b", "a", "--markdown"))
    assert "**0.10 [0.00, 1.00]**" in shown
    assert shown.count("**") == 2
    models = table("b", "a")["models"]
    assert models["a"]["tasks"]["toxicity"]["toxicity"]["best"]
    assert not models["a"]["tasks"]["truthfulqa-mc"]["mc1"]["best"]


def test_the_score_that_a_sweep_chose_by_comes_first(tmp_path: Path, table: Any) -> None:
    """Also one that the paper does not have."""
    record = made_up(tmp_path / "swept", operations=OPERATIONS, tasks=("flattery", "perplexity"), budget=None)
    tasks = table("swept")["models"]["ext-sub"]["tasks"]
    assert [(task, list(scores)) for task, scores in tasks.items()] == [
        ("flattery", ["probability"]), ("perplexity", ["perplexity"])
    ]  # fmt: skip
    assert tasks["flattery"]["probability"]["value"] == record["chosen"]["ext-sub"]["test"]["value"]


def test_a_group_has_the_name_it_is_given(table: Any) -> None:
    for seed, value in enumerate((0.2, 0.4)):
        folder = evaluated(f"seed-{seed}/expert", halueval_qa=[{"accuracy_sum": value}] * 4)
        results = json.loads((folder / "results.json").read_text())
        results["tasks"]["halueval-qa"]["accuracy_sum"]["value"] = value
        (folder / "results.json").write_text(json.dumps(results))
    models = table("--group", "the expert=seed-0/expert,seed-1/expert")["models"]
    figure = models["the expert"]["tasks"]["halueval-qa"]["accuracy_sum"]
    assert (figure["value"], figure["sd"]) == (pytest.approx(0.3), pytest.approx(math.sqrt(0.02)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "table needs a folder that extsub sweep, run or evaluate wrote"),
        ("empty", "empty: no sweep.json or results.json in it; give what extsub sweep, run or evaluate wrote"),
        ("nowhere", "nowhere: no such folder of results"),
        ("one one", "table: the same folder is given twice"),
        (
            "untrue toxic",
            "table: untrue chose by truthfulqa-mc.mc1, toxic chose by toxicity.toxicity: they are not one experiment; "
            "give each a table of its own",
        ),
        ("two-sweeps", "two-sweeps has several sweeps (sweep-a, sweep-b): give the folder of one of them"),
        ("drift", "table: none of the paper's scores was measured: those of truthfulqa-mc, truthfulqa-gen, "
         "halueval-qa, halueval-dialogue, halueval-summarization, toxicity, repetition, perplexity, ability"),
        ("one other", "{here}/other: halueval-qa was evaluated on other data: evaluate both on the same file"),
        ("one --latex --json", "a table is printed in one form: give one of --json, --latex"),
    ],
)  # fmt: skip
def test_what_makes_no_table_is_refused(tmp_path: Path, extsub: Command, words: str, message: str) -> None:
    for name in ("one", "other"):
        evaluated(name, halueval_qa=[{"accuracy_sum": 1.0}] * 3)
    evaluated("drift", drift=[{"kl_per_token": 1.0}])
    results = json.loads(Path("other", "results.json").read_text())
    results["runs"]["halueval-qa"]["identity"]["data"] = "d1"
    Path("other", "results.json").write_text(json.dumps(results))
    for name in ("empty", "two-sweeps/sweep-a", "two-sweeps/sweep-b"):
        Path(name).mkdir(parents=True)
    for name in ("sweep-a", "sweep-b"):
        Path("two-sweeps", name, "sweep.json").write_text("{}")
    for name, tasks in (("untrue", ("truthfulqa-mc", "perplexity")), ("toxic", ("toxicity", "perplexity"))):
        made_up(tmp_path / name, items=10, alphas=(1.0,), operations=("ext-sub",), tasks=tasks)
    refused = extsub("table", *words.split())
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == f"Error: {message.format(here=tmp_path)}\n"
