"""A conversation and what can be typed in it, on a real session of a small model."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from extsub import ExtSubError, Session
from extsub.chat.commands import COMMANDS, SAME, carry_out
from extsub.chat.conversation import Conversation
from extsub.models.prompts import Message

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries


@pytest.fixture(scope="module")
def session(experts: Path) -> Session:
    return Session.open([experts / "expert", experts / "anti", experts / "other"], max_new_tokens=8)


@pytest.fixture
def conversation(session: Session) -> Conversation:
    session.set("ext-sub", 1.0)
    return Conversation(session)


def ask(conversation: Conversation, question: str) -> dict[str, str]:
    """The answers by their names."""
    messages, _ = conversation.messages(question)
    answers = [said for said, piece in conversation.answers(messages) if not piece]
    return {conversation.name(said.position): said.text for said in answers}


def test_the_position_follows_what_is_typed(conversation: Conversation) -> None:
    for typed, name in (
        ("/alpha 1.5", "ext-sub α 1.5"),
        ("/operation contrast", "contrast α 1.5"),
        ("/alpha 0.5 -2", "contrast α 0.5 α -2"),
        ("/operation  subtract ", "subtract α 0.5 α -2"),
        ("/base", "base"),
        ("/expert", "expert"),
        ("/expert", "subtract α 0.5 α -2"),
        ("/base", "base"),
        ("/base", "subtract α 0.5 α -2"),
        ("/base", "base"),
        ("/alpha 1", "subtract α 1"),
    ):
        carry_out(conversation, typed)
        assert conversation.name() == name


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("/alpha", "/alpha: type /alpha A ..."),
        ("/alpha high", "/alpha high: expected a number, or one for each anti-expert"),
        ("/alpha 1 2 3", "3 values of alpha for 2 anti-experts"),
        ("/alpha inf", "alpha must be a finite number, found inf"),
        ("/operation base", "operation must be one of ext-sub"),
        ("/base 1", "/base 1: it takes nothing"),
        ("/etc/passwd", "/etc/passwd is not a command: /help lists them"),
        ("/\x1b[31m", r"/\\x1b\[31m is not a command"),
        ("/", "/ is not a command"),
        ("/save 'a", "/save 'a: No closing quotation"),
        ("/save a b", "expected one folder"),
        ("/save --overwrite", "expected one folder"),
    ],
)
def test_a_slip_is_a_sentence_and_changes_nothing(conversation: Conversation, typed: str, message: str) -> None:
    with pytest.raises(ExtSubError, match=message):
        carry_out(conversation, typed)
    assert conversation.name() == "ext-sub α 1"


def test_help_lists_what_there_is(experts: Path, conversation: Conversation) -> None:
    names = [row.split()[0] for row in carry_out(conversation, "/help").splitlines()]
    assert names == [*COMMANDS, "/quit"]
    alone = Conversation(Session.open(experts / "expert"))
    assert [row.split()[0] for row in carry_out(alone, "/help").splitlines()] == [
        *("/base", "/compare", "/clear", "/help", "/quit")
    ]
    assert set(SAME.values()) <= COMMANDS.keys()


def test_saving_writes_the_adapter_at_this_position(
    conversation: Conversation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    carry_out(conversation, "/operation contrast")
    said = carry_out(conversation, "/save 'a better one'")
    assert said.splitlines()[0] == "written: a better one/ (contrast α 1)"
    record = json.loads(Path("a better one/extsub.json").read_text())
    assert (record["operation"], [given["alpha"] for given in record["inputs"]]) == ("contrast", [None, 1.0, 1.0])
    assert said.splitlines()[1:] == [f"  note: {note}" for note in record["notes"]]
    with pytest.raises(ExtSubError, match="already exists"):
        carry_out(conversation, "/save 'a better one'")
    carry_out(conversation, "/alpha 0.5")
    carry_out(conversation, "/save --overwrite 'a better one'")
    assert json.loads(Path("a better one/extsub.json").read_text())["inputs"][1]["alpha"] == 0.5
    carry_out(conversation, "/base")
    with pytest.raises(ExtSubError, match="nothing to save at base"):
        carry_out(conversation, "/save other")


def test_everybody_is_given_the_same_conversation(conversation: Conversation) -> None:
    first = ask(conversation, "Who wrote the book?")["ext-sub α 1"]
    assert conversation.turns == [Message("user", "Who wrote the book?"), Message("assistant", first)]
    carry_out(conversation, "/compare")
    both = ask(conversation, "When?")
    assert list(both) == ["expert", "ext-sub α 1"]
    asked = [*conversation.turns[:2], Message("user", "When?")]
    assert conversation.turns == [*asked, Message("assistant", both["ext-sub α 1"])]
    assert conversation.name() == "ext-sub α 1"
    for operation, name in (("expert", "expert"), ("ext-sub", "ext-sub α 1")):
        conversation.session.set(operation)
        assert "".join(conversation.session.stream(asked)) == both[name]
    carry_out(conversation, "/expert")
    assert list(ask(conversation, "Who?")) == ["expert"]
    carry_out(conversation, "/reset")
    assert conversation.turns == []
    carry_out(conversation, "/base")
    assert list(ask(conversation, "Who?")) == ["expert", "base"]
    carry_out(conversation, "/compare")
    assert list(ask(conversation, "Who?")) == ["base"]


def test_an_adapter_alone_is_compared_with_the_base(experts: Path) -> None:
    alone = Conversation(Session.open(experts / "expert", max_new_tokens=8))
    carry_out(alone, "/compare")
    assert list(ask(alone, "Who?")) == ["base", "expert"]
    with pytest.raises(ExtSubError, match="needs a dial"):
        carry_out(alone, "/alpha 1")
    plain = Conversation(Session.open((), str(experts / "base")))
    assert plain.name() == "base"
    with pytest.raises(ExtSubError, match="nothing to compare with"):
        carry_out(plain, "/compare")


def test_what_was_said_of_a_stopped_answer_is_remembered(conversation: Conversation) -> None:
    carry_out(conversation, "/compare")
    for pieces in (1, 12):  # the expert's answer has 8 at most
        messages, _ = conversation.messages("Who wrote the book?")
        with contextlib.closing(conversation.answers(messages)) as answers:
            for _ in range(pieces):
                said, _ = next(answers)
        assert conversation.name() == "ext-sub α 1"
        kept = [*messages, Message("assistant", said.text)] if said.position.operation == "ext-sub" else []
        assert conversation.turns == kept
    assert kept


def test_a_prompt_without_turns_asks_one_question_at_a_time(experts: Path) -> None:
    conversation = Conversation(Session.open((), str(experts / "base"), prompt="qa", max_new_tokens=8))
    first = ask(conversation, "Who wrote the book?")
    assert ask(conversation, "Who wrote the book?") == first
    assert conversation.messages("When?") == ([Message("user", "When?")], 0)


def test_the_oldest_messages_are_dropped_for_good(conversation: Conversation) -> None:
    conversation.turns = [Message(role, "Who wrote the book? " * 3) for role in ("user", "assistant")] * 12
    messages, dropped = conversation.messages("When?")
    assert dropped > 0
    assert len(messages) == 25 - dropped
    ask(conversation, "When?")
    assert conversation.turns[:-1] == messages
