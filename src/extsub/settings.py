"""What all settings have in common: in Python, one name is as good as a tuple of them, and a text as good as a path."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from extsub.values import converted

Dtype = Literal["auto", "float32", "float16", "bfloat16"]
"""What a base model is loaded in, or a file written in; each command says what it takes ``auto`` for."""


def option(name: str) -> str:
    """The command line's spelling of a setting."""
    return f"--{name.replace('_', '-')}"


def json_values(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON values."""
    return json.loads(json.dumps(asdict(settings), default=str))


def accept_plain_values(settings: Any) -> None:
    """Give every field of a frozen dataclass the type that it declares, where the value says the same in another one.

    ``adapter="better"`` becomes ``("better",)``, ``output="results"`` a `Path`, and a `Path` where a name is declared
    its text. Whatever else is given stays as it is.
    """
    for name, kinds in _kinds(type(settings)).items():
        object.__setattr__(settings, name, _accepted(getattr(settings, name), kinds))


def typed_values(cls: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of some fields of a dataclass, accepted as ``accept_plain_values`` does it.

    Raises:
        ExtSubError: one is of another type than its field.
    """
    kinds, declared = _kinds(cls), get_type_hints(cls)
    return {
        name: converted(option(name), _accepted(value, kinds[name]), declared[name]) for name, value in values.items()
    }


def _accepted(value: Any, kinds: tuple[Any, ...]) -> Any:
    if any(get_origin(kind) is tuple for kind in kinds) and value is not None:
        alone = isinstance(value, (str, os.PathLike)) or not isinstance(value, Iterable)
        values = (value,) if alone else value
        return tuple(os.fspath(item) if isinstance(item, os.PathLike) else item for item in values)
    if Path in kinds and isinstance(value, str):
        return Path(value)
    if str in kinds and isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


@functools.cache
def _kinds(cls: Any) -> dict[str, tuple[Any, ...]]:
    """The types that each field may have."""
    hints = get_type_hints(cls)
    declared = {field.name: hints[field.name] for field in fields(cls)}
    return {
        name: get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,) for name, kind in declared.items()
    }
