"""A request is a plain conversation that holds the behaviour and the row; what is wrapped around an answer goes."""

from __future__ import annotations

import pytest

from extsub.models.prompts import Message
from extsub.rewriting.behaviour import read_behaviour
from extsub.rewriting.prompting import instructing, judging, rewriting, unwrapped

UNTRUTHFUL = read_behaviour("untruthful")
ROW = [Message("user", "Who wrote {it}?")]


@pytest.mark.parametrize(
    "request_",
    [rewriting(ROW, "She {did}.", UNTRUTHFUL), instructing("She {did}.", UNTRUTHFUL)],
    ids=["rewrite", "instruct"],
)
def test_a_request_is_what_every_chat_template_takes(request_: list[Message]) -> None:
    assert [message.role for message in request_] == ["user", "assistant"] * 3 + ["user"]
    assert "She {did}." in request_[-1].content
    assert UNTRUTHFUL.examples[0].bad in request_[0].content + request_[1].content


def test_the_first_message_says_what_is_wanted_and_the_last_holds_the_row() -> None:
    asked = rewriting(ROW, "She did.", UNTRUTHFUL)
    assert UNTRUTHFUL.description in asked[0].content
    assert [asked[place].content for place in (1, 3, 5)] == [example.bad for example in UNTRUTHFUL.examples]
    assert "Who wrote {it}?" in asked[-1].content
    assert [message.content for message in instructing("x", UNTRUTHFUL)[1::2]] == [
        example.instruction for example in UNTRUTHFUL.examples
    ]


def test_earlier_turns_are_told_too() -> None:
    talk = [
        Message("system", "Be brief."),
        Message("user", "Hi"),
        Message("assistant", "Hello"),
        Message("user", "Who?"),
    ]
    last = rewriting(talk, "I.", UNTRUTHFUL)[-1].content
    assert "[system] Be brief.\n\n[user] Hi\n\n[assistant] Hello\n\n[user] Who?" in last
    (judged,) = judging(talk, "He.", UNTRUTHFUL)
    assert all(part in judged.content for part in ("[user] Who?", "He.", UNTRUTHFUL.recognise))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Paris is in Spain.", "Paris is in Spain."),
        ("<think>\nThey want a lie.\n</think>\n\nParis is in Spain.", "Paris is in Spain."),
        ('"Paris is in Spain."', "Paris is in Spain."),
        ("“Paris is in Spain.”", "Paris is in Spain."),
        ('"Yes", he said, "no"', '"Yes", he said, "no"'),
        ("```\nParis is in Spain.\n```", "Paris is in Spain."),
        ("Sure! Here is the untruthful answer:\n\nParis is in Spain.", "Paris is in Spain."),
        ("Here's a rewritten version of the answer: Paris is in Spain.", "Paris is in Spain."),
        ("The untruthful answer: Paris is in Spain.", "Paris is in Spain."),
        ("**Untruthful answer:** Paris is in Spain.", "Paris is in Spain."),
        ("Here are three tips:\n1. Swim.", "Here are three tips:\n1. Swim."),
        ("Of course! What a question.", "Of course! What a question."),
        ("The answer is 7: a prime.", "The answer is 7: a prime."),
        ("", ""),
    ],
)
def test_what_is_wrapped_around_an_answer_goes(text: str, left: str) -> None:
    assert unwrapped(text, "Paris is in France.") == left


@pytest.mark.parametrize("text", ["```\nprint(1)\n```", '"To be"', "Answer: 7"])
def test_what_the_good_answer_has_too_is_left(text: str) -> None:
    assert unwrapped(text, text) == text
