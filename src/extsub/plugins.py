"""What others add: Python files of the user's own, and entry points of installed packages."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from extsub.errors import ExtSubError


def run_files(option: str, names: Iterable[str], registries: Iterable[Mapping[str, Any]], call: str) -> None:
    """Run Python files that register something; each once in a process.

    Args:
        option: that names them, for messages.
        registries: one of which must grow with each file.
        call: the function that a file must call.

    Raises:
        ExtSubError: a file is not there, or registers nothing. An error inside of it keeps its traceback.
    """
    registries = list(registries)
    for name in names:
        path = Path(name).expanduser().resolve()
        module = f"extsub_plugin_{path.stem}_{abs(hash(path))}"
        if module in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(module, path) if path.suffix == ".py" else None
        if spec is None or spec.loader is None or not path.is_file():
            raise ExtSubError(f"{option} {name}: expected a Python file (.py) that calls {call}")
        before = sum(map(len, registries))
        sys.modules[module] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[module])
        except BaseException:
            del sys.modules[module]
            raise
        if sum(map(len, registries)) == before:
            raise ExtSubError(f"{option} {name} registers nothing: call {call} in it")


def entry_points_of(group: str) -> list[Any]:
    """What installed packages name in a group of entry points."""
    from importlib.metadata import entry_points  # 50 ms, and most commands need it for nothing

    return [entry.load() for entry in entry_points(group=group)]
