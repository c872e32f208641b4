"""What an input says of its licence and its data: its model card's front matter, and extsub's own ``training.json``.

Both are others' files. Nothing in them is trusted to be true to form, and what is not is taken as not stated.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

from extsub.escaping import line

CARD, TRAINING = "README.md", "training.json"
LARGEST = {CARD: 1 << 16, TRAINING: 1 << 24}
"""bytes of a file that are read: a card's front matter stands at its beginning"""
MOST = 50
"""data sets of one input"""
FRONT_MATTER = re.compile(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
REPOSITORY = r"\w[\w.-]{0,95}(?:/\w[\w.-]{0,95})?"
LICENCE = {
    "license": r"\w[\w.+-]{0,60}",
    "license_name": r"\w[\w. +-]{0,100}",
    "license_link": r"https?://[\w./?&=%#~:+-]{1,300}",
}
"""a field of the front matter: what the hub accepts there"""
FILES = (".json", ".jsonl", ".csv", ".parquet")
"""as what training data ends that is no data set of the hub"""


class Stated(NamedTuple):
    """Empty where nothing is stated."""

    licence: dict[str, str]
    """the fields of ``LICENCE``"""
    datasets: tuple[str, ...]
    """hub ids"""
    data: str
    """the file that it was trained on, without its folder"""


def stated_in(folder: Path) -> Stated:
    """What an adapter's folder says."""
    found = FRONT_MATTER.match(_beginning(folder, CARD))
    front_matter = found[1] if found else ""
    licence = {}
    for name, form in LICENCE.items():
        values = _values(front_matter, name)
        if len(values) == 1 and _has_form(values[0], form):
            licence[name] = values[0]
    found = [one for one in _values(front_matter, "datasets")[:MOST] if _has_form(one, REPOSITORY)]
    trained, data = data_named(_trained_on(folder))
    return Stated(licence if "license" in licence else {}, tuple(dict.fromkeys([*found, *trained])), data)


def data_named(name: str) -> tuple[tuple[str, ...], str]:
    """(the hub ids, the file) in what ``extsub train`` was given as its data."""
    repository = name.partition("@")[0]
    if not name.lower().endswith(FILES) and "/" in name and _has_form(repository, REPOSITORY):
        return (repository,), ""
    return (), line(re.split(r"[\\/]", name)[-1])


def _values(front_matter: str, name: str) -> list[str]:
    """Of a field: ``name: a``, ``name: [a, b]``, or lines of ``- a`` below it.

    These lines alone are read, as what they nearly always are: a parser of YAML takes minutes for 50,000 brackets.
    """
    found = re.search(rf"^{name}:[ \t]*(.*)((?:\r?\n[ \t]*- .*)*)", front_matter, re.MULTILINE)
    if not found:
        return []
    inline = found[1].strip()
    listed = inline[1:-1].split(",") if inline.startswith("[") and inline.endswith("]") else [inline] if inline else []
    listed += [one.strip().removeprefix("- ") for one in found[2].splitlines() if one.strip()]
    return [re.sub(r"\s+#.*|^(['\"])(.*)\1$", r"\2", one.strip()) for one in listed]


def _has_form(value: str, form: str) -> bool:
    return re.fullmatch(form, value, re.ASCII) is not None


def _trained_on(folder: Path) -> str:
    try:
        name = json.loads(_beginning(folder, TRAINING))["plan"]["data"]["name"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return name if isinstance(name, str) else ""


def _beginning(folder: Path, name: str) -> str:
    path = folder / name
    try:
        if not path.is_file():  # a pipe would wait, a device would never end
            return ""
        with path.open("rb") as file:
            return file.read(LARGEST[name]).decode("utf-8-sig", errors="replace")
    except OSError:
        return ""
