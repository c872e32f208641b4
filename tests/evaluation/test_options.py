"""Options belong to tasks: who has which, what is refused, and that results are known by them as before."""

from __future__ import annotations

import re
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest

import reference
from benchmark_files import done, results
from conftest import Command
from extsub import EvaluationSettings, ExtSubError, SweepSettings
from extsub.evaluation.tasks import TASKS, register_task, tasks_named
from extsub.evaluation.tasks.toxicity import ToxicityOptions
from extsub.sweeping.settings import swept_tasks

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries
TRUTH, INFO = (f"allenai/truthfulqa-{name}-judge-llama2-7B" for name in ("truth", "info"))


@dataclass(frozen=True)
class Options:
    """Of the task ``mine``."""

    depth: int = 3
    """How deep; from 1."""
    parts: tuple[str, ...] = ("a", "b")
    share: float | None = None
    way: Literal["up", "down"] = "up"
    folder: Path = Path("here")
    strict: bool = False

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ExtSubError(f"--depth {self.depth}: expected 1 or more")


@pytest.fixture(autouse=True)
def mine() -> Generator[None]:
    """A task with options of all types, and another that shares the classifier's."""
    register_task(replace(TASKS["perplexity"], name="mine", options=Options))
    register_task(replace(TASKS["toxicity"], name="rude"))
    yield
    del TASKS["mine"], TASKS["rude"]


def test_help_lists_every_option_under_its_tasks(extsub: Command) -> None:
    for command, more in (("evaluate", {"Of drift": "--reference STR The adapter to compare with"}), ("sweep", {})):
        shown = re.sub(r"[─│╭╮╰╯\s]+", " ", extsub(command, "--help").stdout)
        for title, text in {
            "Of truthfulqa-gen": "--truth-judge STR Model that says whether an answer is true",
            "Of toxicity, rude": "--toxicity-model STR Classifier with a label toxicity, a folder or hub id. [",
            "Of ability": "--lm-eval STR... Tasks of lm-evaluation-harness",
            "Of mine": "--depth INT How deep; from 1. [default: 3] --parts STR... [default: a b] --share FLOAT",
            **more,
        }.items():
            assert f"{title} {text}" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("toxicity --reference x", "--reference is for drift, which is not asked: leave it out, or ask that too"),
        (
            "drift --toxicity-model x",
            "--toxicity-model is for toxicity, rude, which is not asked: leave it out, or ask",
        ),
        ("toxicity --toxicty-model x", "Unknown option: --toxicty-model. Did you mean --toxicity-model?"),
        ("toxicity --limt 3", "Unknown option: --limt. Did you mean --limit?"),
        ("--lm-eval mmlu ability", "no task: ability was taken for a value of the option before it; write tasks first"),
        ("mine --depth x", "Invalid value for --depth"),
        ("mine --depth 0", "--depth 0: expected 1 or more"),
        ("mine --way left", 'Invalid value "left" for --way. Choose from: "up", "down".'),
    ],
)
def test_what_a_command_line_gives_in_vain(extsub: Command, words: str, message: str) -> None:
    refused = extsub("evaluate", *words.split())
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"Error: {message}")
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 3}, r"^--limit is not an option of a task: give it beside options, not in them$"),
        ({"limt": 3}, r"^--limt: no task has such an option; did you mean --limit\?$"),
        ({"dept": 3}, r"^--dept: no task has such an option; did you mean --depth\?$"),
        ({"Zz": 3}, r"^--Zz: no task has such an option; there are --truth-judge, "),
        ({"truth_judge": "none"}, r"^--truth-judge is for truthfulqa-gen, which is not asked"),
        ({"depth": 0}, r"^--depth 0: expected 1 or more$"),
        ({"depth": "3"}, r"^--depth is '3', expected a whole number$"),
        ({"depth": True}, r"^--depth is True, expected a whole number$"),
        ({"depth": 3.0}, r"^--depth is 3.0, expected a whole number$"),
        ({"parts": 3}, r"^--parts is 3, expected text"),
        ({"share": "half"}, r"^--share is 'half', expected a number$"),
        ({"way": "left"}, r"^--way is 'left', expected up, down$"),
        ({"folder": 3}, r"^--folder is 3, expected a path$"),
        ({"strict": 1}, r"^--strict is 1, expected true or false$"),
    ],
)
def test_what_python_gives_in_vain(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ExtSubError, match=message):
        tasks_named(["mine"], EvaluationSettings(options=options))


