"""A sweep's figures are those of combined adapters on disk; the choice never sees the items that it is reported on."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import plain
from conftest import Command
from extsub import ExtSubError, load_adapter
from extsub.evaluation.statistics import Measure
from extsub.sweeping.choice import Budget, ScoreName, choose, figure_on, find_score, half_of
from extsub.sweeping.positions import Position, parse_alphas, positions, randomised
from quiz import done, results

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries
TASKS = "truthfulqa-mc perplexity drift"
DATA = "--data data --data perplexity=data/rows.jsonl --data drift=data/rows.jsonl"


@pytest.fixture
def pair(here: Path, extsub: Command) -> Path:
    """Where expert and anti-expert lie, too."""
    for seed, name in ((5, "expert"), (6, "anti-expert")):
        plain.adapter((here / "base").resolve(), here / name, "lora", seed)
    return here


def sweep(extsub: Command, words: str) -> dict[str, Any]:
    done(extsub("sweep", "expert", "anti-expert", "--tasks", *TASKS.split(), *DATA.split(), *words.split()))
    return json.loads(Path("swept/sweep.json").read_text())


def test_every_position_has_the_figures_of_the_adapter_on_disk(pair: Path, extsub: Command) -> None:
    record = sweep(extsub, "--output swept --operations ext-sub,subtract --alphas 0.5,2")
    assert list(record["positions"]) == [
        "base", "expert", "anti-expert", "ext-sub-0.5", "ext-sub-2", "subtract-0.5", "subtract-2"
    ]  # fmt: skip
    names = ["expert", "anti-expert"]
    for operation, alpha in (("ext-sub", "0.5"), ("subtract", "2")):
        names.append(f"{operation}-{alpha}")
        done(extsub("combine", "expert", "anti-expert", "--operation", operation, "--alpha", alpha, "-o", names[-1]))
    done(extsub("evaluate", *TASKS.split(), *DATA.split(), "--adapter", *names, "--output", "out"))
    tasks = [task for task in TASKS.split() if task != "drift"]
    done(extsub("evaluate", *tasks, *DATA.split()[:4], "--model", "base", "--output", "out/base"))
    for name in [*names, "base"]:
        for task, scores in results(f"out/{name}")["tasks"].items():
            for score, figure in scores.items():
                found = record["positions"][name]["tasks"][task][score]
                assert found["value"] == pytest.approx(figure["value"], rel=1e-4, abs=1e-5), (name, score)
                assert found["n"] == figure["n"]
    assert record["positions"]["base"]["tasks"]["drift"]["kl_per_token"]["value"] == 0
    with Path("swept/sweep.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == sum(len(scores) for one in record["positions"].values() for scores in one["tasks"].values())
    found = next(row for row in table if (row["position"], row["score"]) == ("ext-sub-2", "mc2"))
    assert float(found["value"]) == record["positions"]["ext-sub-2"]["tasks"]["truthfulqa-mc"]["mc2"]["value"]


def test_a_wider_grid_asks_only_what_is_new(pair: Path, extsub: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    first = sweep(extsub, "--output swept --operations ext-sub random --alphas 1")
    asked: list[str] = []
    turn = Position.turn
    monkeypatch.setattr(Position, "turn", lambda self, *rest: (asked.append(self.label), turn(self, *rest))[1])
    second = sweep(extsub, "--output swept --operations ext-sub random --alphas 0:2:1")
    assert asked == ["ext-sub-2", "random-2"]
    for name, position in first["positions"].items():
        assert second["positions"][name] == position
    assert second["positions"]["random-1"]["tasks"] != second["positions"]["ext-sub-1"]["tasks"]
    refused = extsub("sweep", "anti-expert", "expert", "--tasks", *TASKS.split(), *DATA.split(), "--output", "swept")
    assert (refused.returncode, "holds the results of another model" in refused.stderr) == (2, True)


def test_a_random_anti_expert_has_the_norms_of_the_real_one_and_other_directions(pair: Path) -> None:
    real = load_adapter("anti-expert")
    random, again, other = (randomised(real, seed) for seed in (0, 0, 100))
    for name, module in real.modules.items():
        delta, drawn = module.read(), random.modules[name].read()
        torch.testing.assert_close(drawn.row_norms(), delta.row_norms())
        assert torch.equal(drawn.dense(), again.modules[name].read().dense())
        assert not torch.allclose(drawn.dense(), other.modules[name].read().dense())
        cosine = drawn.row_dots(delta) / (drawn.row_norms() * delta.row_norms())
        assert cosine.abs().mean() < 0.5


def test_grids() -> None:
    assert parse_alphas("0:1:0.25") == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert parse_alphas("-1,0.5,0.5") == (-1.0, 0.5)
    assert [one.label for one in positions(("ext-sub", "negated"), (0.0, 0.5))] == [
        "base", "expert", "anti-expert", "ext-sub-0.5", "negated-0.5"
    ]  # fmt: skip
    for given in ("1:0:0.5", "0:1:0", "one", "0:1"):
        with pytest.raises(ExtSubError, match="--alphas"):
            parse_alphas(given)
    with pytest.raises(ExtSubError, match="--operations divide: there are ext-sub, subtract"):
        positions(("divide",), (1.0,))


TRUTH = ScoreName("mc", "truth", Measure())
LOSS = ScoreName("text", "loss", Measure(better="lower"))
ITEMS = range(40)


def scores(validation: float, test: float, loss: float) -> dict[str, dict[int, dict[str, float]]]:
    """The same score on every item of a half."""
    truth = {"validation": validation, "test": test}
    return {
        "mc": {item: {"truth": truth[half_of(item, 0)]} for item in ITEMS},
        "text": {item: {"loss": loss} for item in ITEMS},
    }


def test_the_choice_is_the_best_on_validation_within_the_budget_and_reported_on_test() -> None:
    candidates = {"a-1": scores(0.6, 0.1, 1.0), "a-2": scores(0.8, 0.5, 1.1), "a-3": scores(0.9, 0.9, 2.0)}
    expert, base = scores(0.5, 0.3, 1.0), scores(0.2, 0.2, 3.0)
    budget = Budget.parse("loss <= 1.2 * expert", [TRUTH, LOSS])
    chosen = choose("a", candidates, expert, base, TRUTH, budget, seed=0)
    assert (chosen.position, chosen.closest) == ("a-2", "a-2")
    assert chosen.validation
    assert chosen.test
    assert chosen.budget_test
    assert chosen.against_expert
    assert (chosen.validation.value, chosen.test.value, chosen.budget_test.value) == (0.8, 0.5, pytest.approx(1.1))
    assert chosen.validation.n + chosen.test.n == len(ITEMS)
    assert chosen.against_expert["value"] == pytest.approx(0.2)
    assert choose("a", candidates, expert, base, TRUTH, None, seed=0).position == "a-3"
    lower = choose("a", candidates, expert, base, LOSS, None, seed=0)
    assert lower.position == "a-1"


def test_a_budget_that_nothing_meets_says_what_came_closest() -> None:
    candidates = {"a-1": scores(0.6, 0.1, 1.5), "a-2": scores(0.8, 0.5, 1.3)}
    budget = Budget.parse("text.loss<=1.1", [TRUTH, LOSS])
    chosen = choose("a", candidates, scores(0, 0, 1), scores(0, 0, 1), TRUTH, budget, seed=0)
    assert (chosen.position, chosen.closest, chosen.test) == (None, "a-2", None)


def test_what_cannot_be_chosen_by_is_refused() -> None:
    known = [TRUTH, LOSS, ScoreName("other", "loss", Measure())]
    for text, message in (
        ("loss < 1", 'expected SCORE <= NUMBER * expert, "perplexity <= 1.02 * expert" say'),
        ("loss <= 1", "loss: several tasks have it; there are mc.truth, text.loss, other.loss"),
        ("speed <= 1", "speed: no such score; there are mc.truth"),
    ):
        with pytest.raises(ExtSubError) as error:
            Budget.parse(text, known)
        assert message in str(error.value)
    assert find_score("--score", "other.loss", known) == known[2]
    only_one = {"mc": {0: {"truth": 1.0}}}
    missing = "test" if half_of(0, 0) == "validation" else "validation"
    with pytest.raises(ExtSubError, match=f"its task has no {missing} part: it needs more items"):
        figure_on(only_one, TRUTH, missing, 0)


def test_halves_are_fixed_and_about_equal() -> None:
    share = sum(half_of(item, 3) == "test" for item in range(2000)) / 2000
    assert share == pytest.approx(0.5, abs=0.05)
    assert [half_of(item, 3) for item in range(50)] != [half_of(item, 4) for item in range(50)]
    assert not math.isnan(share)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--tasks truthfulqa-mc", "sweep needs --output"),
        ("--tasks truthfulqa-mc --output s --adapter expert", "sweep takes its adapters without --adapter"),
        ("--tasks nothing --output s", "nothing: no such task"),
        ("--tasks truthfulqa-mc --output s --score mc9", "--score mc9: no such score; there are truthfulqa-mc.mc1"),
        ("--tasks truthfulqa-mc --output s --budget mc1", "--budget"),
        ("--tasks truthfulqa-mc --output s --alphas up", "--alphas up: expected FROM:TO:STEP"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(pair: Path, extsub: Command, words: str, message: str) -> None:
    refused = extsub("sweep", "expert", "anti-expert", *DATA.split(), *words.split())
    assert refused.returncode == 2
    assert message in refused.stderr
    assert not Path("s").exists()


def test_adapters_of_different_bases_are_refused(pair: Path, extsub: Command) -> None:
    config = json.loads(Path("anti-expert/adapter_config.json").read_text())
    Path("anti-expert/adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "owner/other"}))
    refused = extsub("sweep", "expert", "anti-expert", "--tasks", "truthfulqa-mc", "--data", "data", "--output", "s")
    assert refused.returncode == 2
    assert "different base models" in refused.stderr
    assert not Path("s").exists()
