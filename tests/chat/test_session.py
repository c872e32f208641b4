"""A session says what PEFT's models say, and what ``extsub generate`` writes, at every position and piece by piece."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import benchmark_files
import reference
import tiny_models
from benchmark_files import done, rows_of
from conftest import Command
from extsub import ExtSubError, Session, combine, load_adapter, save_adapter
from extsub.inference import streaming
from extsub.inference.language_model import load_base
from extsub.inference.streaming import Reply
from extsub.models.prompts import Message, Prompt
from extsub.models.source import find_model

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries

QUESTION = "Who wrote the book?"
PROMPT = f"<|user|>\n{QUESTION}\n<|assistant|>\n"
NEW = 24


@pytest.fixture(scope="module")
def dial(experts: Path) -> Session:
    return Session.open([experts / "expert", experts / "anti", experts / "other"])


def text(reply: Iterator[str]) -> str:
    return "".join(reply)


def greedy(folder: Path, adapter: Path | None, prompt: str = PROMPT, most: int = NEW) -> str:
    """What PEFT's own model says, one token at a time."""
    with reference.evaluated(folder / "base", adapter) as evaluated:
        tokens, _ = evaluated.greedy(evaluated.tokenizer(prompt)["input_ids"], most, {1})
        return evaluated.tokenizer.decode(tokens, skip_special_tokens=True).strip()


@pytest.mark.parametrize("kind", ["", pytest.param("prefix-", marks=pytest.mark.slow)])
def test_every_position_says_what_the_saved_adapter_says(experts: Path, tmp_path: Path, kind: str) -> None:
    expert, anti = experts / f"{kind}expert", experts / f"{kind}anti"
    session = Session.open([expert, anti])
    assert session.position.label == "ext-sub-1"
    said = {}
    for operation, alpha in (("ext-sub", 1.0), ("subtract", 0.5), ("contrast", 2.0)):
        session.set(operation, alpha)
        said[operation] = text(session.stream(QUESTION, NEW))
        record = session.save(tmp_path / operation)
        assert (record["operation"], record["inputs"][1]["alpha"]) == (operation, alpha)
        save_adapter(combine(expert, anti, operation=operation, alpha=alpha), tmp_path / "again", overwrite=True)
        written, expected = (
            (path / "adapter_model.safetensors").read_bytes() for path in (tmp_path / operation, tmp_path / "again")
        )
        assert written == expected
        assert said[operation] == greedy(experts, tmp_path / operation)
    for start, adapter in (("base", None), ("expert", expert), ("anti-expert", anti), ("base", None)):
        session.set(start)
        said[start] = text(session.stream(QUESTION, NEW))
        assert said[start] == greedy(experts, adapter)
    assert len(set(said.values())) == len(said)


def test_anti_experts_have_one_strength_or_one_each(experts: Path, dial: Session, tmp_path: Path) -> None:
    dial.set("ext-sub", [0.5, 2.0])
    assert dial.position.label == "ext-sub-0.5-2"
    record = dial.save(tmp_path / "two")
    assert [given["alpha"] for given in record["inputs"]] == [None, 0.5, 2.0]
    assert text(dial.stream(QUESTION, NEW)) == greedy(experts, tmp_path / "two")
    dial.set("ext-sub", 0.7)
    assert [given["alpha"] for given in dial.save(tmp_path / "one")["inputs"]] == [None, 0.7, 0.7]
    assert text(dial.stream(QUESTION, NEW)) == greedy(experts, tmp_path / "one")


