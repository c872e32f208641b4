"""A sweep's figures are those of combined adapters on disk; the choice never sees the items that it is reported on."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import reference
from benchmark_files import DYING, done, results, rows_of
from conftest import Command
from extsub import ExtSubError, SweepSettings, load_adapter
from extsub import sweep as sweep_in_python
from extsub.combination.profile import Profile
from extsub.evaluation.metrics import Measure, resampled, standard_error
from extsub.evaluation.store import Store
from extsub.evaluation.tasks import TASKS as TASKS_KNOWN
from extsub.evaluation.tasks import toxicity
from extsub.files.locks import locked
from extsub.inference.soundness import Sound, Soundness
from extsub.sweeping.budget import Budget, ScoreName, find_score, kept_part
from extsub.sweeping.grid import SweepPoint, parse_alphas, randomised, sweep_points
from extsub.sweeping.proposals import Space, propose
from extsub.sweeping.selection import Chooser, figure_on, half_of, too_few
from sweep_files import record_of

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries
TASKS = "truthfulqa-mc perplexity drift"
DATA = "--data data --data perplexity=data/rows.jsonl --data drift=data/rows.jsonl"


def sweep(extsub: Command, words: str) -> dict[str, Any]:
    done(extsub("sweep", "expert", "anti-expert", "--tasks", *TASKS.split(), *DATA.split(), *words.split()))
    return record_of()


def test_every_position_has_the_figures_of_the_adapter_on_disk(pair: Path, extsub: Command) -> None:
    record = sweep(extsub, "--output swept --operations ext-sub,subtract --alphas 0.5,2")
    asked = list(record["positions"])
    assert asked[:7] == [
        "base", "expert", "anti-expert", "ext-sub-0.5", "ext-sub-2", "subtract-0.5", "subtract-2"
    ]  # fmt: skip
    alpha = record["positions"][record["chosen"]["ext-sub"]["position"]]["alpha"]
    companions = [f"contrast-{alpha:g}", f"contrast-{alpha / 2:g}"]
    companions += [f"{name}-{alpha:g}" for name in ("amplify", "negated", "random")]
    assert set(asked[7:]) == {f"subtract-{alpha / 2:g}", *companions}
    assert set(record["chosen"]) == {"ext-sub", "subtract"}
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
                ours = record["positions"][name]["tasks"][task][score]
                assert ours["value"] == pytest.approx(figure["value"], rel=1e-4, abs=1e-5), (name, score)
                assert ours["n"] == figure["n"]
    assert record["positions"]["base"]["tasks"]["drift"]["kl_per_token"]["value"] == 0
    with Path("swept/sweep.csv").open() as file:
        table = list(csv.DictReader(file))
    assert len(table) == sum(
        len(scores) for position in record["positions"].values() for scores in position["tasks"].values()
    )
    row = next(row for row in table if (row["position"], row["score"]) == ("ext-sub-2", "mc2"))
    assert float(row["value"]) == record["positions"]["ext-sub-2"]["tasks"]["truthfulqa-mc"]["mc2"]["value"]


def test_every_position_is_asked_as_the_model_allows(
    pair: Path, extsub: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried once, with the adapter: all positions are alike."""
    tried: list[Any] = []

    def careful(model: Any) -> Soundness:
        tried.append(model.module)
        return Soundness(Sound(sharing=False, scoring="one"), Sound(sharing=False, scoring="one"))

    asked = "--tasks truthfulqa-mc --data data --operations ext-sub --alphas 0.5 --limit 6 --output swept"
    monkeypatch.setattr("extsub.inference.language_model.soundness_of", careful)
    done(extsub("sweep", "expert", "anti-expert", *asked.split()))
    assert len(tried) == 1
    assert hasattr(tried[0], "active_peft_config")
    for name in record_of()["positions"]:
        notes = results(f"swept/positions/{name}")["runs"]["truthfulqa-mc"]["notes"]
        assert any("scored one at a time" in note for note in notes)


