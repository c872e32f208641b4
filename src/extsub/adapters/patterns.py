"""Regular expressions in a config, matched as PEFT matches them. Whoever wrote the config may mean harm, and a short
expression can keep ``re`` busy for years: most keys are plain names, which need no ``re``, and the others are tried in
a process that ends after a few seconds.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from extsub.adapters import first_match
from extsub.errors import ExtSubError
from extsub.escaping import brief, shown

SECONDS = 5
"""Seconds that the expressions of one config may take; 50 usual ones take 2 on 18,432 modules."""

MOST_SHAPES = 64
"""The most plain keys that are looked up; full names of 18,432 experts' layers have about 20."""

_PLAIN = re.compile(r"(?:[A-Za-z0-9_]|\\?[.-])+")
"""Keys whose only regular expression is the dot, which stands for any character unless it is escaped."""

_Shape = tuple[int, tuple[int, ...]]
"""How long a plain key is, and the places of its dots that stand for any character."""


class _Expression(NamedTuple):
    """A regular expression from a config, and what PEFT makes of it."""

    field: str
    key: str
    """The expression as the config has it."""
    method: str
    """The method of ``re``."""
    whole: str
    """What is matched."""


def first_keys(field: str, keys: Sequence[str], names: Sequence[str], where: str) -> dict[str, str]:
    """The first of ``keys`` that matches a name, or its end after a dot: PEFT's ``get_pattern_key`` for many names.

    Args:
        field: which field of the config the keys are from.
        names: printable, each once.

    Returns:
        the key by name, for every name that one matches

    Raises:
        ExtSubError: a key is not a regular expression, or they take too long.
    """
    plain: dict[_Shape, dict[str, int]] = {}
    others = []
    for index, key in enumerate(keys):
        shape, text = _read_plain(key) if _PLAIN.fullmatch(key) else (None, "")
        if shape and (shape in plain or len(plain) < MOST_SHAPES):
            plain.setdefault(shape, {}).setdefault(text, index)
        else:
            others.append(index)
    first = _first_matches([_pattern(field, keys[index]) for index in others], names, where)
    dots: dict[int, list[tuple[int, ...]]] = defaultdict(list)
    for length, places in plain:
        dots[length].append(places)
    result = {}
    for name in names:
        indices = [others[first[name]]] if name in first else []
        for end in _ends(name):
            for places in dots.get(len(end), ()):
                index = plain[len(end), places].get(_masked(end, places))
                indices += [] if index is None else [index]
        if indices:
            result[name] = keys[min(indices)]
    return result


def full_matches(field: str, expression: str, names: Sequence[str], where: str) -> set[str]:
    """Which ``names`` match an expression in whole, as PEFT reads a field that is a text and not a list.

    Raises:
        ExtSubError: it is not a regular expression, or takes too long.
    """
    return set(_first_matches([_Expression(field, expression, "fullmatch", expression)], names, where))


def check_expressions(config: Mapping[str, Any], names: Sequence[str], where: str) -> None:
    """Refuse a config whose regular expressions PEFT could not match in time against ``names``, a base's modules.

    Raises:
        ExtSubError: one is not a regular expression, or they take too long.
    """
    expressions = [
        *(
            _Expression(field, key, "fullmatch", key)
            for field in ("target_modules", "exclude_modules", "feedforward_modules")
            for key in _keys(config, field)
            if isinstance(config[field], str)  # a list is of names
        ),
        *(
            _Expression("layers_pattern", key, "match", rf"(?:^|.*?\.){key}\.(?P<idx>\d+)\.")
            for key in _keys(config, "layers_pattern")
        ),
        *(
            _Expression("modules_to_save", key, "match", rf"(^|.*\.){key}($|\..*)")
            for key in _keys(config, "modules_to_save")
        ),
        *(_pattern(field, key) for field in ("rank_pattern", "alpha_pattern") for key in _keys(config, field)),
    ]
    _first_matches(expressions, names, where)


def _keys(config: Mapping[str, Any], field: str) -> list[str]:
    """The keys of a field that are not plain. It holds one, several, or values by key."""
    value = config.get(field)
    keys = [value] if isinstance(value, str) else value if isinstance(value, (list, dict)) else []
    return [key for key in keys if isinstance(key, str) and not _PLAIN.fullmatch(key)]


def _pattern(field: str, key: str) -> _Expression:
    """A key of ``rank_pattern`` or ``alpha_pattern``."""
    return _Expression(field, key, "match", rf"(.*\.)?({key})$")


def _read_plain(key: str) -> tuple[_Shape, str]:
    """The shape of a plain key, and its text without what escapes a character."""
    characters = re.findall(r"\\?.", key)
    places = tuple(place for place, character in enumerate(characters) if character == ".")
    return (len(characters), places), "".join(character[-1] for character in characters)


def _masked(text: str, places: tuple[int, ...]) -> str:
    """``text`` with dots in these places."""
    characters = list(text)
    for place in places:
        characters[place] = "."
    return "".join(characters)


def _ends(name: str) -> list[str]:
    """The name, and what follows each of its dots."""
    return [name, *(name[place + 1 :] for place, character in enumerate(name) if character == ".")]


def _first_matches(expressions: Sequence[_Expression], names: Sequence[str], where: str) -> dict[str, int]:
    """The index of the first expression that matches, for every name that one matches."""
    if not expressions or not names:
        return {}
    asked = {"seconds": SECONDS, "expressions": [expression[2:] for expression in expressions], "names": names}
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-W", "ignore", str(Path(first_match.__file__))],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        field, key, *_ = expressions[0]
        raise ExtSubError(
            f"{where}: the regular expressions in adapter_config.json, first {shown(key)} in {field}, take more than "
            f"{SECONDS} seconds on {len(names)} modules: write the names of modules in their place"
        )
    answer = json.loads(done.stdout)
    if "broken" in answer:
        index, reason = answer["broken"]
        field, key, *_ = expressions[index]
        raise ExtSubError(f"{where}: {field} has {shown(key)}, which is not a regular expression ({brief(reason)})")
    return {name: index for name, index in zip(names, answer["first"], strict=True) if index is not None}
