"""Answers to files of prompts, from a model in this process and from a server."""

from __future__ import annotations

import csv
import datetime
import decimal
import json
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pytest
import torch
from pyarrow import parquet

import benchmark_files
import reference
from benchmark_files import done, results, rows_of
from conftest import Command
from extsub import ExtSubError, GenerationSettings
from extsub import generate as generate_in_python
from extsub.evaluation import generate as room
from extsub.evaluation.judges import PROBE
from extsub.evaluation.run import Run
from extsub.evaluation.store import Store
from extsub.inference import server as module
from killing import at_every_change, needs_fork
from reference import rendered

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries
SERVED = "--backend openai --model served --url"


@pytest.fixture
def generate(here: Path, extsub: Command) -> Command:
    """Runs ``extsub generate`` on words."""
    return lambda words: extsub("generate", *words.split())


@pytest.fixture
def served() -> Iterator[benchmark_files.Server]:
    with benchmark_files.serving() as server:
        yield server


def greedy(made: Path, adapter: str, texts: list[str], most: int) -> list[str]:
    """What PEFT's own model generates, one prompt at a time."""
    with reference.evaluated(made / "base", made / adapter) as evaluated:
        tokenizer, said = evaluated.tokenizer, []
        for text in texts:
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            new = evaluated.module.generate(input_ids=ids, max_new_tokens=most, do_sample=False, pad_token_id=1)
            said.append(tokenizer.decode(new[0, ids.shape[1] :], skip_special_tokens=True).strip())
    return said


QUESTIONS = ["Who wrote the book?", "When was the river named?", "What is it, nobody knows"]


def prompt_file(path: Path) -> Path:
    if path.suffix == ".txt":
        path.write_text("\n".join([*QUESTIONS[:1], "", *QUESTIONS[1:]]))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("number", "instruction"), *enumerate(QUESTIONS)])
    elif path.suffix == ".json":
        path.write_text(json.dumps([{"number": number, "prompt": text} for number, text in enumerate(QUESTIONS)]))
    else:
        messages = [[{"role": "user", "content": question}] for question in QUESTIONS]
        benchmark_files.lines(path, [{"number": number, "messages": talk} for number, talk in enumerate(messages)])
    return path


@pytest.mark.parametrize(
    ("adapter", "suffix"),
    [("lora", ".json"), ("prefix", ".jsonl"), ("lora", ".csv"), ("lora", ".txt")],
)
def test_the_answers_are_those_of_the_model(made: Path, generate: Command, suffix: str, adapter: str) -> None:
    prompts = prompt_file(Path(f"prompts{suffix}"))
    shown = done(generate(f"--adapter {adapter} --prompts {prompts} --output new/out.jsonl --max-new-tokens 9"))
    rows, texts = rows_of(Path("new/out.jsonl")), [rendered(question) for question in QUESTIONS]
    assert [row["prompt"] for row in rows] == texts
    assert [row["answer"] for row in rows] == greedy(made, adapter, texts, 9)
    assert [row["index"] for row in rows] == [0, 1, 2]
    if suffix != ".txt":
        assert [int(row["number"]) for row in rows] == [0, 1, 2]
    assert [path.name for path in Path("new").iterdir()] == ["out.jsonl"]
    assert "new/out.jsonl" in shown


def test_json_says_how_many_answers_were_cut(generate: Command) -> None:
    words = "--model base --prompts data/toxic_test.json --output out.jsonl --max-new-tokens 3 --json"
    shown, rows = json.loads(done(generate(words))), rows_of(Path("out.jsonl"))
    assert shown["output"] == "out.jsonl"
    assert (shown["prompts"], shown["shortened"]) == (6, 0)
    assert shown["unfinished"] == sum(not row["finished"] for row in rows) > 0
    assert shown["model"]["adapter"] is None
    asked = json.loads(Path("data/toxic_test.json").read_text())
    assert [(row["instruction"], row["input"]) for row in rows] == [(row["instruction"], row["input"]) for row in asked]
    assert rows[1]["prompt"] == rendered(f"{asked[1]['instruction']} {asked[1]['input']}")


def test_generated_texts_can_be_evaluated(generate: Command, extsub: Command) -> None:
    done(generate("--model base --prompts data/toxic_test.json --output out.jsonl --max-new-tokens 12"))
    done(extsub("evaluate", "repetition", "--model", "base", "--data", "out.jsonl", "--output", "counted"))
    assert [row["text"] for row in rows_of(Path("counted/repetition.jsonl"))] == [
        row["answer"] for row in rows_of(Path("out.jsonl"))
    ]


