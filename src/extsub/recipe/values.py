"""A YAML file, and a mapping in it as settings of a dataclass: names are known, values of the right kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from extsub.errors import ExtSubError

EXPECTED = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}


class _Loader(yaml.SafeLoader):
    """YAML's safe one, which would keep the last of two values of the same name."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        if twice := [name for name in names if names.count(name) > 1]:
            raise yaml.MarkedYAMLError(None, None, f"{twice[0]} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(where: str, path: Path) -> Any:
    """What a YAML file holds.

    Raises:
        ExtSubError: it is not there, or no YAML, or a name stands in it twice.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise ExtSubError(f"{where}: {(getattr(error, 'strerror', None) or 'not UTF-8').lower()}") from error
    except yaml.YAMLError as error:
        raise ExtSubError(f"{where}: not YAML ({' '.join(str(error).split())})") from error


def mapping_of(where: str, value: Any, known: Iterable[str] | None) -> dict[str, Any]:
    """The entries of a mapping; ``learning-rate`` is as good as ``learning_rate``.

    Raises:
        ExtSubError: it is none, or a name is unknown.
    """
    if not isinstance(value, Mapping):
        raise ExtSubError(f"{where}: expected names with their values, found {value!r}")
    found = {str(name).replace("-", "_"): one for name, one in value.items()}
    names = list(found if known is None else known)
    if unknown := [name for name in found if name not in names]:
        raise ExtSubError(f"{where}: {unknown[0]} is not known here; there are {', '.join(names)}")
    return {name: one for name, one in found.items() if one is not None}


def settings_of(where: str, value: Any, cls: Any, ours: Iterable[str] = ()) -> dict[str, Any]:
    """What a mapping says of the fields of a dataclass.

    Args:
        ours: fields that are not for the file to say.

    Raises:
        ExtSubError: a name is unknown, or a value of another kind than the field.
    """
    found = mapping_of(where, value, [one.name for one in fields(cls) if one.name not in ours])
    kinds = get_type_hints(cls)
    return {name: _converted(f"{where}: {name}", one, kinds[name]) for name, one in found.items()}


def _converted(where: str, value: Any, kind: Any) -> Any:
    """A YAML value as a field's type has it."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return _one_of(where, value, [one for one in inner if one is not NoneType])
    if origin is Literal:
        if value not in inner:
            raise ExtSubError(f"{where} is {value!r}, expected {', '.join(map(str, inner))}")
        return value
    if origin is tuple:
        values = value if isinstance(value, list) else [value]
        return tuple(_converted(where, one, inner[0]) for one in values)
    if origin is dict:
        entries = mapping_of(where, value, None)
        return {name: _converted(f"{where}: {name}", one, inner[1]) for name, one in entries.items()}
    return _plain(where, value, kind)


def _one_of(where: str, value: Any, kinds: list[Any]) -> Any:
    for kind in kinds[:-1]:
        try:
            return _converted(where, value, kind)
        except ExtSubError:
            continue
    return _converted(where, value, kinds[-1])


def _plain(where: str, value: Any, kind: Any) -> Any:
    if kind is float and isinstance(value, str):  # YAML 1.1 takes 2e-5 for text
        try:
            return float(value)
        except ValueError:
            pass
    taken = {float: (int, float), Path: (str,)}.get(kind, (kind,))
    if not isinstance(value, taken) or (isinstance(value, bool) and kind is not bool):
        # 0:3:0.25 is a number to YAML 1.1, in base 60
        hint = ": put it in quotes" if kind is str and isinstance(value, (int, float)) else ""
        raise ExtSubError(f"{where} is {value!r}, expected {EXPECTED[kind]}{hint}")
    return kind(value)