def test_a_wider_grid_asks_only_what_is_new(pair: Path, extsub: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    first = sweep(extsub, "--output swept --operations ext-sub random --alphas 1")
    asked: list[str] = []
    turn = SweepPoint.set_on
    monkeypatch.setattr(SweepPoint, "set_on", lambda self, *rest: (asked.append(self.label), turn(self, *rest))[1])
    second = sweep(extsub, "--output swept --operations ext-sub random --alphas 0:2:1")
    assert asked[:2] == ["ext-sub-2", "random-2"]
    assert not set(asked) & set(first["positions"])
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
        np.testing.assert_allclose(drawn.row_norms(), delta.row_norms())
        assert np.array_equal(drawn.dense(), again.modules[name].read().dense())
        assert not np.allclose(drawn.dense(), other.modules[name].read().dense())
        cosine = drawn.row_dots(delta) / (drawn.row_norms() * delta.row_norms())
        assert np.abs(cosine).mean() < 0.5


def test_grids() -> None:
    assert parse_alphas("0:1:0.25") == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert parse_alphas("-1,0.5,0.5") == (-1.0, 0.5)
    assert parse_alphas("2:0:-1") == (2.0, 1.0, 0.0)
    assert parse_alphas("-1:-2.5:-1") == (-1.0, -2.0)
    assert SweepPoint("ext-sub", 1.0000001).label != SweepPoint("ext-sub", 1.0).label
    assert [point.label for point in sweep_points(("ext-sub", "negated"), (0.0, 0.5))] == [
        "base", "expert", "anti-expert", "ext-sub-0.5", "negated-0.5"
    ]  # fmt: skip
    for given in ("1:0:0.5", "0:1:0", "one", "0:1"):
        with pytest.raises(ExtSubError, match="--alphas"):
            parse_alphas(given)
    with pytest.raises(ExtSubError, match="--operations divide: there are ext-sub, subtract"):
        sweep_points(("divide",), (1.0,))


@pytest.mark.slow
def test_a_search_goes_between_the_points_and_is_compared_with_the_grid(
    pair: Path, extsub: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "--output swept --operations ext-sub --alphas 0.5,2 --search 3 --search-over kinds depth --choose best"
    record = sweep(extsub, words)
    search = record["search"]
    assert (search["operation"], search["over"], search["trials"]) == ("ext-sub", ["kinds", "depth"], 3)
    assert len(search["tried"]) == 3
    expert, base = (scores_on_disk("expert"), scores_on_disk("base"))
    known = {trial["position"]: trial for trial in search["tried"]}
    for label, trial in known.items():
        assert set(trial["profile"]["kinds"]) == {"down_proj", "q_proj", "v_proj"}
        assert all(0 <= value <= 2 for value in trial["profile"]["kinds"].values())
        chooser = Chooser(expert, base, MC2, None, 0, "best")
        assert trial["validation"] == chooser.on_validation(scores_on_disk(label))[0]
        Path("profile.json").write_text(json.dumps(trial["profile"]))
        done(extsub("combine", "expert", "anti-expert", "--profile", "profile.json", "-o", f"combined-{label}"))
        asked = f"evaluate truthfulqa-mc --data data --adapter combined-{label} --output r-{label}"
        done(extsub(*asked.split()))
        rows = rows_of(Path(f"r-{label}/truthfulqa-mc.jsonl"))
        mine = scores_on_disk(label)["truthfulqa-mc"]
        for row in rows:
            assert mine[(row["index"], 0)]["mc2"] == pytest.approx(row["scores"]["mc2"], abs=1e-4)
    best = search["best"]
    values = {label: trial["validation"] for label, trial in known.items()}
    values |= {
        label: Chooser(expert, base, MC2, None, 0, "best").on_validation(scores_on_disk(label))[0] for label in GRID
    }
    assert values[best["position"]] == max(values.values())
    assert (search["against_grid"] is None) == (best["position"] == search["grid"])
    assert Path("swept/profile.json").exists() == (best["position"] in known)
    monkeypatch.setattr(SweepPoint, "set_on", lambda *_: pytest.fail("asked again"))
    assert sweep(extsub, words) == record


def start(*python: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-W", "ignore", *python], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_two_processes_and_a_killed_sweep_find_what_one_finds(pair: Path, extsub: Command) -> None:
    words = ["sweep", "expert", "anti-expert", "--tasks", "truthfulqa-mc", "perplexity", *DATA.split()[:4]]
    words += [*"--operations ext-sub,subtract --alphas 0.5,1 --search 2 --budget".split(), "perplexity <= 99 * expert"]
    done(extsub(*words, "--output", "one"))
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "extsub"]
    two = start(*launcher, *words, "--output", "two", "--json")
    assert two.returncode == 0, two.stderr
    killed = start("-c", DYING, "40", *words, "--output", "killed")
    assert killed.returncode == -signal.SIGKILL
    assert not Path("killed/sweep.json").exists()
    done(extsub(*words, "--output", "killed"))
    records = [record_of(name) for name in ("one", "two", "killed")]
    assert json.loads(two.stdout)["search"] == records[1]["search"]
    for other in records[1:]:
        assert other["positions"].keys() == records[0]["positions"].keys()
        for label, position in records[0]["positions"].items():
            for task, scores in position["tasks"].items():
                for score, figure in scores.items():
                    value = other["positions"][label]["tasks"][task][score]["value"]
                    assert value == pytest.approx(figure["value"], rel=1e-4, abs=1e-5), (label, score)
        tried = [[trial["position"] for trial in record["search"]["tried"]] for record in (records[0], other)]
        assert tried[0] == tried[1]
        assert {name: choice["position"] for name, choice in other["chosen"].items()} == {
            name: choice["position"] for name, choice in records[0]["chosen"].items()
        }


MC2 = ScoreName("truthfulqa-mc", "mc2", TASKS_KNOWN["truthfulqa-mc"].measure("mc2"))
GRID = ("ext-sub-0.5", "ext-sub-2")


def scores_on_disk(label: str) -> dict[str, dict[Any, Any]]:
    rows = rows_of(Path(f"swept/positions/{label}/truthfulqa-mc.jsonl"))
    return {"truthfulqa-mc": {(row["index"], 0): row["scores"] for row in rows}}


def test_a_search_finds_the_top_of_a_hill_within_the_budget() -> None:
    """Score 1 - (α - 1.3)², budget α <= 1.1: the best is at the edge, and the grid has neither."""
    grid = [SweepPoint("ext-sub", alpha) for alpha in (0.5, 1.0, 1.5, 2.0)]
    asked = []

    def evaluate(position: SweepPoint) -> tuple[float, float]:
        asked.append(position)
        alpha = position.alpha or 0.0
        return 1 - (alpha - 1.3) ** 2, alpha - 1.1

    space = Space.of("ext-sub", grid, ["model.layers.0.q_proj"], ["alpha"])
    proposed = propose(space, grid, 20, 0, evaluate, maximize=True)
    assert asked[:4] == grid
    assert len(proposed) == 20
    best = max((point for point in proposed if (point.alpha or 0) <= 1.1), key=lambda point: point.alpha or 0)
    assert 1.0 < (best.alpha or 0) <= 1.1
    assert propose(space, grid, 20, 0, evaluate, maximize=True) == proposed
    kinds = Space.of("ext-sub", grid, ["a.0.q_proj", "a.1.v_proj"], ["kinds", "depth"])
    assert [kinds.kinds, kinds.ramp, kinds.highest] == [("q_proj", "v_proj"), True, 2.0]
    asked.clear()
    propose(kinds, grid, 1, 0, lambda point: (asked.append(point), (math.nan, 0.0))[1], maximize=False)
    assert asked[:4] == grid  # as points of the grid, not asked anew
    assert asked[4].profile


TRUTH = ScoreName("mc", "truth", Measure())
LOSS = ScoreName("text", "loss", Measure(better="lower"))
ITEMS = range(40)


def at(alpha: float) -> SweepPoint:
    return SweepPoint("a", alpha)


def scores(validation: float, test: float, loss: float) -> dict[str, dict[int, dict[str, float]]]:
    """The same score on every item of a half."""
    truth = {"validation": validation, "test": test}
    return {
        "mc": {item: {"truth": truth[half_of(item, 0)]} for item in ITEMS},
        "text": {item: {"loss": loss} for item in ITEMS},
    }


def test_the_choice_is_the_best_on_validation_within_the_budget_and_reported_on_test() -> None:
    candidates = {at(1): scores(0.6, 0.1, 1.0), at(2): scores(0.8, 0.5, 1.1), at(3): scores(0.9, 0.9, 2.0)}
    expert, base = scores(0.5, 0.3, 1.0), scores(0.2, 0.2, 3.0)
    budget = Budget.parse("loss <= 1.2 * expert", [TRUTH, LOSS])
    chosen = Chooser(expert, base, TRUTH, budget, 0, "best").choose("a", candidates)
    assert (chosen.position, chosen.closest, chosen.best) == ("a-2", "a-2", "a-2")
    assert chosen.validation
    assert chosen.test
    assert chosen.budget_test
    assert chosen.against_expert
    assert (chosen.validation.value, chosen.test.value, chosen.budget_test.value) == (0.8, 0.5, pytest.approx(1.1))
    assert chosen.validation.n + chosen.test.n == len(ITEMS)
    assert chosen.against_expert["value"] == pytest.approx(0.2)
    assert Chooser(expert, base, TRUTH, None, 0, "best").choose("a", candidates).position == "a-3"
    lower = Chooser(expert, base, LOSS, None, 0, "best").choose("a", candidates)
    assert lower.position == "a-1"


def test_a_budget_that_nothing_meets_says_what_came_closest() -> None:
    candidates = {at(1): scores(0.6, 0.1, 1.5), at(2): scores(0.8, 0.5, 1.3)}
    budget = Budget.parse("text.loss<=1.1", [TRUTH, LOSS])
    chosen = Chooser(scores(0, 0, 1), scores(0, 0, 1), TRUTH, budget, 0, "best").choose("a", candidates)
    assert (chosen.position, chosen.closest, chosen.test) == (None, "a-2", None)


LOG = ScoreName("text", "perplexity", Measure(better="lower", perplexity=True))


@pytest.mark.parametrize(
    ("text", "base", "expert", "limit", "sign"),
    [
        ("keeps 50% of perplexity", 4.0, 1.0, 2.0, "<="),  # half of ln 4 is ln 2
        (" keeps 25 %  of text.perplexity ", 16.0, 1.0, 8.0, "<="),
        ("keeps 75% of truth", 0.2, 0.6, 0.5, ">="),
        ("keeps 50% of loss", 3.0, 1.0, 2.0, "<="),
        ("keeps 100% of loss", 3.0, 1.0, 1.0, "<="),
        ("keeps 0% of truth", 0.2, 0.6, 0.2, ">="),
        ("keeps 62.5% of truth", 0.0, 0.8, 0.5, ">="),
    ],
)
def test_a_part_of_the_gain_is_a_limit(text: str, base: float, expert: float, limit: float, sign: str) -> None:
    budget = Budget.parse(text, [TRUTH, LOSS, LOG])
    number = budget.limit({"base": base, "expert": expert})
    assert (number, budget.sign) == (pytest.approx(limit), sign)
    part = kept_part(limit, base, expert, budget.name.measure)
    assert f"{100 * part:g}%" == text.split(" of")[0].replace("keeps", "").replace(" ", "")
    worse = number + 0.01 if sign == "<=" else number - 0.01
    assert budget.excess(worse, number) == pytest.approx(0.01)
    assert budget.excess(limit, number) <= 0  # also where rounding says otherwise
    assert math.isnan(budget.limit({"base": expert, "expert": base}))
    assert math.isnan(budget.limit({"base": base, "expert": base}))


def test_a_budget_of_the_gain_chooses_as_the_limit_that_it_means() -> None:
    """Of a loss from 3 to 1, 90 % is left at 1.2."""
    candidates = {at(1): scores(0.6, 0.1, 1.0), at(2): scores(0.8, 0.5, 1.2), at(3): scores(0.9, 0.9, 1.21)}
    expert, base = scores(0.5, 0.3, 1.0), scores(0.2, 0.2, 3.0)
    for text in ("keeps 90% of loss", "loss <= 1.2", "loss <= 1.2 * expert", "loss <= 0.4 * base"):
        chooser = Chooser(expert, base, TRUTH, Budget.parse(text, [TRUTH, LOSS]), 0, "best")
        assert chooser.limit == pytest.approx(1.2)
        assert chooser.choose("a", candidates).position == "a-2"
    refused = Chooser(base, expert, TRUTH, Budget.parse("keeps 90% of loss", [TRUTH, LOSS]), 0, "best")
    with pytest.raises(ExtSubError) as error:
        refused.choose("a", candidates)
    assert str(error.value) == (
        "--budget keeps 90% of loss: on the items to choose by the expert (3) is not better than the base (1), so "
        'there is no gain to keep; give a limit, "loss <= 1.02 * expert" say'
    )


def curve(**behind: tuple[float, float]) -> dict[SweepPoint, dict[str, dict[int, dict[str, float]]]]:
    """By how much the score of the first, third, ... and of the other items that choose lies below 0.5."""
    chosen_by = [item for item in range(1000) if half_of(item, 0) == "validation"][:20]
    others = [item for item in range(1000) if half_of(item, 0) == "test"][:20]
    return {
        at(float(name[1:].replace("_", "."))): {
            "mc": {
                **{item: {"truth": 0.5 - gap[place % 2]} for place, item in enumerate(chosen_by)},
                **{item: {"truth": 0.5} for item in others},
            }
        }
        for name, gap in behind.items()
    }


def test_the_smallest_strength_within_one_standard_error_of_the_best() -> None:
    """Of 20 differences that are x and y by turns the mean is (x + y) / 2, its standard error |x - y| / 2 / √19.

    α 0.5 is 0.1 behind, ± 0.2 / √19 = 0.046; α 1 is 0.01 behind, ± 0.29 / √19 = 0.067; α 1.5 is the best; α 2 is 0.03
    behind, ± 0.046; α 0.25 is nothing but 0.001 behind, and that on every item, so nobody can doubt it.
    """
    rising = curve(a0_25=(0.001, 0.001), a0_5=(0.3, -0.1), a1=(0.3, -0.28), a1_5=(0.0, 0.0), a2=(0.23, -0.17))
    choosers = {rule: Chooser({}, {}, TRUTH, None, 0, rule) for rule in ("best", "one-se")}
    expert = curve(a0=(0.2, 0.2))[at(0)]
    for rule, position in (("best", "a-1.5"), ("one-se", "a-1")):
        chosen = replace(choosers[rule], expert=expert).choose("a", rising)
        assert (chosen.position, chosen.best) == (position, "a-1.5"), rule
    behind = {
        point.alpha: [[0.5 - each["truth"] for each in scored["mc"].values()][:20], [0.0] * 20]
        for point, scored in rising.items()
    }
    assert standard_error(*behind[0.5], Measure()) == pytest.approx(0.2 / 19**0.5)
    assert standard_error(*behind[1.0], Measure()) == pytest.approx(0.29 / 19**0.5)
    lower = ScoreName("mc", "truth", Measure(better="lower"))
    falling = {
        point: {"mc": {item: {"truth": 1 - each["truth"]} for item, each in scored["mc"].items()}}
        for point, scored in rising.items()
    }
    assert Chooser(expert, expert, lower, None, 0, "one-se").choose("a", falling).position == "a-1"
    mirrored = {at(-point.alpha): scored for point, scored in rising.items() if point.alpha}
    assert Chooser(expert, expert, TRUTH, None, 0, "one-se").choose("a", mirrored).position == "a--1"


def test_one_standard_error_keeps_the_budget_and_a_single_item_says_nothing() -> None:
    """α 1 is as good as α 1.5, and too dear."""
    rising = curve(a1=(0.3, -0.28), a1_5=(0.0, 0.0))
    for position, scores_of_it in rising.items():
        loss = 2.0 if position.alpha == 1 else 1.0
        scores_of_it["text"] = {item: {"loss": loss} for item in scores_of_it["mc"]}
    dear = Budget.parse("loss <= 1.5", [LOSS])
    expert = rising[at(1.5)]
    assert Chooser(expert, expert, TRUTH, dear, 0, "one-se").choose("a", rising).position == "a-1.5"
    assert math.isnan(standard_error([0.5], [0.6], Measure()))
    assert standard_error([0.5, None, 0.7], [0.5, 0.1, 0.9], Measure()) == pytest.approx(0.1)  # differences 0 and 0.2


def test_the_standard_error_of_a_perplexity_is_that_of_a_bootstrap() -> None:
    random = np.random.default_rng(0)
    tokens = random.integers(5, 60, 400)
    losses = [random.normal(mean, 0.4, 400) for mean in (1.0, 1.1)]
    first, second = ([[float(n * loss), float(n)] for n, loss in zip(tokens, row, strict=True)] for row in losses)
    measure = Measure(better="lower", perplexity=True)
    draws = resampled([{"a": a, "b": b} for a, b in zip(first, second, strict=True)], ["a", "b"], measure, 0)[1:]
    assert standard_error(first, second, measure) == pytest.approx((draws[:, 1] - draws[:, 0]).std(), rel=0.05)


def test_a_profile_counts_by_its_mean_factor() -> None:
    assert SweepPoint("ext-sub", -0.5).strength == 0.5
    assert SweepPoint("ext-sub", 1.0, Profile({"q_proj": 0.2, "v_proj": 0.6}, 0.3)).strength == pytest.approx(0.4)
    assert SweepPoint("ext-sub", 0.7, Profile(ramp=0.3)).strength == 0.7


def test_too_few_items_to_choose_by_are_counted() -> None:
    items = [(item, sample) for item in range(1000) for sample in range(2)]
    known: dict[Any, Any] = {}
    for key in items:
        if len({item for item, sample in known if half_of((item, sample), 0) == "validation"}) == 49:
            break
        known[key] = {"truth": 1.0}
    said = "only 49 items of mc to choose by, and fewer than 50 are too few to choose by"
    assert too_few(known, TRUTH, 0) == said
    unscored = next(key for key in items[::-1] if half_of(key, 0) == "validation")
    assert too_few({**known, unscored: {"truth": None}}, TRUTH, 0) == said
    assert too_few({**known, unscored: {"truth": 0.0}}, TRUTH, 0) == ""
    single = next(key for key in items if half_of(key, 0) == "validation")
    assert "only 1 item of mc to choose by" in too_few({single: {"truth": 1.0}}, TRUTH, 0)


def test_a_gain_that_is_none_is_refused_before_the_grid_is_asked(pair: Path, extsub: Command) -> None:
    """No expert drifts less from the base than the base."""
    words = "--tasks truthfulqa-mc drift --data data drift=data/rows.jsonl --alphas 1,2 --output s --budget".split()
    refused = extsub("sweep", "expert", "anti-expert", *words, "keeps 90% of kl_per_token")
    assert refused.returncode == 2
    assert "--budget keeps 90% of kl_per_token: on the items to choose by the expert (" in refused.stderr
    assert 'give a limit, "kl_per_token <= 1.02 * expert" say' in refused.stderr
    assert {path.name for path in Path("s/positions").iterdir()} == {"base", "expert"}
    assert not Path("s/sweep.json").exists()


def test_another_rule_asks_nothing_again_and_few_items_are_said(
    pair: Path, extsub: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "--tasks truthfulqa-mc --data data --operations subtract --alphas 0.5,1 --output swept".split()
    said = done(extsub("sweep", "expert", "anti-expert", *words))
    record = record_of()
    assert (record["score"], record["settings"]["choose"]) == ("truthfulqa-mc.mc2", "one-se")
    assert "The smallest α within one standard error of the best truthfulqa-mc.mc2, chosen on one half" in said
    count = sum(half_of(key, 0) == "validation" for key in scores_on_disk("base")["truthfulqa-mc"])
    note = f"only {count} items of truthfulqa-mc to choose by, and fewer than 50 are too few to choose by"
    assert record["notes"][-1] == note
    assert f"note: {note}" in said.replace("\n", " ")
    monkeypatch.setattr(SweepPoint, "set_on", lambda *_: pytest.fail("asked again"))
    said = done(extsub("sweep", "expert", "anti-expert", *words, "--choose", "best"))
    assert "The α with the best truthfulqa-mc.mc2, chosen on one half" in said
    best = record_of()["chosen"]["subtract"]
    assert best["position"] == best["best"] == record["chosen"]["subtract"]["best"]
    refused = extsub("sweep", "expert", "anti-expert", *words, "--choose", "luck")
    assert refused.returncode == 2


def test_what_cannot_be_chosen_by_is_refused() -> None:
    known = [TRUTH, LOSS, ScoreName("other", "loss", Measure())]
    for text, message in (
        ("loss < 1", 'expected SCORE <= NUMBER * expert ("perplexity <= 1.02 * expert") or keeps NUMBER% of SCORE'),
        ("keeps 90 of truth", 'keeps NUMBER% of SCORE ("keeps 90% of perplexity")'),
        ("keeps -5% of truth", 'keeps NUMBER% of SCORE ("keeps 90% of perplexity")'),
        ("keeps 101% of truth", "expected at most 100 % of what the expert gained"),
        ("keeps 90% of speed", "--budget speed: no such score; there are mc.truth"),
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--tasks truthfulqa-mc --output s --search -1", "--search -1: expected 0 or more"),
        ("--tasks truthfulqa-mc --output s --search 2 --operations random", "--search goes between the strengths"),
        ("--tasks truthfulqa-mc", "sweep needs --output"),
        ("--tasks truthfulqa-mc --output s --adapter expert", "sweep takes its adapters without --adapter"),
        ("--tasks nothing --output s", "nothing: no such task"),
        ("--tasks truthfulqa-mc --output s --score mc9", "--score mc9: no such score; there are truthfulqa-mc.mc2"),
        ("--tasks truthfulqa-mc --output s --budget mc1", "--budget"),
        ("--tasks truthfulqa-mc --output s --alphas up", "--alphas up: expected FROM:TO:STEP"),
        ("--tasks truthfulqa-mc --output s --alphas 0", "--alphas: all are 0, which is the expert"),
        ("--tasks truthfulqa-mc --output s --limit 1", "truthfulqa-mc: its 1 items have no"),
        ("--tasks truthfulqa-mc --output s --seed -1", "--seed -1: expected 0 or more"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(pair: Path, extsub: Command, words: str, message: str) -> None:
    refused = extsub("sweep", "expert", "anti-expert", *DATA.split(), *words.split())
    assert refused.returncode == 2
    assert message in refused.stderr
    assert not Path("s").exists()


def test_a_file_that_no_sweep_wrote_stays(pair: Path, extsub: Command) -> None:
    words = "--tasks truthfulqa-mc --data data --operations ext-sub --alphas -1 --output own".split()
    Path("own").mkdir()
    Path("own/profile.json").write_text('{"ramp": 0.3}')
    refused = extsub("sweep", "expert", "anti-expert", *words)
    assert (refused.returncode, "own/profile.json is in the way, and no sweep wrote it" in refused.stderr) == (2, True)
    assert [path.name for path in Path("own").iterdir()] == ["profile.json"]
    Path("own/profile.json").unlink()
    done(extsub("sweep", "expert", "anti-expert", *words))
    assert "ext-sub--1" in record_of("own")["positions"]


def test_progress_counts_the_items_of_all_positions(pair: Path) -> None:
    """One bar for the grid, so that it knows how long all of it takes; asked again, nothing is left."""
    bars: list[list[Any]] = []

    @contextlib.contextmanager
    def counting(name: str, total: int, done: int) -> Generator[Callable[[int], None]]:
        bars.append([name, total, done])

        def advance(number: int) -> None:
            bars[-1][2] += number

        yield advance

    settings = SweepSettings(
        tasks=("truthfulqa-mc", "halueval-qa"),
        data=("data",),
        output=Path("swept"),
        operations=("ext-sub",),
        alphas="1",
    )
    sweep_in_python("expert", ["anti-expert"], settings, counting)
    items = sum(len(Path(f"swept/positions/base/{task}.jsonl").read_text().splitlines()) for task in settings.tasks)
    assert bars[0] == ["4 positions", 4 * items, 4 * items]
    assert bars[1:] == [["7 positions", 7 * items, 7 * items]]
    bars.clear()
    sweep_in_python("expert", ["anti-expert"], settings, counting)
    assert [total - done for _, total, done in bars] == [0, 0]


def test_every_anti_expert_has_a_random_counterpart(pair: Path, extsub: Command) -> None:
    reference.adapter((pair / "base").resolve(), pair / "other", "lora", 7)
    values = []
    for anti_experts in (["anti-expert"], ["anti-expert", "other"]):
        output = f"swept-{len(anti_experts)}"
        words = ["--tasks", "perplexity", "--data", "data/rows.jsonl", "--operations", "random", "--alphas", "1"]
        done(extsub("sweep", "expert", *anti_experts, *words, "--output", output))
        record = record_of(output)
        values.append(record["positions"]["random-1"]["tasks"]["perplexity"]["perplexity"]["value"])
    assert values[0] != values[1]


def test_who_stops_a_search_is_told_that_the_grid_is_kept(
    pair: Path, extsub: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = SweepPoint.set_on

    def stopped(self: SweepPoint, *rest: Any) -> None:
        if self.operation == "ext-sub" and self.alpha not in (0.5, 1.0):
            raise KeyboardInterrupt
        turn(self, *rest)

    monkeypatch.setattr(SweepPoint, "set_on", stopped)
    words = "--tasks truthfulqa-mc --operations ext-sub --alphas 0.5,1 --search 2 --output s".split()
    run = extsub("sweep", "expert", "anti-expert", *words, "--data", "data")
    assert run.returncode == 130
    assert run.stderr == "Error: interrupted; what was asked is kept: the same command goes on from there\n"


def test_adapters_of_different_bases_are_refused(pair: Path, extsub: Command) -> None:
    config = json.loads(Path("anti-expert/adapter_config.json").read_text())
    Path("anti-expert/adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "owner/other"}))
    refused = extsub("sweep", "expert", "anti-expert", "--tasks", "truthfulqa-mc", "--data", "data", "--output", "s")
    assert refused.returncode == 2
    assert "different base models" in refused.stderr
    assert not Path("s").exists()


@pytest.mark.slow
def test_many_positions_need_few_open_files(pair: Path, extsub: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock for each, or a file of each that a judge is asked for, and a thousand of them would be too many."""
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(toxicity, "classify", lambda _, texts, *__: ((index, {"toxicity": 0.5}) for index in texts))
    words = "--tasks toxicity --toxicity-model judge --limit 6 --max-new-tokens 1 --operations ext-sub --data data"
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_files = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 80
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files + 20, limits[1]))
    try:
        done(extsub("sweep", "expert", "anti-expert", *words.split(), "--alphas", "0.04:1:0.04", "--output", "swept"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(record_of()["positions"]) > 27


def test_who_stops_a_sweep_while_it_writes_is_told_what_is_kept(
    pair: Path, extsub: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All was asked, and no position is complete yet."""
    words = ["sweep", "expert", "anti-expert", *"--tasks perplexity --operations ext-sub --alphas 1".split()]
    words += "--data data/rows.jsonl --output s".split()
    with monkeypatch.context() as patched:
        patched.setattr(Store, "finish", lambda *_: signal.raise_signal(signal.SIGTERM))
        stopped = extsub(*words)
    items = (1 + 2 + 1) * len(rows_of(Path("data/rows.jsonl")))
    message = f"Error: terminated; {items} items are saved: the same command goes on from there\n"
    assert (stopped.returncode, stopped.stderr) == (143, message)
    with monkeypatch.context() as patched:
        patched.setattr(Store, "forget", lambda *_: signal.raise_signal(signal.SIGTERM))
        stopped = extsub(*words)
    message = "Error: terminated; what was asked is kept: the same command goes on from there\n"
    assert (stopped.returncode, stopped.stderr) == (143, message)
    done(extsub(*words))
    assert not list(Path("s").rglob(".*"))


def test_two_sweeps_into_one_folder_are_told_apart(pair: Path, extsub: Command) -> None:
    """Also through a link to it."""
    Path("s").mkdir()
    Path("link").symlink_to("s")
    words = "--tasks perplexity --data data/rows.jsonl --alphas 1 --output"
    with locked(Path("s"), Path("s")):
        for name in ("s", "link"):
            run = extsub("sweep", "expert", "anti-expert", *words.split(), name)
            assert run.returncode == 2
            assert run.stderr.endswith("s is being written by another run: wait for it\n")