@pytest.mark.parametrize(
    ("adapter", "prompt"),
    [
        ("expert", "qa"),
        ("prefix-expert", "extsub"),
        pytest.param(None, "extsub", marks=pytest.mark.slow),
        pytest.param("expert", "none", marks=pytest.mark.slow),
    ],
)
def test_pieces_are_the_answer_that_generate_writes(
    experts: Path, extsub: Command, adapter: str | None, prompt: str
) -> None:
    Path("prompts.txt").write_text(f"{QUESTION}\nParis, 東京 — Émile\n")
    options = ["--adapter", experts / adapter] if adapter else []
    asked = ["--prompts", "prompts.txt", "--output", "out.jsonl", "--prompt", prompt, "--max-new-tokens", 60]
    done(extsub("generate", "--model", experts / "base", *options, *asked))
    session = Session.open([experts / adapter] if adapter else [], str(experts / "base"), prompt=prompt)
    for row, question in zip(rows_of(Path("out.jsonl")), Path("prompts.txt").read_text().splitlines(), strict=True):
        reply = session.stream(question, 60)
        pieces = list(reply)
        assert "".join(pieces) == row["answer"]
        assert len(pieces) > 10
        assert (reply.finished, reply.shortened) == (row["finished"], row["shortened"])


def test_a_character_comes_when_its_last_byte_does(tmp_path: Path) -> None:
    tiny_models.reciting(tmp_path / "base", " 日é🙂.")
    session = Session.open((), str(tmp_path / "base"))
    reply = session.stream(QUESTION, 20)
    assert list(reply) == ["日", "é", "🙂", "."]
    assert reply.finished
    cut = session.stream(QUESTION, 5)
    assert list(cut) == ["日", "\ufffd"]  # as `generate` ends an answer that its limit cuts in a character
    assert not cut.finished


@pytest.mark.parametrize(
    ("prompt", "said", "expected"),
    [
        ("qa", " so.\n\nIt\nQ: Why", "so.\n\nIt"),
        ("qa", " so.\n\nQ: Why", "so."),
        ("chat", " so [ [/en [/end] why", "so [ [/en"),
        ("extsub", " so.\nQ: Why ", "so.\nQ: Why"),
    ],
)
def test_what_ends_an_answer_is_never_shown(
    experts: Path, monkeypatch: pytest.MonkeyPatch, prompt: Prompt, said: str, expected: str
) -> None:
    """A mark of several tokens, of which no piece shows the beginning."""
    with load_base(find_model(str(experts / "base")), "float32").with_adapter(None) as model:
        model.tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }} [/end]{% endfor %}"
        tokens = model.tokenizer(said, add_special_tokens=False)["input_ids"]
        monkeypatch.setattr(streaming, "_tokens", lambda *_: (token for token in tokens))
        reply = Reply(model, [Message("user", QUESTION)], prompt, 50)
        pieces = list(reply)
    assert "".join(pieces) == expected
    assert len(pieces) > 1
    assert reply.finished == (expected != said.strip())


def test_a_conversation_is_asked_with_what_was_said(experts: Path, dial: Session) -> None:
    dial.set("expert")
    messages = [Message("user", "Who?"), Message("assistant", "nobody"), Message("user", QUESTION)]
    prompt = f"<|user|>\nWho?\n<|assistant|>\nnobody</s>\n{PROMPT}"
    assert text(dial.stream(messages, NEW)) == greedy(experts, experts / "expert", prompt)


def test_the_oldest_turns_go_when_the_context_is_full(dial: Session) -> None:
    said = [Message("system", "Be brief.")]
    for number in range(40):
        said += [Message("user", f"{QUESTION} {number}"), Message("assistant", "Nobody knows the answer.")]
    said.append(Message("user", QUESTION))
    kept = dial.fitting(said, 100)
    assert (kept[0], kept[-1]) == (said[0], said[-1])
    assert kept[1:] == said[-len(kept) + 1 :]
    assert kept[1].role == "user"
    assert not dial.stream(kept, 100).shortened
    assert dial.stream([kept[0], *said[-len(kept) - 1 :]], 100).shortened
    assert dial.fitting(said[:5], 100) == said[:5]
    long = [*said[:3], Message("user", QUESTION * 200)]
    assert dial.fitting(long, 100) == [said[0], long[-1]]


def test_an_answer_that_is_left_ends(dial: Session) -> None:
    before = threading.active_count()
    dial.set("expert")
    whole = text(dial.stream(QUESTION, NEW))
    left = dial.stream(QUESTION, 300)
    first = next(left)
    assert threading.active_count() == before + 1
    dial.set("base")
    assert threading.active_count() == before
    assert list(left) == []
    dial.set("expert")
    assert whole.startswith(first)
    assert text(dial.stream(QUESTION, NEW)) == whole


