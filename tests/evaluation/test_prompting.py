"""Which text stands around a question where nobody says: what the adapter was trained with, else what the tokenizer
has, else ours; the same for everybody in one command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import benchmark_files
import reference
import tiny_models
from benchmark_files import done, results, rows_of
from conftest import Command
from extsub.adapters.stated import common_template, template_in
from extsub.evaluation.settings import EvaluationSettings
from extsub.models.prompts import usual_template

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries
OURS, CHAT = "<|user|>\n", "[user] "
"""how a prompt begins"""
UNKNOWN = "nothing says which template it was trained with: asked with --prompt "
TRAINING = "--data good.jsonl --rank 2 --epochs 1 --batch-size 41 --warmup 0 --max-length 64 --learning-rate 1e-2"


def says(folder: Path, template: Any) -> Path:
    """An adapter that is said to be trained with a template."""
    (folder / "training.json").write_text(json.dumps({"settings": {"template": template}}))
    return folder


@pytest.fixture
def adapters(here: Path) -> Path:
    """Where adapters lie that were trained with templates, and a third whose template nobody knows."""
    for seed, name in enumerate(("ours", "chat", "unknown")):
        reference.adapter((here / "base").resolve(), here / name, "lora", seed=seed)
    says(here / "ours", "extsub")
    says(here / "chat", "chat")
    return here


@pytest.fixture
def asked(adapters: Path, extsub: Command) -> Callable[..., tuple[str, dict[str, Any]]]:
    """(the prompt, the record of the run) of an evaluation into ``out``."""

    def ask(words: str, folder: str = "out") -> tuple[str, dict[str, Any]]:
        done(extsub(*f"evaluate perplexity --data data/rows.jsonl --output out {words}".split()))
        run = results(folder)["runs"]["perplexity"]
        word = run["identity"]["prompt"]
        begun = {"extsub": OURS, "chat": CHAT}[word]  # the word is what the model read
        assert all(row["prompt"].startswith(begun) for row in rows_of(Path(folder, "perplexity.jsonl")))
        return word, run

    return ask


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (None, "extsub"),
        ("", "extsub"),
        (benchmark_files.CHAT, "chat"),
        ({"default": benchmark_files.CHAT, "tool_use": "x"}, "chat"),
        ({"tool_use": benchmark_files.CHAT, "rag": "x"}, "extsub"),  # transformers would not know which
    ],
)
def test_a_tokenizer_with_a_chat_template_uses_it(template: Any, expected: str) -> None:
    tokenizer = tiny_models.tokenizer()
    tokenizer.chat_template = template
    assert usual_template(tokenizer) == expected


@pytest.mark.parametrize(
    ("training", "extsub", "expected", "note"),
    [
        (None, None, None, None),
        ('{"settings": {"template": "chat"}}', None, "chat", None),
        ('\ufeff{"settings": {"template": "none"}}', None, "none", None),
        (None, '{"template": "extsub"}', "extsub", None),
        (None, '{"template": null}', None, None),
        ('{"settings": {"template": "chat"}}', '{"template": "chat"}', "chat", None),
        ('{"settings": {"template": "chat"}}', '{"template": "extsub"}', None, "name different templates"),
        ('{"settings": {"template": "auto"}}', None, None, "training.json names no template that is known here ('auto"),
        ('{"settings": {"template": ["chat"]}}', None, None, "training.json names no template that is known here"),
        ('{"settings": {"template": 3}}', '{"template": "chat"}', "chat", "known here (3)"),
        (None, '{"template": {"chat": 1}}', None, "extsub.json names no template that is known here"),
        ('{"settings": {"template": "{{ 1 }}\\u001b[2J"}}', None, None, "known here"),
        ('{"settings": ["template"]}', "[]", None, None),
        ('{"settings": {"template": "chat"', "[" * 5000, None, None),
    ],
)  # fmt: skip
def test_what_others_wrote_is_believed_where_it_is_a_template(
    tmp_path: Path, training: str | None, extsub: str | None, expected: str | None, note: str | None
) -> None:
    for name, content in (("training.json", training), ("extsub.json", extsub)):
        if content is not None:
            (tmp_path / name).write_text(content, encoding="utf-8")
    template, notes = template_in(tmp_path)
    assert template == expected
    assert len(notes) == (note is not None)
    assert note is None or (note in notes[0] and notes[0].isprintable())


def test_a_result_is_asked_as_all_its_inputs_were_trained(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("a", "b", "c", "d")}
    for folder in folders.values():
        folder.mkdir()
    for name, template in (("a", "chat"), ("b", "chat"), ("c", "extsub")):
        says(folders[name], template)
    common = lambda names: common_template([(name, folders[name]) for name in names])  # noqa: E731
    assert common("ab") == ("chat", [])
    assert common("ad") == common("da") == ("chat", [])  # the other does not say
    assert common("d") == (None, [])
    template, (note,) = common("abc")
    assert template is None
    assert note.startswith("trained with different templates (a with chat, b with chat, c with extsub)")


def test_auto_is_never_asked_with() -> None:
    with pytest.raises(RuntimeError, match="nobody has said yet what --prompt auto means"):
        EvaluationSettings().asked_with  # noqa: B018


def test_train_combine_and_evaluate_use_one_template(adapters: Path, extsub: Command, asked: Callable) -> None:
    tiny_models.instructions(adapters / "good.jsonl")
    trained = extsub(*f"train --model chatting {TRAINING} --output expert".split())
    assert trained.returncode == 0, trained.stderr
    record = json.loads(Path("expert/training.json").read_text())
    assert record["settings"]["template"] == record["plan"]["template"] == "chat"
    assert CHAT in record["plan"]["example"]["masked"]
    shutil.copytree("expert", "anti")
    weights = Path("anti/adapter_model.safetensors")
    save_file({name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in load_file(weights).items()}, weights)
    done(extsub(*"combine expert anti --output better".split()))
    assert json.loads(Path("better/extsub.json").read_text())["template"] == "chat"
    done(extsub(*"combine better anti --output twice".split()))
    word, run = asked("--adapter twice")
    assert (word, run["notes"]) == ("chat", [])
    before = Path("out/results.json").read_bytes()
    asked("--adapter twice --prompt chat")  # the same run: it is not made again
    assert Path("out/results.json").read_bytes() == before
    says(adapters / "anti", "extsub")
    shown = done(extsub(*"combine expert anti --output mixed".split()))
    assert "trained with different templates (expert with chat, anti with extsub)" in shown
    assert json.loads(Path("mixed/extsub.json").read_text())["template"] is None
    word, run = asked("--adapter mixed --overwrite")
    assert (word, run["notes"]) == ("chat", [f"{UNKNOWN}chat"])


def test_the_plan_of_a_training_says_what_auto_is(here: Path, extsub: Command) -> None:
    tiny_models.instructions(here / "good.jsonl")
    for words, expected in (
        ("--model base", "extsub"), ("--model chatting", "chat"), ("--model chatting --template extsub", "extsub"),
    ):  # fmt: skip
        plan = json.loads(done(extsub(*f"train {words} {TRAINING} --output out --dry-run --json".split())))
        assert plan["template"] == expected
        assert plan["example"]["masked"].removeprefix("<s>").startswith(OURS if expected == "extsub" else CHAT)


@pytest.mark.parametrize(
    ("words", "expected", "notes"),
    [
        ("--model base", "extsub", []),
        ("--model chatting", "chat", []),
        ("--model chatting --prompt extsub", "extsub", []),
        ("--model chatting --adapter chat", "chat", []),
        ("--model chatting --adapter ours", "extsub", []),  # whatever the tokenizer has
        ("--model chatting --adapter unknown", "chat", [f"{UNKNOWN}chat"]),
        ("--model base --adapter unknown", "extsub", [f"{UNKNOWN}extsub"]),
        ("--model base --adapter unknown --prompt extsub", "extsub", []),
        ("--model chatting --adapter chat --prompt extsub", "extsub",
         ["trained with --template chat, asked with --prompt extsub"]),
    ],
)  # fmt: skip
def test_the_adapter_decides_then_the_tokenizer(asked: Callable, words: str, expected: str, notes: list[str]) -> None:
    word, run = asked(words)
    assert (word, run["notes"]) == (expected, notes)


def test_everybody_in_one_command_is_asked_alike(asked: Callable, extsub: Command) -> None:
    words = "--model chatting --adapter unknown ours chat"
    for name, note in (
        ("unknown", [f"{UNKNOWN}extsub"]),
        ("ours", []),
        ("chat", ["trained with --template chat, asked with --prompt extsub"]),
    ):
        word, run = asked(words, f"out/{name}")  # the first that knows one
        assert (word, run["notes"]) == ("extsub", note)
    shown = done(extsub(*f"evaluate perplexity --data data/rows.jsonl {words}".split()))
    assert "asked with --prompt extsub\n" in shown
    assert "note: chat, perplexity: trained with --template chat, asked with --prompt extsub" in shown


def test_a_chat_template_that_is_not_there_is_no_reason_for_another(adapters: Path, extsub: Command) -> None:
    for words in (
        "evaluate perplexity --data data/rows.jsonl --output out",
        "generate --prompts data/toxic_test.json --output out.jsonl",
    ):
        run = extsub(*words.split(), "--adapter", "chat")
        assert (run.returncode, run.stdout) == (2, "")
        assert run.stderr.startswith("Error: chat was trained with --template chat, and the tokenizer of ")
        assert "has no chat template: say which --model it was trained on, or which --prompt" in run.stderr
        assert not list(adapters.glob("out*"))


def test_generate_follows_the_adapter(adapters: Path, extsub: Command) -> None:
    words = "generate --model chatting --prompts data/toxic_test.json --max-new-tokens 1 --output out.jsonl --json"
    for more, begun, notes in (
        ("--adapter ours", OURS, []),
        ("--adapter chat --prompt none", "", ["trained with --template chat, asked with --prompt none"]),
        ("--adapter unknown", CHAT, [f"{UNKNOWN}chat"]),
    ):
        record = json.loads(done(extsub(*words.split(), "--overwrite", *more.split())))
        assert record["notes"] == notes
        assert record["prompt"] == {CHAT: "chat", OURS: "extsub", "": "none"}[begun]
        assert all(row["prompt"].startswith(begun) for row in rows_of(Path("out.jsonl")))


def test_a_server_says_nothing_of_a_template(here: Path, extsub: Command) -> None:
    with benchmark_files.serving() as served:
        words = f"--backend openai --model served --url {served.url} --prompts data/toxic_test.json --output out.jsonl"
        record = json.loads(done(extsub("generate", *words.split(), "--json")))
    assert record["notes"] == ["a server does not say how its model was trained: asked with --prompt extsub"]
    assert {body["path"] for body in served.asked} == {"/v1/completions"}
    assert all(body["prompt"].startswith(OURS) for body in served.asked)


def test_a_sweep_asks_everybody_as_its_expert_was_trained(adapters: Path, extsub: Command) -> None:
    words = "--model chatting --tasks perplexity --data data/rows.jsonl --operations ext-sub --alphas 1 --json"
    for expert, anti, word, notes in (
        ("ours", "chat", "extsub", ["chat: trained with --template chat, asked with --prompt extsub"]),
        ("unknown", "chat", "chat", [f"unknown: {UNKNOWN}chat"]),
    ):
        record = json.loads(done(extsub("sweep", expert, anti, *words.split(), "--output", f"swept-{expert}")))
        assert record["settings"]["prompt"] == word
        assert [note for note in record["notes"] if "too few to choose by" not in note] == notes
        for folder in Path(f"swept-{expert}", "positions").iterdir():
            run = results(folder)["runs"]["perplexity"]
            assert (run["identity"]["prompt"], run["notes"]) == (word, notes)
            assert all(row["prompt"].startswith(OURS if word == "extsub" else CHAT)
                       for row in rows_of(folder / "perplexity.jsonl"))  # fmt: skip
