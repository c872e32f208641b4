"""General ability: what lm-evaluation-harness counts on the model in memory, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

import benchmark_files
import reference
from benchmark_files import results, rows_of
from conftest import Command
from extsub.inference.soundness import Sound, Soundness

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries

TASK = """task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
output_type: multiple_choice
test_split: test
doc_to_text: "Q: {{{{q}}}}\\nA:"
doc_to_choice: "{{{{options}}}}"
doc_to_target: label
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""


@pytest.fixture
def tasks(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two tasks of the harness in a folder."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", here / "cache")
    folder = here / "tasks"
    folder.mkdir()
    for name, count in (("small", 9), ("other", 4)):
        rows = [
            {
                "q": f"Who wrote book {number}?",
                "options": ["nobody " * number, f"the river {name}"],
                "label": number % 2,
            }
            for number in range(1, 1 + count)
        ]
        path = benchmark_files.lines(here / f"{name}.jsonl", rows)
        (folder / f"{name}.yaml").write_text(TASK.format(name=name, rows=path))
    return folder


def by_the_harness(made: Path, tasks: Path, limit: int | None) -> dict[str, float]:
    """Its own mean, of a model of our own."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    tokenizer = AutoTokenizer.from_pretrained(made / "base")
    tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(made / "base")
    model = peft.PeftModel.from_pretrained(model, str(made / "lora")).merge_and_unload()
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1)
    theirs = simple_evaluate(harness, tasks=["small", "other"], task_manager=manager, limit=limit, bootstrap_iters=0)
    return {name: scores["acc,none"] for name, scores in theirs["results"].items()}


@pytest.mark.parametrize("limit", [pytest.param(None, marks=pytest.mark.slow), 3])
def test_the_accuracy_is_the_harness_own(made: Path, tasks: Path, evaluate: Command, limit: int | None) -> None:
    """--limit counts documents of a task, not tasks; and other tasks may have data of their own."""
    words = f"--lm-eval small,other --data halueval-qa=data/qa_data.json --data ability=tasks --limit {limit}"
    run = evaluate(f"halueval-qa ability --adapter lora --output out {words.replace(' --limit None', '')}")
    assert run.returncode == 0, run.stderr
    figures = results("out")["tasks"]["ability"]
    wanted = by_the_harness(made, tasks, limit)
    assert {name: figures[f"{name}/acc"]["value"] for name in wanted} == wanted
    assert [figure["n"] for figure in figures.values()] == ([9, 4] if limit is None else [3, 3])
    for row in rows_of(Path("out/ability.jsonl")):
        mean = sum(sample["scores"][f"{row['task']}/acc"] for sample in row["samples"]) / len(row["samples"])
        assert mean == pytest.approx(wanted[row["task"]])


@pytest.mark.parametrize("adapter", ["prefix", pytest.param(None, marks=pytest.mark.slow)])
def test_a_complete_task_of_the_harness_is_not_run_again(
    tasks: Path, evaluate: Command, monkeypatch: pytest.MonkeyPatch, adapter: str | None
) -> None:
    words = f"ability --lm-eval small --data tasks --output out {f'--adapter {adapter}' if adapter else '--model base'}"
    run = evaluate(words)
    assert run.returncode == 0
    assert "fatal" not in run.stderr  # git's word, which the harness asks for the commit of a folder that has none
    with monkeypatch.context() as patched:
        patched.setattr("extsub.inference.language_model.load_base", None)
        assert evaluate(words).returncode == 0
    assert evaluate(f"{words} --limit 2").returncode == 2
    (tasks / "small.yaml").write_text((tasks / "small.yaml").read_text() + "# another\n")
    changed = evaluate(words)
    assert changed.returncode == 2
    assert changed.stderr.startswith("Error: out holds ability with another data ('")
    assert results("out")["runs"]["ability"]["items"] == 1


@pytest.mark.slow
def test_the_harness_asks_as_the_model_allows(tasks: Path, evaluate: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.models.huggingface import HFLM

    sizes: list[Any] = []
    original = HFLM.__init__

    def spied(harness: Any, *given: Any, batch_size: Any, **more: Any) -> None:
        sizes.append(batch_size)
        original(harness, *given, batch_size=batch_size, **more)

    monkeypatch.setattr(HFLM, "__init__", spied)
    words = "ability --lm-eval small --data tasks"
    reference.adapter(Path("base").resolve(), Path("prompt"), "prompt")
    for adapter, size in (("lora", 16), ("prompt", 1)):  # virtual tokens would stand before padding
        assert evaluate(f"{words} --adapter {adapter} --output out/{adapter}").returncode == 0
        assert sizes.pop() == size
        notes = results(f"out/{adapter}")["runs"]["ability"]["notes"]
        assert any("in batches of equal length" in note for note in notes) == (size == 1)
    without = Soundness(Sound(cache=False), Sound(cache=False))
    monkeypatch.setattr("extsub.inference.language_model.soundness_of", lambda _: without)
    refused = evaluate(f"{words} --model base")
    assert refused.returncode == 2
    assert "ability: lm-evaluation-harness generates with a cache, and with one llama does not" in refused.stderr
