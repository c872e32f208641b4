"""Methods of reference in a sweep: asked beside the operations, shown, and never to be combined."""

from __future__ import annotations

import csv
import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

import reference
import sweep_files
from benchmark_files import CHAT, done, rows_of
from conftest import Command
from extsub import ExtSubError, SweepSettings
from extsub.evaluation.tasks import TASKS
from extsub.report.page import write_report
from extsub.report.provenance import commands
from extsub.report.reading import read_sweep
from extsub.report.tradeoff import draw
from extsub.sweeping.grid import SweepPoint
from extsub.sweeping.references import reference_points, told
from extsub.sweeping.settings import swept_tasks
from sweep_files import record_of

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries
METHODS = ("icd", "dexperts", "prompt")
WORDS = (
    "sweep expert anti-expert --tasks truthfulqa-mc drift --data data --data drift=questions.jsonl --limit 6".split()
)
GRID = "--operations ext-sub --alphas 0.5,1 --output swept".split()


@pytest.fixture
def pair(pair: Path) -> Path:
    """With questions of an own, too."""
    (pair / "questions.jsonl").write_text('{"instruction": "Who wrote the book?"}\n{"instruction": "When, so?"}\n')
    return pair


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made-up") / "made-up"
    sweep_files.made_up(folder, items=60, alphas=(0.5, 1.0, 2.0), operations=("ext-sub",), references=METHODS)
    return folder


@pytest.fixture
def copy(made_up: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made_up, tmp_path / "made-up"))


def items(label: str, task: str = "truthfulqa-mc") -> list[dict[str, Any]]:
    return rows_of(Path(f"swept/positions/{label}/{task}.jsonl"))


def test_a_sweep_asks_them_on_top_of_what_it_had(pair: Path, extsub: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    done(extsub(*WORDS, *GRID))
    before = record_of()
    assert not {"references", "compared"} & before.keys()
    turned, turn = [], SweepPoint.set_on
    monkeypatch.setattr(SweepPoint, "set_on", lambda self, *rest: (turned.append(self.label), turn(self, *rest))[1])
    said = done(extsub(*WORDS, *GRID, "--references", *METHODS))
    assert "icd 2, dexperts 3, prompt 1 forward passes a token" in said
    record = record_of()
    assert set(turned) == {"base", "expert", "anti-expert"}
    assert (record["positions"], record["chosen"]) == (before["positions"], before["chosen"])
    labels = ["icd-0.5", "icd-1", "dexperts-0.5", "dexperts-1", "prompt"]
    assert list(record["references"]) == labels
    assert [point["passes"] for point in record["references"].values()] == [2, 2, 3, 3, 1]
    compared = {name: choice["position"] in labels for name, choice in record["compared"].items()}
    assert compared == dict.fromkeys(METHODS, True)
    values = {point["tasks"]["truthfulqa-mc"]["mc2"]["value"] for point in record["references"].values()}
    assert len(values) == len(labels)
    with Path("swept/sweep.csv").open() as file:
        table = list(csv.DictReader(file))
    figure = record["references"]["icd-0.5"]["tasks"]["truthfulqa-mc"]["mc2"]["value"]
    (row,) = (row for row in table if (row["position"], row["score"]) == ("icd-0.5", "mc2"))
    assert (row["operation"], float(row["alpha"]), float(row["value"])) == ("icd", 0.5, figure)
    monkeypatch.setattr(SweepPoint, "set_on", lambda *_: pytest.fail("asked again"))
    done(extsub(*WORDS, *GRID, "--references", *METHODS))
    assert record_of() == record


def test_their_figures_are_those_of_models_loaded_apart(pair: Path, extsub: Command) -> None:
    """Choices, and drift, where ``prompt`` is compared with a base that is told nothing."""
    done(extsub(*WORDS, *GRID, "--references", *METHODS, "--system", "Tell the truth."))
    beta, told_first = 0.5, "<|system|>\nTell the truth.\n"
    with ExitStack() as stack:
        models = {
            name: stack.enter_context(reference.evaluated(Path("base").resolve(), path and Path(path)))
            for name, path in (("base", None), ("expert", "expert"), ("anti", "anti-expert"))
        }
        base, expert, anti = models.values()

        def logits(label: str, tokens: list[int]) -> torch.Tensor:
            gap = beta * (expert.logits(tokens) - anti.logits(tokens)) if label != "prompt" else 0
            return (base if label.startswith("dexperts") else expert).logits(tokens) + gap

        for label in ("icd-0.5", "dexperts-0.5", "prompt"):
            for row in items(label)[:3]:
                assert row["prompt"].startswith(told_first) == (label == "prompt")
                for choice, total in zip(row["choices"], row["log_likelihoods"], strict=True):
                    tokens, start = expert.encoded(row["prompt"], choice)
                    each = logits(label, tokens).log_softmax(-1)
                    wanted = sum(float(each[place - 1, tokens[place]]) for place in range(start, len(tokens)))
                    assert total == pytest.approx(wanted, rel=1e-5, abs=1e-5)
            for row in items(label, "drift"):
                asked = f"<|user|>\n{row['messages'][0][1]}\n<|assistant|>\n"
                first = told_first * (label == "prompt") + asked
                ours, theirs = (
                    logits[-1].log_softmax(-1)
                    for logits in (
                        logits(label, expert.tokenizer(first)["input_ids"]),
                        base.logits(base.tokenizer(asked)["input_ids"]),
                    )
                )
                wanted = float((theirs.exp() * (theirs - ours)).sum())
                assert row["scores"]["kl_first_token"] == pytest.approx(wanted, rel=1e-4, abs=1e-5)


def test_answers_are_made_with_them(pair: Path, extsub: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extsub.evaluation.tasks.toxicity.classify", lambda _, texts, *__: (
        (index, {"toxicity": len(text) / 100}) for index, text in texts.items()
    ))  # fmt: skip
    words = "--tasks toxicity --toxicity-model judge --limit 6 --max-new-tokens 8 --data data".split()
    done(extsub("sweep", "expert", "anti-expert", *words, *GRID, "--references", *METHODS))
    said = {
        label: [row["answer"] for row in items(label, "toxicity")] for label in ("expert", *record_of()["references"])
    }
    assert all(answer != said["expert"] for label, answer in said.items() if label != "expert")


