"""What all settings have in common: in Python, one name is as good as a tuple of them, and a text as good as a path."""

from __future__ import annotations

import functools
import os
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints


def accept_plain_values(settings: Any) -> None:
    """Give every field of a frozen dataclass the type that it declares, where the value says the same in another one.

    ``adapter="better"`` becomes ``("better",)``, ``output="results"`` a `Path`, and a `Path` where a name is declared
    its text. Whatever else is given stays as it is.
    """
    for name, kinds in _kinds(type(settings)).items():
        value = getattr(settings, name)
        if any(get_origin(kind) is tuple for kind in kinds) and value is not None:
            values = (value,) if isinstance(value, (str, os.PathLike)) else value
            value = tuple(os.fspath(each) if isinstance(each, os.PathLike) else each for each in values)
        elif Path in kinds and isinstance(value, str):
            value = Path(value)
        elif str in kinds and isinstance(value, os.PathLike):
            value = os.fspath(value)
        object.__setattr__(settings, name, value)


@functools.cache
def _kinds(cls: Any) -> dict[str, tuple[Any, ...]]:
    """The types that each field may have."""
    hints = get_type_hints(cls)
    declared = {field.name: hints[field.name] for field in fields(cls)}
    return {
        name: get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,) for name, kind in declared.items()
    }