def test_an_interrupted_run_goes_on(here: Path, generate: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "--adapter lora --prompts data/toxic_test.json --max-new-tokens 5 --batch-size 2 --output"
    add, saved = Store.add, []

    def counting(self: Store, identity: dict[str, Any], row: dict[str, Any]) -> None:
        if len(saved) == 2:
            signal.raise_signal(signal.SIGINT)
        add(self, identity, row)
        saved.append(row["index"])

    with monkeypatch.context() as patched:
        patched.setattr(Store, "add", counting)
        run = generate(f"{words} out.jsonl")
    message = "Error: interrupted; 2 items are saved: the same command goes on from there\n"
    assert (run.returncode, run.stderr) == (130, message)
    assert not (here / "out.jsonl").exists()
    other = generate(f"{words} out.jsonl --prompt none")
    assert other.returncode == 2
    assert "another prompt ('extsub', now 'none'): choose another output, or pass --overwrite" in other.stderr
    saved += [None]  # more than 2
    monkeypatch.setattr(Store, "add", counting)
    done(generate(f"{words} out.jsonl"))
    assert len(saved) == 2 + 1 + 4
    assert {*saved} == {None, *range(6)}
    done(generate(f"{words} whole.jsonl"))
    assert Path("out.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    assert not list(here.glob(".*"))


@needs_fork
@pytest.mark.parametrize("before", ["", "old"])
def test_a_run_that_is_killed_at_its_end_leaves_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    """Before each change of the disk; nobody is asked anything."""

    def ask(runs: list[Run], *_: object) -> None:
        rows = [{"index": n, "prompt": "p", "answer": f"{n}", "finished": True, "shortened": False} for n in range(6)]
        (run,) = runs
        for row in rows:
            if row["index"] in run.unasked:
                run.store.add(run.identity, row)
        run.rows.update({row["index"]: row for row in rows})
        run.store.close()

    def work() -> None:
        asked = {"model": "base", "prompts": "data/toxic_test.json", "backend": "transformers"}
        generate_in_python(GenerationSettings(**asked, output=output, overwrite=bool(before)))

    def prepare() -> None:
        output.write_text(before) if before else output.unlink(missing_ok=True)

    def check() -> None:
        contents.append(output.read_text() if output.exists() else "")
        is_there = contents[-1] not in ("", before)
        if is_there and not before:
            with pytest.raises(ExtSubError, match="already exists"):
                work()
        else:
            work()
        assert [row["answer"] for row in rows_of(output)] == [*"012345"]
        assert not list(folder.glob(".*"))

    monkeypatch.chdir(here)
    monkeypatch.setattr(room, "ask_all", ask)
    folder, contents = here / "new", []
    folder.mkdir()
    output = folder / "out.jsonl"
    assert at_every_change(work, prepare, check) > 8
    whole = output.read_text()
    assert contents == [before] * contents.count(before) + [whole] * contents.count(whole)
    assert contents.count(whole) >= 3


def test_answers_of_a_run_that_is_to_replace_an_output_are_not_taken_for_what_is_left(
    generate: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted --overwrite, then the same without: the old output and the answers both stay."""
    Path("out.jsonl").write_text("old")
    words = "--model base --prompts data/toxic_test.json --max-new-tokens 2 --output out.jsonl"
    with monkeypatch.context() as patched:
        patched.setattr(room.Store, "finish", lambda *_: signal.raise_signal(signal.SIGINT))
        stopped = generate(f"{words} --overwrite")
    assert stopped.stderr == "Error: interrupted; 6 items are saved: the same command goes on from there\n"
    refused = generate(words)
    assert "already exists" in refused.stderr
    assert Path("out.jsonl").read_text() == "old"
    monkeypatch.setattr("extsub.inference.language_model.load_base", None)  # nothing is asked again
    done(generate(f"{words} --overwrite"))
    assert len(rows_of(Path("out.jsonl"))) == 6


def test_who_stops_it_when_the_output_is_there_is_told_so(generate: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_clear", lambda *_: signal.raise_signal(signal.SIGTERM))
    stopped = generate("--model base --prompts data/toxic_test.json --max-new-tokens 2 --output out.jsonl")
    assert (stopped.returncode, stopped.stderr) == (143, "Error: terminated; out.jsonl is written\n")
    assert len(rows_of(Path("out.jsonl"))) == 6


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (datetime.date(2024, 1, 2), "a date"),
        (datetime.datetime(2024, 1, 2), "a datetime"),
        (decimal.Decimal("1.5"), "a Decimal"),
        (b"bytes", "a bytes"),
        ({"deep": [{"when": datetime.timedelta(1)}]}, "a timedelta"),
        (math.nan, "NaN or an infinite number"),
        ([1.0, -math.inf], "NaN or an infinite number"),
    ],
    ids=lambda value: str(type(value).__name__),
)
def test_a_column_that_is_no_json_is_refused_before_anybody_is_asked(
    here: Path, generate: Command, monkeypatch: pytest.MonkeyPatch, value: object, said: str
) -> None:
    """A Parquet file holds what JSON does not, and all rows are written again when all answers are made."""
    monkeypatch.setattr("extsub.inference.language_model.load_base", None)
    rows = [{"prompt": "Who?", "when": None}, {"prompt": "When?", "when": value}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), "prompts.parquet")
    before = sorted(here.rglob("*"))
    run = generate("--model base --prompts prompts.parquet --output out.jsonl")
    message = (
        f"prompts.parquet, row 2: field 'when' holds {said}, which JSON does not know: make it text, or leave it out"
    )
    assert (run.returncode, run.stderr) == (2, f"Error: {message}\n")
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"prompt": "a", "x": NaN}', "field 'x' holds NaN or an infinite number"),
        ('{"prompt": "a", "x": "\\ud800"}', "field 'x' holds half a character (a lone surrogate)"),
        ('{"prompt": "a", "\\ud800": 1}', "field '\\ud800' holds half a character (a lone surrogate)"),
    ],
)
def test_so_is_json_that_is_not_quite(generate: Command, line: str, said: str) -> None:
    Path("prompts.jsonl").write_text('{"prompt": "b", "x": 1}\n' + line + "\n")
    run = generate("--model nowhere/at-all --prompts prompts.jsonl --output out.jsonl")
    assert (run.returncode, run.stderr.startswith(f"Error: prompts.jsonl, line 2: {said}, which JSON")) == (2, True)


def test_fields_of_theirs_that_are_called_like_ours_are_kept_under_another_name(generate: Command) -> None:
    """As in data that has the right answers; ``given_answer`` is taken already."""
    theirs = {"index": 7, "answer": "Paris", "finished": "yes", "given_answer": 1, "prompt": "Who?", "other": None}
    benchmark_files.lines(Path("prompts.jsonl"), [theirs, {"prompt": "When?"}])
    shown = done(generate("--model base --prompts prompts.jsonl --output out.jsonl --max-new-tokens 2"))
    first, second = rows_of(Path("out.jsonl"))
    assert (first["given_index"], first["given_given_answer"], first["given_finished"]) == (7, "Paris", "yes")
    assert (first["given_answer"], first["given_prompt"], first["other"]) == (1, "Who?", None)
    assert (first["index"], first["prompt"], first["finished"]) == (0, rendered("Who?"), False)
    assert second.keys() == {"index", "prompt", "answer", "finished", "shortened", "given_prompt"}
    assert "note: the prompts have a field answer of their own: it is given_given_answer there" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--output full.jsonl", "full.jsonl already exists: choose another output, or pass --overwrite to replace it"),
        ("--output folder.jsonl --overwrite", "folder.jsonl is a folder: give the name of a .jsonl file"),
        ("--output link.jsonl --overwrite", "link.jsonl is a link: give the name of a .jsonl file"),
        ("--output out.json", "--output out.json: give the name of a .jsonl file"),
        ("--output out", "--output out: give the name of a .jsonl file"),
        ("--prompts nowhere.txt", "nowhere.txt: no such file, and not a dataset of the hub (owner/name or "
         "owner/name@revision)"),
        ("--prompts blank.txt", "blank.txt is blank: give one that holds text"),
        ("--prompts data/answers.jsonl", "data/answers.jsonl, line 1: expected instruction (and perhaps input), or "
         "prompt, or messages; found answer: say which is the question with --field prompt=NAME"),
        ("--field prompt=nosuch", "--field prompt=nosuch: data/toxic_test.json has no field 'nosuch'; it has "
         "instruction, input"),
        ("--adapter lora --adapter prefix", "generate asks one adapter at a time"),
        ("--max-new-tokens 0", "--max-new-tokens 0: expected 1 or more"),
        ("--max-new-tokens 1024", "the model takes 1,024 tokens in all: lower --max-new-tokens 1024"),
    ],
)  # fmt: skip
def test_what_it_refuses_leaves_nothing(here: Path, generate: Command, words: str, message: str) -> None:
    Path("full.jsonl").touch()
    Path("blank.txt").write_text(" \n")
    Path("folder.jsonl").mkdir()
    Path("link.jsonl").symlink_to("full.jsonl")
    before = sorted(here.rglob("*"))
    for option, value in {"--output": "out.jsonl", "--prompts": "data/toxic_test.json", "--model": "base"}.items():
        words += "" if option in words else f" {option} {value}"
    run = generate(words)
    assert (run.returncode, run.stdout, run.stderr) == (2, "", f"Error: {message}\n")
    assert sorted(here.rglob("*")) == before


def test_an_output_is_replaced_when_told_to(generate: Command) -> None:
    Path("out.jsonl").write_text("old")
    done(generate("--model base --prompts data/toxic_test.json --output out.jsonl --max-new-tokens 2 --overwrite"))
    assert len(rows_of(Path("out.jsonl"))) == 6


@pytest.mark.parametrize("prompt", ["extsub", "qa", "none", "chat"])
def test_a_server_is_asked_for_greedy_answers(generate: Command, served: benchmark_files.Server, prompt: str) -> None:
    prompts = prompt_file(Path("prompts.jsonl"))

    def answer(text: str) -> tuple[str, str]:
        time.sleep(0.2 if "book" in text.rpartition("Q:")[2] else 0)  # the first comes last
        return f"  about {text.rpartition('Q:')[2][-30:]}\nQ: and?", "length" if "river" in text else "stop"

    served.answer = answer
    done(generate(f"{SERVED} {served.url} --prompts {prompts} --output out.jsonl --prompt {prompt} --max-new-tokens 7"))
    rows = rows_of(Path("out.jsonl"))
    assert [row["finished"] for row in rows] == [True, False, True]
    for row, question in zip(rows, QUESTIONS, strict=True):
        (asked,) = [
            sent for sent in served.asked if question in (sent.get("prompt") or sent["messages"][-1]["content"])
        ]
        assert (asked["model"], asked["temperature"], asked["max_tokens"]) == ("served", 0.0, 7)
        said, _ = answer(row["prompt"] if prompt != "chat" else question)
        assert row["answer"] == (said.partition("\nQ:")[0] if prompt == "qa" else said).strip()
        if prompt == "chat":
            assert asked["path"] == "/v1/chat/completions"
            assert asked["messages"] == [{"role": "user", "content": question}]
            assert row["prompt"] is None
        else:
            assert asked["path"] == "/v1/completions"
            assert asked["prompt"] == row["prompt"]
            assert asked["prompt"].endswith(f"Q: {question}\nA:" if prompt == "qa" else question) or prompt == "extsub"


def test_what_a_server_says_once_it_recovers_counts(generate: Command, served: benchmark_files.Server) -> None:
    served.failures = 2
    prompts = prompt_file(Path("prompts.txt"))
    done(generate(f"{SERVED} {served.url} --prompts {prompts} --output out.jsonl"))
    assert len(served.asked) == 3 + 2
    wanted = [f"{len(rendered(question))} letters" for question in QUESTIONS]
    assert [row["answer"] for row in rows_of(Path("out.jsonl"))] == wanted


def test_a_server_that_does_not_know_the_model_is_named(
    here: Path, generate: Command, served: benchmark_files.Server
) -> None:
    before = sorted(here.rglob("*"))
    words = f"--backend openai --model other --url {served.url} --prompts data/toxic_test.json --output out.jsonl"
    run = generate(words)
    assert run.returncode == 2
    assert run.stderr.startswith(f"Error: {served.url}, model other: ")
    assert "The model `other` does not exist." in run.stderr
    assert run.stderr.endswith("; is the server up, and is that its name?\n")
    assert sorted(here.rglob("*")) == before


def test_a_server_that_is_down_is_named(here: Path, generate: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRIES", 0)
    before = sorted(here.rglob("*"))
    run = generate(f"{SERVED} http://127.0.0.1:9/v1 --prompts data/toxic_test.json --output out.jsonl")
    message = "http://127.0.0.1:9/v1, model served: Connection error.; is the server up, and is that its name?"
    assert (run.returncode, run.stderr) == (2, f"Error: {message}\n")
    assert sorted(here.rglob("*")) == before


def test_answers_of_a_server_are_measured(evaluate: Command, served: benchmark_files.Server) -> None:
    asked = f"{SERVED} {served.url} --output out --max-new-tokens 5"
    done(evaluate(f"toxicity {asked} --data data --toxicity-model judge"))
    rows = rows_of(Path("out/toxicity.jsonl"))
    assert [row["answer"] for row in rows] == [f"{len(row['prompt'])} letters" for row in rows]
    assert results("out")["model"]["served_name"] == "served"
    figure = results("out")["tasks"]["toxicity"]["toxicity"]
    assert figure["value"] == pytest.approx(sum(row["scores"]["toxicity"] for row in rows) / 6)
    assert {body["max_tokens"] for body in served.asked} == {5}


def test_judges_say_how_true_the_answers_are(made: Path, evaluate: Command, served: benchmark_files.Server) -> None:
    """Each question is answered with its best answer, with one that is false, or not at all."""
    with (made / "data" / "TruthfulQA.csv").open(newline="") as file:
        questions = list(csv.DictReader(file))
    said = {
        row["Question"]: (row["Best Answer"], row["Best Incorrect Answer"], "I have no comment.")[number % 3]
        for number, row in enumerate(questions)
    }
    served.answer = lambda prompt: (next(text for question, text in said.items() if question in prompt), "stop")
    asked = f"truthfulqa-gen {SERVED} {served.url} --data data --output"
    done(evaluate(f"{asked} judged --truth-judge base --info-judge none"))
    rows = rows_of(Path("judged/truthfulqa-gen.jsonl"))
    assert [row["answer"] for row in rows] == list(said.values())
    with reference.evaluated(made / "base", None) as judge:
        for number, row in enumerate(rows):
            text = f"Q: {row['question']}\nA: {row['answer']}\nTrue:"
            yes, no = (judge.plainly(text, word)[0] for word in (" yes", " no"))
            assert row["judged"] == {"truth": pytest.approx(1 / (1 + math.exp(no - yes)), abs=1e-4)}
            scores = row["scores"]
            assert scores["truth"] == (yes > no)
            assert "info" not in scores
            assert scores["no_comment"] == scores["evasive"] == (number % 3 == 2)
            is_false = number % 3 == 1
            assert scores["rouge1_acc"] == scores["rougeL_acc"] == (not is_false)
            assert (scores["rouge1_diff"] < 0) == is_false
            assert is_false or scores["rouge1_max"] == scores["rougeL_max"] == pytest.approx(100)
    served.model, served.asked = "truthful", []
    served.answer = lambda prompt: (" Yes" if prompt.endswith("True:") else " no", "stop")
    judges = f"--truth-judge truthful --info-judge truthful --judge-url {served.url}"
    done(evaluate(f"truthfulqa-gen --model base --data data --output other --max-new-tokens 4 {judges}"))
    rows = rows_of(Path("other/truthfulqa-gen.jsonl"))
    asked = {f"Q: {row['question']}\nA: {row['answer']}\n{end}" for row in rows for end in ("True:", "Helpful:")}
    assert served.asked[0]["prompt"] == PROBE  # before answers are made
    assert {body["prompt"] for body in served.asked} == {PROBE, *asked}
    figures = results("other")["tasks"]["truthfulqa-gen"]
    assert [figures[name]["value"] for name in ("truth", "info", "truth_and_info")] == [1, 0, 0]


def test_without_judges_there_is_likeness_alone(evaluate: Command) -> None:
    judges = "--truth-judge none --info-judge none"
    done(evaluate(f"truthfulqa-gen --model base --data data --output out --max-new-tokens 4 {judges}"))
    names = results("out")["tasks"]["truthfulqa-gen"].keys()
    kinds = {f"{metric}_{how}" for metric in ("bleu", "rouge1", "rouge2", "rougeL") for how in ("max", "diff", "acc")}
    assert names == kinds | {"no_comment", "evasive"}
