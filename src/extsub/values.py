"""Values of a YAML file, or of Python, as the fields of a dataclass declare them: names are known, kinds are right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from datetime import date
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from extsub.errors import ExtSubError
from extsub.escaping import brief, shown

EXPECTED = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}

LONGEST_TEXT = 4096
"""The most characters of a setting, or of a field of a config; no path is longer."""


def mapping_of(where: str, value: Any, known: Iterable[str] | None) -> dict[str, Any]:
    """The entries of a mapping; ``learning-rate`` is as good as ``learning_rate``.

    Raises:
        ExtSubError: the value is not a mapping, or has a name that is not ``known``.
    """
    if not isinstance(value, Mapping):
        raise ExtSubError(f"{where}: expected names with their values, found {shown(value)}")
    entries = {str(name).replace("-", "_"): entry for name, entry in value.items()}
    if len(entries) < len(value):
        raise ExtSubError(f"{where}: a name is there twice, once with - and once with _: keep one")
    names = None if known is None else list(known)
    if names is not None and (unknown := [name for name in entries if name not in names]):
        raise ExtSubError(f"{where}: {brief(unknown[0])} is not known here; there are {', '.join(names)}")
    return {name: entry for name, entry in entries.items() if entry is not None}


def text_of(where: str, value: Any) -> str:
    """A text that is not empty.

    Raises:
        ExtSubError: the value is empty, or not a text.
    """
    if value == "":
        raise ExtSubError(f"{where} is empty, expected {EXPECTED[str]}")
    return _plain(where, value, str)


def settings_of(where: str, value: Any, cls: Any, ours: Iterable[str] = ()) -> dict[str, Any]:
    """What a mapping says of the fields of a dataclass.

    Args:
        ours: fields that are not for the file to say.

    Raises:
        ExtSubError: a name is unknown, or a value of another kind than the field.
    """
    entries = mapping_of(where, value, [field.name for field in fields(cls) if field.name not in ours])
    kinds = get_type_hints(cls)
    return {name: converted(f"{where}: {name}", entry, kinds[name]) for name, entry in entries.items()}


def converted(where: str, value: Any, kind: Any) -> Any:
    """A value as a field's type has it.

    Raises:
        ExtSubError: it is of another kind.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any or (value is None and NoneType in inner):
        return value
    if origin in (Union, UnionType):
        return _one_of(where, value, [member for member in inner if member is not NoneType])
    if origin is Literal:
        if value not in inner:
            raise ExtSubError(f"{where} is {shown(value)}, expected {', '.join(map(str, inner))}")
        return value
    if origin is tuple:
        values = value if isinstance(value, (list, tuple)) else [value]
        return tuple(converted(where, item, inner[0]) for item in values)
    if origin is dict:
        entries = mapping_of(where, value, None)
        return {name: converted(f"{where}: {brief(name)}", entry, inner[1]) for name, entry in entries.items()}
    return _plain(where, value, kind)


def _one_of(where: str, value: Any, kinds: list[Any]) -> Any:
    for kind in kinds[:-1]:
        try:
            return converted(where, value, kind)
        except ExtSubError:
            continue
    return converted(where, value, kinds[-1])


def _plain(where: str, value: Any, kind: Any) -> Any:
    if kind is float and isinstance(value, str):  # YAML 1.1 takes 2e-5 for text
        try:
            return float(value)
        except ValueError:
            pass
    taken = {float: (int, float), Path: (str, Path)}.get(kind, (kind,))
    if not isinstance(value, taken) or (isinstance(value, bool) and kind is not bool):
        # 0:3:0.25 is a number to YAML 1.1, in base 60
        hint = ": put it in quotes" if kind is str and isinstance(value, (int, float, date)) else ""
        raise ExtSubError(f"{where} is {shown(value)}, expected {EXPECTED.get(kind, kind.__name__)}{hint}")
    if isinstance(value, str) and (not value.isprintable() or len(value) > LONGEST_TEXT):
        raise ExtSubError(f"{where} is {shown(value)}, expected one line of at most {LONGEST_TEXT} characters")
    return kind(value) if kind in EXPECTED else value
