"""What people naturally type, or write in Python, is as good as what a field declares."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from conftest import Command
from extsub import EvaluationSettings, GenerationSettings, SweepSettings, TrainingSettings, evaluate


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(made)
    return made


def test_one_name_is_as_good_as_several(here: Path) -> None:
    plain = EvaluationSettings(adapter="lora", data="data", output="out")  # type: ignore[arg-type]
    assert plain == EvaluationSettings(adapter=("lora",), data=("data",), output=Path("out"))
    paths = EvaluationSettings(adapter=here / "lora", data=[here / "data"])  # type: ignore[arg-type]
    assert paths == EvaluationSettings(adapter=(str(here / "lora"),), data=(str(here / "data"),))


def test_texts_and_paths_are_exchangeable(here: Path, tmp_path: Path) -> None:
    prompts = next((here / "data").glob("*.jsonl"))
    generation = GenerationSettings(prompts=prompts, output=str(tmp_path / "a.jsonl"))  # type: ignore[arg-type]
    assert (generation.prompts, generation.output) == (str(prompts), tmp_path / "a.jsonl")
    training = TrainingSettings(model=here / "base", data=prompts, output="tt", target_modules="q_proj")  # type: ignore[arg-type]
    assert (training.model, training.output, training.target_modules) == (str(here / "base"), Path("tt"), ("q_proj",))
    swept = SweepSettings(tasks="perplexity", output="s", operations=["ext-sub", "amplify"])  # type: ignore[arg-type]
    assert (swept.tasks, swept.output, swept.operations) == (("perplexity",), Path("s"), ("ext-sub", "amplify"))


def test_what_is_declared_stays_as_it_is(here: Path) -> None:
    settings = EvaluationSettings(adapter=("lora", "lora"), limit=3, field={"answer": "said"}, batch_size=2)
    again = dataclasses.replace(settings)
    assert again == settings
    assert (again.adapter, again.limit, again.field, again.batch_size) == (("lora", "lora"), 3, {"answer": "said"}, 2)


@pytest.mark.filterwarnings("ignore")  # of the libraries
def test_one_task_is_as_good_as_several(here: Path) -> None:
    settings = EvaluationSettings(adapter="lora", data="data", limit=2)  # type: ignore[arg-type]
    one, several = evaluate("halueval-qa", settings), evaluate(["halueval-qa"], settings)
    assert one[0]["tasks"] == several[0]["tasks"]


def typed(words: str) -> Any:
    """The settings that a command line makes."""
    from extsub.cli import app

    _, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    return bound.arguments["settings"]


@pytest.mark.parametrize("given", ["a b", "a,b", "a --tasks b", "a, --tasks=b", ",a,,b,"])
def test_what_takes_several_takes_commas_and_repeats(given: str) -> None:
    settings = typed(f"sweep e x --output s --tasks {given} --operations amplify,add --search-over kinds,depth")
    assert (settings.tasks, settings.operations) == (("a", "b"), ("amplify", "add"))
    assert settings.search_over == ("kinds", "depth")


def test_commas_alone_are_nothing(extsub: Command) -> None:
    refused = extsub("sweep", "e", "x", "--output", "s", "--tasks", ",")
    assert refused.returncode == 2
    assert refused.stderr.startswith(
        "Error: Invalid value for --tasks: expected one or more, with commas between them."
    )


def test_so_do_modules_and_reports(here: Path) -> None:
    words = "--model base --data data/rows.jsonl --output o --kind ia3 --report-to none,tensorboard"
    settings = typed(f"train {words} --target-modules k_proj,down_proj v_proj --feedforward-modules down_proj")
    assert settings.target_modules == ("k_proj", "down_proj", "v_proj")
    assert (settings.feedforward_modules, settings.report_to) == (("down_proj",), ("none", "tensorboard"))


def test_a_path_may_hold_a_comma(here: Path, tmp_path: Path) -> None:
    rows = tmp_path / "a,b.jsonl"
    rows.touch()
    settings = typed(f"evaluate perplexity --adapter x,y z --adapter w --data {rows} {rows} --task-file t,u.py")
    assert settings.adapter == ("x,y", "z", "w")
    assert (settings.data, settings.task_file) == ((str(rows), str(rows)), ("t,u.py",))


@pytest.mark.parametrize("given", ["-1:1:0.5", "-.5,1", "-2"])
def test_a_grid_may_begin_below_0(given: str) -> None:
    for words in (f"--alphas {given} --tasks a", f"--tasks a --alphas={given}"):
        assert typed(f"sweep e x --output s {words}").alphas == given


@pytest.mark.parametrize(
    "given", ["instruction=q output=x,y=z", "instruction=q --field output=x,y=z", "instruction=q --field=output=x,y=z"]
)
def test_a_mapping_is_pairs_at_once_or_one_by_one(here: Path, given: str) -> None:
    words = f"train --field {given} --model base --data data/rows.jsonl --output o"
    assert typed(words).field == {"instruction": "q", "output": "x,y=z"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("output", "Invalid value for --field: expected OURS=THEIRS (output=answer), found output; what is not "),
        ("output=a output=b", "Invalid value for --field: output is there twice. Run"),
        ("output=a --field output=b", "Invalid value for --field: output is there twice. Run"),
    ],
)
def test_a_mapping_that_is_none(extsub: Command, given: str, message: str) -> None:
    refused = extsub("train", "--model", "m", "--data", "d", "--output", "o", "--field", *given.split())
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert refused.stderr.startswith(f"Error: {message}")


def test_one_spelling_of_a_mapping(extsub: Command) -> None:
    refused = extsub("generate", "--model", "m", "--prompts", "p", "--output", "o.jsonl", "--field.prompt=a")
    assert (refused.returncode, refused.stderr.partition(" Run")[0]) == (
        2,
        "Error: --field.prompt: say --field prompt=THEIRS.",
    )
