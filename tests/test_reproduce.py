"""docs/reproduce.md: its commands are commands, its recipes are there, and its hours are what its formula gives."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from extsub.cli import app, offer_options

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "reproduce.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^\$ extsub (.*)$", PAGE, re.MULTILINE)
PARAMETERS, RATE = 6.738e9, 109e12
"""as the page says"""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is parsed, with the files beside it that settings look for at once, and not run."""
    monkeypatch.chdir(tmp_path)
    for name in re.findall(r"--data (\S+)", command):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("{}")
    tokens = shlex.split(command)
    offer_options(tokens)
    function, *_ = app.parse_args(tokens, exit_on_error=False, print_error=False)
    assert function.__name__ == tokens[0]


def test_every_recipe_is_there() -> None:
    recipes = set(re.findall(r"examples/[\w.-]+\.yaml", PAGE))
    assert len(recipes) == 3
    assert all((ROOT / recipe).is_file() for recipe in recipes)
    for name in re.findall(r"Ext-Sub/[\w.-]*\w", PAGE):
        assert any(name in (ROOT / recipe).read_text(encoding="utf-8") for recipe in recipes), name


def test_the_hours_are_those_of_the_formula() -> None:
    rows = re.findall(r"^\| [^|]+ \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", PAGE, re.MULTILINE)
    assert len(rows) >= 4
    for tokens, each, hours in rows:
        found = float(tokens) * 1e6 * float(each) * PARAMETERS / (RATE * 3600)
        assert round(found, 1) == float(hours)
