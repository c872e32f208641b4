"""Which optional libraries are there. They are looked up by name, in milliseconds: nothing is imported for it.

What an extra needs stands in ``pyproject.toml`` alone; the installed package knows it too.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Iterator
from importlib.util import find_spec
from types import ModuleType

from extsub.errors import ExtSubError


def need(what: str, *extras: str) -> None:
    """Check that the libraries of these extras are installed, before anything heavy is imported.

    Args:
        what: what needs them, for the message: ``extsub train``.
        extras: as in ``pip install 'extsub[train]'``.

    Raises:
        ExtSubError: one is missing; the message has the pip command.
    """
    for extra in extras:
        if missing := sorted({name for name in _libraries(extra) if not _installed(name)}):
            are = "is" if len(missing) == 1 else "are"
            wanted = ",".join(extras)
            raise ExtSubError(f"{what} needs {', '.join(missing)}, which {are} not installed: {pip_command(wanted)}")


def pip_command(extra: str) -> str:
    """The command that installs extsub with an extra."""
    return f"pip install 'extsub[{extra}]'"


def versions(*names: str) -> dict[str, str]:
    """The versions of those of these libraries that are installed, by name."""
    return {name: version for name in names if (version := _installed(name))}


def check_installed(module: str, extra: str) -> None:
    """Check that an optional library can be imported, by its name: importing it takes seconds.

    Raises:
        ExtSubError: it is not installed.
    """
    if find_spec(module) is None:
        raise ExtSubError(f"{module} is not installed: {pip_command(extra)}")


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
        raise ExtSubError(f"{error.name} is not installed: {pip_command(extra)}") from error


def _libraries(extra: str) -> Iterator[str]:
    """Distributions that an extra brings, those of the extras that it names included."""
    from importlib.metadata import requires  # 50 ms, and most commands need it for nothing

    for requirement in requires("extsub") or ():
        name, _, condition = requirement.partition(";")
        if re.search(rf"extra\s*==\s*['\"]{extra}['\"]", condition):
            own = re.match(r"extsub\[([\w,-]+)\]", name)
            if own:
                for other in own[1].split(","):
                    yield from _libraries(other)
            else:
                yield re.split(r"[\s<>=!~\[]", name, maxsplit=1)[0]


@functools.cache
def _installed(name: str) -> str | None:
    """The version that is installed; None where none is."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None
