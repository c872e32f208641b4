"""What an input says of its licence and its data: its model card's front matter, and extsub's own ``training.json``.

Both are others' files. Nothing in them is trusted to be true to form, and what is not is taken as not stated.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

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
    fields = _front_matter(folder)
    licence = {name: fields[name] for name, form in LICENCE.items() if _has_form(fields.get(name), form)}
    datasets = fields.get("datasets")
    datasets = [datasets] if isinstance(datasets, str) else datasets if isinstance(datasets, list) else []
    found = [one for one in datasets[:MOST] if _has_form(one, REPOSITORY)]
    trained, data = data_named(_trained_on(folder))
    return Stated(licence if "license" in licence else {}, tuple(dict.fromkeys([*found, *trained])), data)


def data_named(name: str) -> tuple[tuple[str, ...], str]:
    """(the hub ids, the file) in what ``extsub train`` was given as its data."""
    repository = name.partition("@")[0]
    if not name.lower().endswith(FILES) and "/" in name and _has_form(repository, REPOSITORY):
        return (repository,), ""
    return (), line(re.split(r"[\\/]", name)[-1])


def _has_form(value: Any, form: str) -> bool:
    return isinstance(value, str) and re.fullmatch(form, value, re.ASCII) is not None


def _front_matter(folder: Path) -> dict[str, Any]:
    found = FRONT_MATTER.match(_beginning(folder, CARD))
    try:
        # BaseLoader makes strings, lists and mappings, whatever the tags and dates say.
        fields = yaml.load(found[1], yaml.BaseLoader) if found else None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError):  # the last three: "\UFFFFFFFF", 5,000 times "["
        return {}
    return fields if isinstance(fields, dict) else {}


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
