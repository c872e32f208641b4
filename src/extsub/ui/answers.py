"""Two answers of one model in memory, at two positions of its dial: whoever turns the dial has it alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

from extsub.chat.session import Session
from extsub.errors import counted
from extsub.models.position import Position

MOST = 200
"""Answers that are kept: they are greedy, so the same question has the same answer."""
PATIENCE = 0.2
"""Seconds between two looks whether anybody still waits for an answer."""


@dataclass(frozen=True)
class Answer:
    """What a model has said so far."""

    text: str = ""
    whole: bool = False
    """Whether that is all of it."""
    note: str = ""
    """What a reader should know of it."""


class Pair(NamedTuple):
    """Two answers to one question."""

    left: Answer
    right: Answer


class Answers:
    """A session that several pages share. One answer is made at a time, so that none turns the dial under another."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._turning = threading.Lock()
        self._asking: dict[str, object] = {}
        """For each page the question that it asked last, while it is answered."""
        self._given: dict[tuple[Position, str], Answer] = {}

    def pair(self, question: str, left: Position, right: Position, page: str = "") -> Iterator[Pair]:
        """Both answers as they come, the left one first; they end early when the same page asks again.

        Args:
            page: which page asks.

        Raises:
            ExtSubError: the question does not go into the prompt, or the model has no room for the answer.
        """
        mine = self._asking[page] = object()

        def wanted() -> bool:
            return self._asking.get(page) is mine

        said = [Answer(), Answer()]
        try:
            yield Pair(*said)
            for side, position in enumerate((left, right)):
                with closing(self._answer(question, position, wanted)) as coming:
                    for answer in coming:
                        if not wanted():
                            return
                        said[side] = answer
                        yield Pair(*said)
        finally:
            if wanted():
                del self._asking[page]

    def _answer(self, question: str, position: Position, wanted: Callable[[], bool]) -> Generator[Answer]:
        if answer := self._given.get((position, question)):
            yield answer
            return
        while not self._turning.acquire(timeout=PATIENCE):
            if not wanted():
                return
        try:
            if wanted():
                yield from self._generated(question, position)
        finally:
            self._turning.release()

    def _generated(self, question: str, position: Position) -> Generator[Answer]:
        self.session.set(position.operation, position.alpha)
        with closing(self.session.stream(question)) as reply:
            text = ""
            for piece in reply:
                text += piece
                yield Answer(text)
        ended = "" if reply.finished else f"stopped at {counted(self.session.max_new_tokens, 'token')}"
        shortened = "the prompt was too long and lost its beginning" if reply.shortened else ""
        answer = Answer(text, True, "; ".join(filter(None, (shortened, ended))))
        if len(self._given) >= MOST:
            del self._given[next(iter(self._given))]
        self._given[position, question] = answer
        yield answer
