"""The one error class for what a user can fix, how its messages quote files, and how to ask for an optional library."""

from __future__ import annotations

import importlib
from reprlib import Repr
from types import ModuleType

LONGEST = 100
"""characters of a quoted value, name or text"""

_REPR = Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60


class ExtSubError(Exception):
    """Something the user can fix: the message says what, where, what was found and what to do.

    The command line prints it as one sentence and exits with 2. Every other exception is a bug and keeps
    its traceback.
    """


def shown(value: object) -> str:
    """A value from a file as Python writes it: on one line, without control characters, shortened."""
    try:
        return _shortened(_REPR.repr(value))
    except ValueError:
        return "a number of thousands of digits"


def brief(text: object) -> str:
    """A name from a file, or what a library said: as `shown`, but without quotation marks."""
    start = " ".join(str(text)[:10_000].split())
    return _shortened("".join(one if one.isprintable() else repr(one)[1:-1] for one in start))


def _shortened(text: str) -> str:
    """The beginning and the end, which tells names apart."""
    half = LONGEST // 2 - 2
    return text if len(text) <= LONGEST else f"{text[:half]}...{text[-half:]}"


def require(module: str, extra: str) -> ModuleType:
    """Import an optional library, or say how to get it.

    Raises:
        ExtSubError: the library is not installed. One that is installed but broken keeps its own error.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise
        raise ExtSubError(f"{error.name} is not installed: pip install 'extsub[{extra}]'") from error
