"""What ends a command early: an error that a user can fix, and being told to stop. And how messages count."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Generator


class ExtSubError(Exception):
    """Something the user can fix: the message says what, where, what was found and what to do.

    The command line prints it as one sentence and exits with 2. Every other exception is a bug and keeps
    its traceback.
    """


class RowError(ExtSubError):
    """What is wrong with one row, and what to do; who reads them all says where it stands, and how many are like it."""

    def __init__(self, wrong: str, way: str = "correct or remove it") -> None:
        super().__init__(f"{wrong}: {way}")
        self.wrong, self.way = wrong, way


class Terminated(BaseException):
    """The process was told to stop by SIGTERM or SIGHUP.

    It is not a ``SystemExit``, which libraries raise for reasons of their own.
    """

    def __init__(self, signum: int) -> None:
        super().__init__()
        self.signum = signum


class PrintError(Exception):
    """Standard output takes no more: its reader is gone, or the disk behind it is full."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(str(reason))
        self.reason = reason


STOPPED = (KeyboardInterrupt, Terminated)
"""What is raised when somebody stops the work. Whoever knows what is kept of it says so in ``args``: one sentence."""


@contextlib.contextmanager
def kept_when_interrupted(kept: Callable[[], str]) -> Generator[None]:
    """Say what is kept when somebody stops the work, in place of what a part of it says.

    Args:
        kept: the sentence, as things stand then; empty leaves the part's own.
    """
    try:
        yield
    except STOPPED as error:
        if said := kept():
            error.args = (said,)
        raise


def counted(number: int, noun: str) -> str:
    """A number and what it counts: ``1 row``, ``2,000 rows``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def check_choice(name: str, value: str, choices: Collection[str]) -> None:
    """Refuse what is not among the choices.

    Raises:
        ExtSubError: it is not; the message names them all.
    """
    if value not in choices:
        raise ExtSubError(f"{name} must be one of {', '.join(choices)}, found {value!r}")
