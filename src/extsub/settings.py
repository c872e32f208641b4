"""What all settings have in common: how options that take several are typed, and what is as good as a field's own type
in Python.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from cyclopts import CoercionError, Parameter, convert

from extsub.errors import ExtSubError
from extsub.escaping import shown

if TYPE_CHECKING:
    from cyclopts import Token


def _at_commas(kind: Any, tokens: Sequence[Token]) -> Any:
    words = [token.evolve(value=word.strip()) for token in tokens for word in token.value.split(",") if word.strip()]
    if not words:
        raise CoercionError(msg="expected one or more, with commas between them.", token=tokens[0])
    return convert(kind, words)


def _pairs(_: Any, tokens: Sequence[Token] | Mapping[str, Any]) -> dict[str, str]:
    if isinstance(tokens, Mapping):  # cyclopts' own spelling of a mapping, which would keep the last of two
        name = next(iter(tokens))
        raise ValueError(f"--field.{name}: say --field {name}=THEIRS.")
    pairs: dict[str, str] = {}
    for token in tokens:
        name, equals, theirs = token.value.partition("=")
        if not equals:
            said = f"expected OURS=THEIRS (output=answer), found {name}; what is no such pair goes before the option."
            raise CoercionError(msg=said, token=token)
        if name in pairs:
            raise CoercionError(msg=f"{name} is there twice.", token=token)
        pairs[name] = theirs
    return pairs


COMMAS = Parameter(converter=_at_commas)
"""Of an option that takes several: ``--tasks a,b`` is as good as ``--tasks a b`` and ``--tasks a --tasks b``. Not for
paths and other names that may hold a comma."""
PAIRS = Parameter(converter=_pairs, n_tokens=-1)
"""Of ``--field``: ``instruction=question output=answer``, at once or one by one."""


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
    kinds = _kinds(cls)
    typed = {name: _accepted(value, kinds[name]) for name, value in values.items()}
    for name, value in typed.items():
        if not any(_is(value, kind) for kind in kinds[name]):
            expected = " or ".join(str(kind) if get_origin(kind) else kind.__name__ for kind in kinds[name])
            raise ExtSubError(f"{option(name)} {shown(value)}: expected {expected}")
    return typed


def _accepted(value: Any, kinds: tuple[Any, ...]) -> Any:
    if any(get_origin(kind) is tuple for kind in kinds) and value is not None:
        alone = isinstance(value, (str, os.PathLike)) or not isinstance(value, Iterable)
        values = (value,) if alone else value
        return tuple(os.fspath(each) if isinstance(each, os.PathLike) else each for each in values)
    if Path in kinds and isinstance(value, str):
        return Path(value)
    if str in kinds and isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


def _is(value: Any, kind: Any) -> bool:
    """Whether a value is of a declared type; a whole number is a number too, and True is none."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin is Literal:
        return value in inner
    if origin is tuple:
        return isinstance(value, tuple) and all(_is(each, inner[0]) for each in value)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else origin or kind)


@functools.cache
def _kinds(cls: Any) -> dict[str, tuple[Any, ...]]:
    """The types that each field may have."""
    hints = get_type_hints(cls)
    declared = {field.name: hints[field.name] for field in fields(cls)}
    return {
        name: get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,) for name, kind in declared.items()
    }