def test_a_model_that_breaks_while_it_answers_is_told(experts: Path, tmp_path: Path) -> None:
    broken = AutoModelForCausalLM.from_pretrained(experts / "base")
    tokenizer = tiny_models.tokenizer()
    torch.nn.init.constant_(broken.get_input_embeddings().weight[tokenizer("!")["input_ids"][-1]], float("nan"))
    broken.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    session = Session.open((), str(tmp_path))
    assert text(session.stream(QUESTION, NEW)) == greedy(experts, None)
    with pytest.raises(ExtSubError, match="the model gives NaN"):
        list(session.stream("Who!", NEW))


def test_what_is_not_there_is_refused(experts: Path, dial: Session, tmp_path: Path) -> None:
    dial.set("contrast", 0.5)
    for operation, alpha, message in (
        ("divide", 1.0, "operation must be one of ext-sub"),
        ("ext-sub", float("nan"), "alpha must be a finite number"),
        ("ext-sub", [1.0, 1.0, 1.0], "3 values of alpha for 2 anti-experts"),
    ):
        with pytest.raises(ExtSubError, match=message):
            dial.set(operation, alpha)
        assert dial.position.label == "contrast-0.5"
    dial.set("expert")
    with pytest.raises(ExtSubError, match="nothing to save at expert"):
        dial.save(tmp_path / "out")
    with pytest.raises(ExtSubError, match="lower --max-new-tokens 512"):
        dial.stream(QUESTION, 512)
    alone = Session.open(experts / "expert")
    with pytest.raises(ExtSubError, match="ext-sub needs a dial"):
        alone.set("ext-sub", 1.0)
    with pytest.raises(ExtSubError, match="give an expert and an anti-expert"):
        alone.save(tmp_path / "out")
    plain = Session.open((), str(experts / "base"))
    with pytest.raises(ExtSubError, match="there is no adapter here"):
        plain.set("expert")


def test_everything_is_checked_before_the_model_is_loaded(
    experts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("extsub.inference.language_model.load_model", lambda *_: pytest.fail("loaded"))
    for adapters, options, message in (
        ([experts / "expert", experts / "prefix-anti"], {}, "PREFIX_TUNING"),
        ([experts / "nowhere"], {}, "nowhere"),
        ([experts / "expert"], {"prompt": "chat"}, "no chat template: use --prompt extsub"),
        ([], {}, "no base model: give --model"),
    ):
        with pytest.raises(ExtSubError, match=message):
            Session.open(adapters, **options)


def test_a_base_that_an_adapter_changed_is_not_asked(experts: Path, tmp_path: Path) -> None:
    """PiSSA takes the adapter's beginning out of the base's weights when it is loaded."""
    path = reference.adapter(experts / "base", tmp_path / "pissa", "lora")
    config = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps({**config, "init_lora_weights": "pissa"}))
    session = Session.open(path)
    with pytest.raises(ExtSubError, match="changed the base when it was loaded: open the base alone"):
        session.set("base")
    assert text(session.stream(QUESTION, 3))


def test_an_adapter_is_asked_as_it_was_trained(experts: Path, tmp_path: Path) -> None:
    trained = reference.adapter(experts / "base", tmp_path / "trained", "lora")
    (trained / "training.json").write_text(json.dumps({"settings": {"template": "none"}}))
    assert Session.open(trained).prompt == "none"
    assert not Session.open(trained).has_turns
    asked = Session.open(trained, prompt="extsub")
    assert asked.prompt == "extsub"
    assert asked.notes == ("trained: trained with --template none, asked with --prompt extsub",)
    chatting = benchmark_files.chatting(tiny_models.llama(tmp_path / "chatting"))
    assert Session.open((), str(chatting)).prompt == "chat"
    assert load_adapter(str(trained)).kind == "LORA"
