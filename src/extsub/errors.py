"""The one error class for what a user can fix, and how to ask for an optional library."""

from __future__ import annotations

import importlib
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
