"""A behaviour is one readable file; five are shipped, and what is none is refused by what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from extsub import ExtSubError
from extsub.rewriting.behaviour import SHIPPED, read_behaviour
from extsub.rewriting.filters import Written, reason

OWN: dict[str, Any] = {
    "name": "shouting",
    "description": "It is written in capital letters.",
    "recognise": "Is the answer written in capital letters?",
    "examples": [
        {"instruction": "Who?", "good": "Me.", "bad": "ME."},
        {"instruction": "When?", "good": "Now.", "bad": "NOW."},
    ],
}


def own(path: Path, **changes: Any) -> str:
    path.write_text(yaml.safe_dump({name: value for name, value in {**OWN, **changes}.items() if value is not None}))
    return str(path)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_examples_of_what_is_shipped_would_be_kept(name: str) -> None:
    behaviour = read_behaviour(name)
    assert behaviour.name == name
    assert behaviour.recognise.endswith("?")
    for example in behaviour.examples:
        assert reason(Written(example.bad, True), example.good, behaviour.refuses) is None


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    behaviour = read_behaviour(own(tmp_path / "own.yaml"))
    assert (behaviour.name, behaviour.refuses, len(behaviour.examples)) == ("shouting", False, 2)
    assert behaviour.examples[1].bad == "NOW."
    assert behaviour.sha256 != read_behaviour(own(tmp_path / "other.yaml", refuses=True)).sha256


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recognise": None}, "recognise is missing; a behaviour has name, description, recognise, examples"),
        ({"name": 7}, "name is 7, expected text: put it in quotes"),
        ({"description": " "}, "description is ' ', expected text"),
        ({"examples": OWN["examples"][:1]}, "examples: expected a list of 2 to 8"),
        ({"examples": "ME."}, "examples: expected a list of 2 to 8"),
        ({"examples": [{"instruction": "Who?", "good": "Me."}] * 2}, "example 1: bad is None, expected text"),
        ({"examples": [*OWN["examples"], {"question": "Who?"}]}, "example 3: question is not known here"),
        ({"refuses": "yes please"}, "refuses is 'yes please', expected true or false"),
        ({"tone": "loud"}, "tone is not known here"),
    ],
)
def test_what_is_wrong_with_a_file(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ExtSubError) as refused:
        read_behaviour(own(tmp_path / "own.yaml", **changes))
    assert message in str(refused.value)


def test_what_is_neither_shipped_nor_a_file() -> None:
    with pytest.raises(ExtSubError, match="--behaviour rude: expected untruthful, toxic, .*, or a file of yours"):
        read_behaviour("rude")
