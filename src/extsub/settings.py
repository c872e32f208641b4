"""What all settings have in common: how options that take several are typed, and what is as good as a field's own type
in Python.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from cyclopts import CoercionError, Parameter, convert

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