def test_grid_and_names() -> None:
    assert [point.label for point in reference_points(METHODS, (0.0, 0.5, 2.0))] == [
        "icd-0.5", "icd-2", "dexperts-0.5", "dexperts-2", "prompt"
    ]  # fmt: skip
    with pytest.raises(ExtSubError, match="--references cd: there are icd, dexperts, prompt"):
        reference_points(("cd",), (1.0,))


def test_nothing_of_them_can_be_combined(pair: Path, extsub: Command, copy: Path) -> None:
    for words, said in (
        ("combine expert anti-expert --operation icd --output x".split(), "operation must be one of ext-sub"),
        ((*WORDS, *GRID, "--operations", "icd"), "--operations icd: there are ext-sub"),
    ):
        refused = extsub(*words)
        assert (refused.returncode, said in refused.stderr) == (2, True), refused.stderr
    again = commands(read_sweep(copy))
    assert [line.split()[1] for line in again] == ["sweep", "report", "combine"]
    assert "--references icd dexperts prompt --system 'Tell the truth.'" in again[0]
    assert "--operation ext-sub" in again[2]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--tasks perplexity --data data/rows.jsonl --references prompt",
         "--references prompt: perplexity has no system message against what it shows: say it with --system TEXT"),
        ("--tasks truthfulqa-mc --data data --system x",
         "--system TEXT is what --references prompt tells the expert: give both, or neither"),
        ("--tasks truthfulqa-mc --data data --references prompt --prompt qa",
         "--references prompt: --prompt qa has no place for a system message; leave that reference out, or ask "
         "everybody with --prompt extsub, which takes one"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_refused_before_any_work(pair: Path, extsub: Command, words: str, said: str) -> None:
    refused = extsub("sweep", "expert", "anti-expert", *words.split(), *GRID)
    assert (refused.returncode, refused.stderr) == (2, f"Error: {said}\n")
    assert not Path("swept").exists()


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHAT,
         "--prompt chat: the tokenizer's chat template refuses a conversation: no system"),
        (CHAT.replace("{% for one in messages %}", "{% for one in messages if one.role != 'system' %}"),
         "--prompt chat leaves the system message out or rewrites it"),
    ],
)  # fmt: skip
def test_a_chat_template_without_a_place_for_it_is_refused(
    pair: Path, extsub: Command, template: str, said: str
) -> None:
    config = json.loads(Path("chatting/tokenizer_config.json").read_text())
    names = {path.name: path.read_bytes() for path in Path("chatting").iterdir()}
    Path("mute").mkdir()
    for name, content in names.items():
        if name != "chat_template.jinja":
            Path("mute", name).write_bytes(content)
    Path("mute/tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
    words = "--model mute --prompt chat --tasks truthfulqa-mc --data data --references prompt".split()
    refused = extsub("sweep", "expert", "anti-expert", *words, *GRID)
    assert (refused.returncode, said in refused.stderr) == (2, True), refused.stderr


def test_what_asks_the_model_itself_is_refused(tmp_path: Path) -> None:
    settings = SweepSettings(tasks="ability", references="icd", output=tmp_path / "x", options={"lm_eval": ("mmlu",)})
    with pytest.raises(ExtSubError, match="--references icd cannot be asked ability, which asks the model itself"):
        swept_tasks(settings)


def test_every_deficiency_has_a_message() -> None:
    """Of the score's task; what the user says comes first."""
    shows = {name for name, task in TASKS.items() if task.system}
    assert shows >= {"truthfulqa-mc", "truthfulqa-gen", "halueval-qa", "flattery", "toxicity"}
    settings = SweepSettings(tasks="flattery", references="prompt", output="x")
    assert told(settings, TASKS["flattery"]).system == TASKS["flattery"].system
    said = SweepSettings(tasks="flattery", references="prompt", output="x", system="Be plain.")
    assert told(said, TASKS["flattery"]).system == "Be plain."
    assert told(SweepSettings(tasks="flattery", output="x"), TASKS["flattery"]).system is None


def test_the_page_shows_them_for_reference(copy: Path) -> None:
    record, written = record_of(copy), write_report(copy)
    beside = " ".join(written["beside"])
    beta = record["references"][record["compared"]["icd"]["position"]]["alpha"]
    assert f"ICD, chosen in the same way (β = {beta:g}), " in beside
    assert "For reference; forward passes for each token: 2, of Ext-Sub: 1." in beside
    assert record["compared"]["dexperts"]["position"] is None
    assert "No strength of DExperts keeps the budget." in beside
    page, text = (copy / "report.html").read_text(), (copy / "report.md").read_text()
    assert "methods of reference, which no adapter holds" in page
    assert "The message: “Tell the truth.”" in text
    part = text.split("## Without touching weights")[1].split("## ")[0]
    rows = [line.split(" | ") for line in part.splitlines() if line.startswith("| ") and "model" not in line]
    assert [row[0].strip("| *") for row in rows] == ["expert", "ext-sub", *["icd"] * 3, *["dexperts"] * 3, "prompt"]
    assert {row[0].strip("| *"): row[-1].rstrip(" |") for row in rows} == {
        "expert": "1", "ext-sub": "1", "icd": "2", "dexperts": "3", "prompt": "1"
    }  # fmt: skip
    assert [(row[0].strip("| "), row[1]) for row in rows if "same rule" in row[1]] == [("icd", f"{beta:g} same rule")]
    picture = draw(read_sweep(copy))
    for label in record["references"]:
        assert picture.count(f'data-position="{label}"') == 1
    assert 'class="curve op-icd method"' in picture
    assert "icd, β = 0.5\n" in picture


@pytest.mark.parametrize("without", ["references", "compared"])
def test_a_sweep_without_them_is_read(copy: Path, without: str) -> None:
    """As an extsub wrote it that knew none; half of them is no such sweep."""
    record = record_of(copy)
    old = {name: value for name, value in record.items() if name not in ("references", "compared")}
    sweep_files.write(copy, old)
    sweep = read_sweep(copy)
    assert (sweep.methods, list(sweep.points)) == ([], list(record["positions"]))
    assert "method" not in draw(sweep).partition("</style>")[2]
    sweep_files.write(copy, {name: value for name, value in record.items() if name != without})
    with pytest.raises(ExtSubError, match=r"sweep.json was not written by extsub sweep"):
        read_sweep(copy)


def test_a_record_that_names_others_is_refused(copy: Path) -> None:
    record = record_of(copy)
    icd = record["references"]["icd-1"]
    for spoilt in (
        {"references": {"../icd-1": icd}, "compared": {"icd": record["compared"]["icd"]}},
        {"references": {**record["references"], "icd-2": icd}},
        {"references": {**record["references"], "ext-sub-1": {**icd, "operation": "ext-sub"}}},
        {"references": []},
        {"compared": {**record["compared"], "icd": {"position": "ext-sub-1", "closest": "ext-sub-1"}}},
        {"chosen": {**record["chosen"], "icd": record["compared"]["icd"]}},
    ):
        sweep_files.write(copy, {**record, **spoilt})
        with pytest.raises(ExtSubError, match=r"sweep.json was not written by extsub sweep"):
            read_sweep(copy)
