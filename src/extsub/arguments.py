"""What people type, as cyclopts spells it: numbers below 0 are values, and an option may take several."""

from __future__ import annotations


def as_options(tokens: list[str]) -> list[str]:
    """The words of a command line, with ``--alpha``, ``--alphas`` and ``--field`` in one word with their values."""
    return _spread_fields(_spread_alpha(_join_alphas(tokens)))


def _join_alphas(tokens: list[str]) -> list[str]:
    """``--alphas -1:1:0.5`` to ``--alphas=-1:1:0.5``: a grid that begins below 0 is no option."""
    result: list[str] = []
    for token in tokens:
        if result and result[-1] == "--alphas" and token[:1] == "-" and token[1:2] in (".", *"0123456789"):
            result[-1] = f"--alphas={token}"
        else:
            result.append(token)
    return result


def _spread_alpha(tokens: list[str]) -> list[str]:
    """``--alpha 0.5 -1`` to ``--alpha=0.5 --alpha=-1``: as many values as follow, and adapters may follow them."""
    result: list[str] = []
    values = False
    for token in tokens:
        values = token == "--alpha" or (values and _is_number(token))
        if token == "--alpha":
            result.append(token)
        elif values:
            if result[-1] == "--alpha":
                result.pop()
            result.append(f"--alpha={token}")
        else:
            result.append(token)
    return result


def _spread_fields(tokens: list[str]) -> list[str]:
    """``--field output=answer`` to ``--field.output=answer``, which is how cyclopts spells an entry of a mapping."""
    result: list[str] = []
    entries = False
    for token in tokens:
        entries = token == "--field" or (entries and "=" in token and not token.startswith("-"))
        if token.startswith("--field="):
            result.append(f"--field.{token.removeprefix('--field=')}")
        elif token != "--field":
            result.append(f"--field.{token}" if entries else token)
    return result


def _is_number(token: str) -> bool:
    try:
        float(token)
    except ValueError:
        return False
    return True
