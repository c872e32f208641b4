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
