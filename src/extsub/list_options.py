"""Options that take several words, as cyclopts reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

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
            said = (
                f"expected OURS=THEIRS (output=answer), found {name}; what is not such a pair goes before the option."
            )
            raise CoercionError(msg=said, token=token)
        if name in pairs:
            raise CoercionError(msg=f"{name} is there twice.", token=token)
        pairs[name] = theirs
    return pairs


def _groups(_: Any, tokens: Sequence[Token] | Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    if isinstance(tokens, Mapping):
        raise ValueError(f"--group.{next(iter(tokens))}: say --group NAME=FOLDER,FOLDER.")
    groups: dict[str, tuple[str, ...]] = {}
    for token in tokens:
        name, _, several = token.value.partition("=")
        folders = tuple(folder for folder in several.split(",") if folder)
        if not name or not folders:
            said = f"expected NAME=FOLDER,FOLDER, found {token.value}; what is not a group goes before the option."
            raise CoercionError(msg=said, token=token)
        if name in groups:
            raise CoercionError(msg=f"{name} is there twice.", token=token)
        groups[name] = folders
    return groups


COMMAS = Parameter(converter=_at_commas)
"""Of an option that takes several: ``--tasks a,b`` is as good as ``--tasks a b`` and ``--tasks a --tasks b``. Not for
paths and other names that may hold a comma."""
PAIRS = Parameter(converter=_pairs, n_tokens=-1)
"""Of ``--field``: ``instruction=question output=answer``, at once or one by one."""
GROUPS = Parameter(converter=_groups, n_tokens=-1)
"""Of ``--group``: ``NAME=FOLDER,FOLDER NAME=FOLDER``, at once or one by one."""
