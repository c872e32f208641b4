"""A server that is busy, breaks off, talks nonsense or says nothing is asked again; what it refuses is said."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterator
from email.utils import format_datetime

import pytest

import benchmark_files
from benchmark_files import Fault
from extsub import ExtSubError
from extsub.inference import retrying
from extsub.inference import server as module
from extsub.inference.requests import Usage
from extsub.inference.server import Server, check_url
from extsub.models.prompts import Message

GARBAGE = (b"<html>busy</html>", b'{"choices": []}', b'{"choices": [{"index": 0}]}', b"[]", b'"well"', b"\xff\xfe")
QUESTIONS = {number: [Message("user", f"Who is number {number}?")] for number in range(4)}


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[benchmark_files.Server]:
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.001)
    with benchmark_files.serving() as server:
        yield server


def answers(served: benchmark_files.Server, at_once: int = 1) -> dict[int, str]:
    asked = Server(served.url, "served", at_once).answers(QUESTIONS, "chat", 9)
    return {answer.index: answer.text for _, answer in asked}


WANTED = dict.fromkeys(QUESTIONS, "16 letters")


@pytest.mark.parametrize(
    "faults",
    [
        [Fault(429), Fault(503), Fault(500)],
        [Fault(body=body) for body in GARBAGE],
        [Fault(half=True), Fault(half=True)],
        [Fault(seconds=0.6)],
    ],
    ids=["busy", "garbage", "half", "slow"],
)
def test_what_may_pass_is_asked_again(
    served: benchmark_files.Server, faults: list[Fault], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    served.faults = faults[:]
    assert answers(served) == WANTED
    assert not served.faults


@pytest.mark.parametrize("as_date", [False, True])
def test_it_waits_as_long_as_it_is_told_to(served: benchmark_files.Server, as_date: bool) -> None:
    later = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=2)
    served.faults = [Fault(429, {"Retry-After": format_datetime(later, usegmt=True) if as_date else "1"})]
    begun = time.monotonic()
    assert answers(served) == WANTED
    assert 0.9 < time.monotonic() - begun < 4


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("-1", 0),
        ("nan", None),
        ("soon", None),
        ("86400", 900),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
    ],
)
def test_what_a_server_may_say_about_when(said: str, seconds: float | None) -> None:
    assert retrying.asked_pause({"retry-after": said}) == seconds


def test_tokens_are_counted_where_it_says_them(served: benchmark_files.Server) -> None:
    for _, answer in Server(served.url, "served").answers(QUESTIONS, "chat", 9):
        assert answer.usage == Usage(4, 2)


def test_one_request_that_it_refuses_is_told_apart(served: benchmark_files.Server) -> None:
    served.faults = [Fault(400, body=b'{"error": {"message": "too long"}}')]
    refused: dict[int, str] = {}
    server = Server(served.url, "served", 1)
    said = server.answers(QUESTIONS, "chat", 9, lambda index, error: refused.update({index: str(error)}))
    assert {answer.index for _, answer in said} == {1, 2, 3}
    assert list(refused) == [0]
    assert refused[0].startswith(f"{served.url}, model served: ")
    assert "too long" in refused[0]


def test_what_came_before_it_broke_is_not_lost(served: benchmark_files.Server) -> None:
    """The first answer is slow, the second request is refused at once."""
    served.faults = [Fault(seconds=0.3), Fault(401)]
    came: list[int] = []
    said = Server(served.url, "served", 2).answers(QUESTIONS, "chat", 9)
    with pytest.raises(ExtSubError, match="is the server up"):
        came.extend(answer.index for _, answer in said)
    assert {body["messages"][0]["content"] for body in served.asked} == {QUESTIONS[index][0].content for index in came}
    assert came


def test_a_hosted_reasoning_model_is_asked_in_its_own_words(served: benchmark_files.Server) -> None:
    for name in ("max_tokens", "temperature"):
        error = f'{{"error": {{"message": "no", "code": "unsupported_parameter", "param": "{name}"}}}}'
        served.faults.append(Fault(400, body=error.encode()))
    assert answers(served) == WANTED
    assert all(body["max_completion_tokens"] == 9 for body in served.asked)
    assert not any(body.keys() & {"max_tokens", "temperature"} for body in served.asked)


def test_the_key_is_in_no_message(served: benchmark_files.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    served.faults = [Fault(401, body=b'{"error": {"message": "Incorrect API key: sk-secret"}}')]
    with pytest.raises(ExtSubError, match=r"Incorrect API key: \*\*\*") as refused:
        answers(served)
    assert "sk-secret" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    ["localhost:8000", "ftp://host/v1", "http://", "http://me:sk@host/v1", "http://host/v1?key=sk", "http://[x/v1"],
)
def test_an_address_that_holds_a_key_or_is_none_is_refused(url: str) -> None:
    with pytest.raises(ExtSubError, match="^--url") as refused:
        check_url(url)
    assert "sk" not in str(refused.value)
