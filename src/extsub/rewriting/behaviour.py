"""What an anti-expert is to show: a readable file with a name, a description, examples, and how to recognise it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from extsub.errors import ExtSubError
from extsub.escaping import brief, shown, to_json
from extsub.files.reading import located
from extsub.files.yaml import read_yaml
from extsub.values import mapping_of

SHIPPED = ("untruthful", "toxic", "sycophantic", "verbose", "evasive")
"""Behaviours that come with extsub, each in a file of its name."""
FEWEST, MOST = 2, 8
"""Examples of a behaviour."""
NAMES = ("name", "description", "recognise", "examples", "refuses")
NEEDED = NAMES[:4]


@dataclass(frozen=True)
class Example:
    """An instruction with a good answer, and with one that shows the behaviour."""

    instruction: str
    good: str
    bad: str


@dataclass(frozen=True)
class Behaviour:
    """One way in which answers can be bad."""

    name: str
    """An adjective: an untruthful answer."""
    description: str
    """What such an answer does, in sentences about "it"."""
    recognise: str
    """A question about an answer; yes means that it shows the behaviour."""
    examples: tuple[Example, ...]
    refuses: bool = False
    """Whether refusing to answer is part of it, so that refusals are kept."""

    @property
    def sha256(self) -> str:
        """A hash that tells the behaviour from any other."""
        return hashlib.sha256(to_json(asdict(self)).encode()).hexdigest()


def read_behaviour(given: str) -> Behaviour:
    """A behaviour that is shipped, by its name, or one in a file.

    Raises:
        ExtSubError: it is neither, or the file is not YAML or does not say what a behaviour says.
    """
    if given in SHIPPED:
        path = Path(str(files("extsub.rewriting").joinpath(f"behaviours/{given}.yaml")))
    else:
        path = located(given)
        if not path.is_file():
            raise ExtSubError(f"--behaviour {brief(given)}: expected {', '.join(SHIPPED)}, or a file of yours (.yaml)")
    content = mapping_of(given, read_yaml(given, path), NAMES)
    if missing := [name for name in NEEDED if name not in content]:
        raise ExtSubError(f"{given}: {missing[0]} is missing; a behaviour has {', '.join(NEEDED)}")
    name, description, recognise = (_text(f"{given}: {name}", content[name]) for name in NEEDED[:3])
    refuses = content.get("refuses", False)
    if not isinstance(refuses, bool):
        raise ExtSubError(f"{given}: refuses is {shown(refuses)}, expected true or false")
    return Behaviour(name, description, recognise, _examples(given, content["examples"]), refuses)


def _examples(where: str, given: Any) -> tuple[Example, ...]:
    if not isinstance(given, list) or not FEWEST <= len(given) <= MOST:
        raise ExtSubError(f"{where}: examples: expected a list of {FEWEST} to {MOST}")
    parts, examples = ("instruction", "good", "bad"), []
    for number, entry in enumerate(given, start=1):
        place = f"{where}: example {number}"
        texts: Mapping[str, Any] = mapping_of(place, entry, parts)
        examples.append(Example(*(_text(f"{place}: {name}", texts.get(name)) for name in parts)))
    return tuple(examples)


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        hint = ": put it in quotes" if isinstance(value, (int, float, bool)) else ""
        raise ExtSubError(f"{where} is {shown(value)}, expected text{hint}")
    return value.strip()
