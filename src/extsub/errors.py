"""The one error class for what a user can fix, how to ask for an optional library, and what is said to somebody who stops
the work.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Generator
from types import ModuleType


class ExtSubError(Exception):
    """Something the user can fix: the message says what, where, what was found and what to do.

    The command line prints it as one sentence and exits with 2. Every other exception is a bug and keeps
    its traceback.
    """


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


@contextlib.contextmanager
def kept_when_interrupted(kept: Callable[[], str]) -> Generator[None]:
    """Note on what stops the work (Ctrl-C, a signal) what of it is kept; ``kept_of`` reads it.

    Args:
        kept: the sentence, as things stand then; empty leaves what a part of the work said.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and (said := kept()):
            vars(error)["kept"] = said
        raise


def kept_of(stopped: BaseException) -> str | None:
    """What is kept of the work that was stopped, if anybody said it."""
    return vars(stopped).get("kept")
