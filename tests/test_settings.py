"""What Python users naturally write is as good as what a field declares."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

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