def test_plain_values_are_as_good_as_those_that_a_field_declares() -> None:
    given = {"parts": "c", "share": 1, "way": "down", "folder": "there", "strict": True}
    options = EvaluationSettings(options={**given, "truth_judge": "none"}).of(Options)
    assert options == Options(parts=("c",), share=1, way="down", folder=Path("there"), strict=True)
    assert EvaluationSettings(options={"parts": ["c", Path("d")], "share": None}).of(Options).parts == ("c", "d")


def test_a_sweep_has_not_all_options(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Clash:
        score: str = "x"

    settings = SweepSettings(tasks=("drift",), output=tmp_path / "o", options={"reference": "x"})
    with pytest.raises(ExtSubError, match=r"^a sweep has no --reference for drift: leave it out$"):
        swept_tasks(settings)
    register_task(replace(TASKS["perplexity"], name="clash", options=Clash))
    try:
        tasks_named(["clash"], EvaluationSettings(options={"score": "y"}))
        with pytest.raises(ExtSubError, match=r"^--score is a setting of the sweep and an option of a task: rename"):
            swept_tasks(SweepSettings(tasks=("clash",), output=tmp_path / "o"))
    finally:
        del TASKS["clash"]


def test_an_option_has_one_owner_and_a_default() -> None:
    @dataclass(frozen=True)
    class General:
        limit: int = 3

    @dataclass(frozen=True)
    class Theirs:
        depth: str = "x"

    @dataclass(frozen=True)
    class Needed:
        height: int

    for declared, message in (
        (General, "other has an option limit, and so has every evaluation: rename it"),
        (Theirs, "other has an option depth, and so has mine: rename it"),
        (Needed, "other has an option height without a default: give it one"),
    ):
        with pytest.raises(ExtSubError, match=f"^{message}$"):
            register_task(replace(TASKS["perplexity"], name="other", options=declared))
        assert "other" not in TASKS


def test_results_are_known_by_the_names_and_values_that_they_always_had(here: Path, extsub: Command) -> None:
    """These are those of results.json before options were the tasks'. A run that is not finished has the same."""
    reference.adapter(here / "base", here / "other", "lora", seed=9)
    common = "--adapter lora --limit 3 --max-new-tokens 2 --output out --data toxicity=data/toxic_test.json"
    more = "truthfulqa-gen=data/TruthfulQA.csv drift=data/rows.jsonl --reference other"
    judges = "--truth-judge none --info-judge none --toxicity-model judge"
    done(extsub(*f"evaluate truthfulqa-gen toxicity drift {common} {more} {judges}".split()))
    runs = results("out")["runs"]
    shared = {"prompt": "extsub", "limit": 3, "seed": 0, "dtype": "auto", "backend": "transformers", "url": None}
    own = {
        "truthfulqa-gen": {"max_new_tokens": 2, "truth_judge": "none", "info_judge": "none", "judge_url": None},
        "toxicity": {"field": {}, "max_new_tokens": 2, "toxicity_model": "judge"},
        "drift": {"field": {}, "reference": "other"},
    }
    for task, values in own.items():
        identity = runs[task]["identity"]
        recorded = {name: value for name, value in identity.items() if name not in ("data", "model")}
        assert recorded == {"task": task, **shared, **values}
    refused = extsub(*f"evaluate toxicity {common} --toxicity-model base".split())
    assert "out holds toxicity with another toxicity model ('judge', now 'base')" in refused.stderr
    defaults = {"max_new_tokens": None, "truth_judge": TRUTH, "info_judge": INFO, "judge_url": None}
    assert TASKS["truthfulqa-gen"].values(EvaluationSettings()) == defaults
    asked = EvaluationSettings(options={"lm_eval": ["a,b", "c"]})
    assert TASKS["ability"].values(asked) == {"lm_eval": ["a,b", "c"]}


def test_what_a_task_judges_with_is_checked_where_it_is_given() -> None:
    with pytest.raises(ExtSubError, match=r"^--toxicity-model: ./gone: no such folder"):
        ToxicityOptions("./gone")
