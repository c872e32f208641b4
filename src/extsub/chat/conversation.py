"""A conversation with a session: what was said, and who is asked beside the present position."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from extsub.chat.session import Session
from extsub.models.position import Position
from extsub.models.prompts import Message


@dataclass(eq=False)
class Said:
    """An answer, as far as it has come."""

    position: Position
    """Where it is said."""
    text: str = ""
    finished: bool = False
    """Whether it ended by itself."""
    shortened: bool = False
    """Whether the question, too long, lost its beginning."""


class Conversation:
    """A session, and what was said in it. Whoever answers beside the present position is given the same conversation,
    in which the earlier answers are those of the positions that were present then.
    """

    turns: list[Message]
    """What was said, oldest first."""
    compares: bool = False
    """Whether the expert answers beside the result; the base beside an adapter that is alone."""
    dialled: Position
    """Where to come back to from the base or the expert."""

    def __init__(self, session: Session) -> None:
        """Begin a conversation in which nothing was said yet."""
        self.session, self.turns, self.dialled = session, [], session.position

    @property
    def positions(self) -> list[Position]:
        """Who is asked, the present position last."""
        own = self.session.position
        other = Position("expert" if self.session.is_dial else "base")
        return [other, own] if self.compares and other != own else [own]

    def name(self, position: Position | None = None) -> str:
        """A position in words, the present one unless given; where there is no dial, the model's name."""
        position = position or self.session.position
        if not self.session.is_dial and position.operation != "base":
            return _last_part(self.session.adapters[0])
        if not self.session.adapters:
            return _last_part(self.session.base)
        alphas = position.alpha if isinstance(position.alpha, tuple) else (position.alpha,)
        return " ".join([position.operation, *(f"α {alpha:g}" for alpha in alphas if alpha is not None)])

    def messages(self, question: str) -> tuple[list[Message], int]:
        """(what is asked: a question after what the model has room for, how many earlier messages were dropped)

        Raises:
            ExtSubError: as `Session.fitting`.
        """
        earlier = self.turns if self.session.has_turns else []
        messages = self.session.fitting([*earlier, Message("user", question)])
        return messages, len(earlier) + 1 - len(messages)

    def answers(self, messages: Sequence[Message]) -> Generator[tuple[Said, str]]:
        """The answers of everybody who is asked, piece by piece: (answer so far, its newest piece; empty at its end).

        However far the answer of the present position came, it is part of the conversation then.

        Raises:
            ExtSubError: as `Session.stream`.
        """
        own = self.session.position
        said = Said(own)
        try:
            for position in self.positions:
                self.session.set(position.operation, position.alpha)
                said = Said(position)
                with contextlib.closing(self.session.stream(messages)) as reply:
                    said.shortened = reply.shortened
                    for piece in reply:
                        said.text += piece
                        yield said, piece
                    said.finished = reply.finished
                yield said, ""
        finally:
            self.session.set(own.operation, own.alpha)
            if said.position == own and said.text:
                self.turns = [*messages, Message("assistant", said.text)]


def _last_part(name: str) -> str:
    """Of a folder or a hub id."""
    return Path(name).name or name
