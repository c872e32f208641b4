"""A benchmark of one's own, as docs/evaluation.md shows it: evaluated, compared, swept and reported like ours."""

from __future__ import annotations

import re
from collections.abc import Generator
from functools import partial
from html import unescape
from pathlib import Path

import pytest

import benchmark_files
import reference
from benchmark_files import done, results, rows_of
from conftest import ROOT, Command
from extsub import EvaluationSettings, ExtSubError, evaluate
from extsub.evaluation.tasks import TASKS
from extsub.tasks import Measure, Task, register_task

PAGE = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
COUNTRIES = ("France", "Japan", "Peru", "Chad", "Cuba", "Iran", "Mali", "Oman", "Laos", "Togo", "Fiji", "Iraq")

forget = partial(benchmark_files.forget, "capitals")

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries


@pytest.fixture
def here(extsub: Command, tmp_path: Path) -> Generator[Path]:
    """The example and its data, a model with two adapters; afterwards the task is unknown again."""
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "register_task" in block)
    (tmp_path / "capitals.py").write_text(example)
    rows = [{"country": country, "capital": f"{country} City", "wrong": f"{country} Town"} for country in COUNTRIES]
    benchmark_files.lines(tmp_path / "capitals.jsonl", rows)
    model = benchmark_files.base(tmp_path / "base")
    for seed, name in enumerate(("expert", "better")):
        reference.adapter(model, tmp_path / name, "lora", seed=seed)
    yield tmp_path
    forget()


def commands() -> list[str]:
    lines = re.findall(r"^\$ extsub (.*capitals\.py.*)$", PAGE, re.MULTILINE)
    assert len(lines) == 2
    return lines


@pytest.mark.usefixtures("here")
def test_the_example_is_evaluated_and_compared(extsub: Command) -> None:
    evaluate, compare = commands()
    for command in (evaluate, compare):
        done(extsub(*command.split()))
        forget()
    for name in ("expert", "better"):
        figure = results(Path("results", name))["tasks"]["capitals"]["right"]
        items = rows_of(Path("results", name, "capitals.jsonl"))
        assert [item["country"] for item in items] == list(COUNTRIES)
        mean = sum(item["scores"]["right"] for item in items) / len(items)
        assert figure["value"] == pytest.approx(mean)
        assert figure["n"] == len(COUNTRIES)


@pytest.mark.usefixtures("here")
def test_its_option_is_one_like_ours(extsub: Command) -> None:
    """In help, on the command line, in Python; and what it changes is not taken for the same."""
    words = "evaluate capitals --task-file capitals.py --data capitals.jsonl --adapter expert --output results".split()
    shown = " ".join(extsub(*words, "--help").stdout.replace("│", " ").split())
    assert "--wording STR The question, with {} for the country. [default: What is the capital of {}?]" in shown
    forget()
    done(extsub(*words, "--wording", "{} has the capital"))
    items = rows_of(Path("results", "capitals.jsonl"))
    assert [item["question"] for item in items] == [f"{country} has the capital" for country in COUNTRIES]
    forget()
    assert "results holds capitals with another wording ('{} has the capital', now " in extsub(*words).stderr
    forget()
    settings = EvaluationSettings(
        task_file="capitals.py", data="capitals.jsonl", adapter="expert", options={"wording": "{} has the capital"}
    )  # type: ignore[arg-type]
    (record,) = evaluate("capitals", settings)
    assert record["tasks"] == results("results")["tasks"]
    refused = extsub("evaluate", "perplexity", "--task-file", "capitals.py", "--wording", "x")
    assert refused.stderr == "Error: --wording is for capitals, which is not asked: leave it out, or ask that too\n"


@pytest.mark.usefixtures("here")
def test_it_is_swept_and_reported(extsub: Command) -> None:
    words = "expert better --tasks capitals --task-file capitals.py --data capitals.jsonl --alphas 1 --output swept"
    done(extsub("sweep", *words.split(), "--wording", "{}?"))
    forget()
    refused = extsub("report", "swept")
    assert refused.returncode == 2
    assert "capitals is not a known task: say --task-file and the file that registers it" in refused.stderr
    done(extsub("report", "swept", "--task-file", "capitals.py"))
    page = unescape(Path("swept", "report.html").read_text())
    assert "--task-file capitals.py" in page
    assert "--wording '{}?'" in page


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.py", None, "--task-file none.py: expected a Python file (.py) that calls extsub.tasks.register_task"),
        ("task.txt", "x", "--task-file task.txt: expected a Python file (.py) that calls extsub.tasks.register_task"),
        ("empty.py", "import extsub", "--task-file empty.py registers nothing: call extsub.tasks.register_task in it"),
    ],
)
def test_a_file_that_is_no_task(extsub: Command, name: str, text: str | None, message: str) -> None:
    if text is not None:
        Path(name).write_text(text)
    refused = extsub("evaluate", "capitals", "--task-file", name, "--data", "capitals.jsonl", "--adapter", "expert")
    assert (refused.returncode, refused.stderr) == (2, f"Error: {message}\n")


@pytest.mark.usefixtures("here")
def test_a_fault_in_the_file_is_its_own(extsub: Command) -> None:
    Path("broken.py").write_text("1 / 0\n")
    words = "evaluate capitals --task-file broken.py --data capitals.jsonl --adapter expert"
    for _ in range(2):  # the second time too
        with pytest.raises(ZeroDivisionError):
            extsub(*words.split())


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ExtSubError, match="there is a task called drift already"):
        register_task(Task("drift", TASKS["drift"].read, TASKS["drift"].ask, {"x": Measure()}, needs="likelihoods"))
    register_task(TASKS["drift"])  # the same again changes nothing


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", ".hidden", "x.jsonl", "a\nb"])
def test_names_that_no_file_can_have(name: str) -> None:
    """Results lie in a file of the task's name."""
    with pytest.raises(ExtSubError, match="a task cannot be called"):
        register_task(Task(name, TASKS["drift"].read, TASKS["drift"].ask, {"x": Measure()}, needs="likelihoods"))
    assert name not in TASKS
