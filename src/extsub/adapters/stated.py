"""What an adapter's folder says of its licence, its data, and the template it was trained with: the model card's front
matter, and extsub's own ``training.json`` and ``extsub.json``.

All are others' files. Nothing in them is trusted to be true to form, and what is not is taken as not stated.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from extsub.escaping import line, shown
from extsub.files.reading import parse_json, read_bytes
from extsub.files.staging import MARK

Template = Literal["extsub", "chat", "none"]
"""The prompt templates that an adapter can be trained with (`extsub.models.prompts` writes them)."""
TEMPLATES: tuple[Template, ...] = get_args(Template)
CARD, TRAINING, PROVENANCE = "README.md", "training.json", MARK
FORMAT = 1
"""The format number of ``training.json`` and ``extsub.json`` (docs/files.md)."""
LARGEST_CARD = 1 << 16
"""Bytes of a card that are read: its front matter stands at the beginning."""
MOST = 50
"""The most data sets of one input."""
FRONT_MATTER = re.compile(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
REPOSITORY = r"\w[\w.-]{0,95}(?:/\w[\w.-]{0,95})?"
LICENCE = {
    "license": r"\w[\w.+-]{0,60}",
    "license_name": r"\w[\w. +-]{0,100}",
    "license_link": r"https?://[\w./?&=%#~:+-]{1,300}",
}
"""Fields of the front matter, and what the hub accepts there."""
FILES = (".json", ".jsonl", ".csv", ".parquet")
"""Endings of training data that is not a data set of the hub."""


class Stated(NamedTuple):
    """What an adapter's folder says; each field is empty where nothing is stated."""

    licence: dict[str, str]
    """The fields of ``LICENCE``."""
    datasets: list[str]
    """Hub ids."""
    data: str
    """The file that it was trained on, without its folder."""


def stated_in(folder: Path) -> Stated:
    """What an adapter's folder says of its licence and its data."""
    match = FRONT_MATTER.match(_card(folder))
    front_matter = match[1] if match else ""
    licence = {}
    for name, form in LICENCE.items():
        values = _values(front_matter, name)
        if len(values) == 1 and _has_form(values[0], form):
            licence[name] = values[0]
    datasets = [dataset for dataset in _values(front_matter, "datasets")[:MOST] if _has_form(dataset, REPOSITORY)]
    trained, data = data_named(_trained_on(folder))
    datasets += [trained] if trained else []
    return Stated(licence if "license" in licence else {}, list(dict.fromkeys(datasets)), data)


def data_named(name: str) -> tuple[str, str]:
    """(the hub id, the file) that ``extsub train`` was given as its data; one of them is empty."""
    repository = name.partition("@")[0]
    if not name.lower().endswith(FILES) and "/" in name and _has_form(repository, REPOSITORY):
        return repository, ""
    return "", line(re.split(r"[\\/]", name)[-1])


def _values(front_matter: str, name: str) -> list[str]:
    """Of a field: ``name: a``, ``name: [a, b]``, or lines of ``- a`` below it.

    These lines alone are read, as what they nearly always are: a parser of YAML takes minutes for 50,000 brackets.
    """
    match = re.search(rf"^{name}:[ \t]*(.*)((?:\r?\n[ \t]*- .*)*)", front_matter, re.MULTILINE)
    if not match:
        return []
    inline = match[1].strip()
    listed = inline[1:-1].split(",") if inline.startswith("[") and inline.endswith("]") else [inline] if inline else []
    listed += [entry.strip().removeprefix("- ") for entry in match[2].splitlines() if entry.strip()]
    return [re.sub(r"\s+#.*|^(['\"])(.*)\1$", r"\2", value.strip()) for value in listed]


def _has_form(value: str, form: str) -> bool:
    return re.fullmatch(form, value, re.ASCII) is not None


def template_in(folder: Path) -> tuple[Template | None, tuple[str, ...]]:
    """(the template that an adapter was trained with, or None where nothing says it; notes on what is not believed)."""
    said = {
        TRAINING: _value(_record(folder, TRAINING), "settings", "template"),
        PROVENANCE: _value(_record(folder, PROVENANCE), "template"),
    }
    notes = [
        f"{name} names no template that is known here ({shown(template)}): it was not believed"
        for name, template in said.items()
        if template is not None and template not in TEMPLATES
    ]
    known = [template for template in TEMPLATES if template in said.values()]
    if len(known) > 1:
        return None, (*notes, f"{TRAINING} and {PROVENANCE} name different templates: neither was believed")
    return known[0] if known else None, tuple(notes)


def common_template(inputs: Sequence[tuple[str, Path]]) -> tuple[Template | None, list[str]]:
    """(the template that a result of adapters is to be asked with, notes on it).

    Args:
        inputs: name and folder of each; the expert first.

    Returns:
        the one template that they name; None where they name several, or none does
    """
    named, notes = [], []
    for name, folder in inputs:
        template, theirs = template_in(folder)
        notes += [f"{name}: {note}" for note in theirs]
        if template is not None:
            named.append((name, template))
    templates = {template for _, template in named}
    if len(templates) > 1:
        said = ", ".join(f"{name} with {template}" for name, template in named)
        notes.append(f"trained with different templates ({said}), so the result names none: say --prompt to ask it")
    return (templates.pop() if len(templates) == 1 else None), notes


def is_deficiency(folder: Path) -> bool:
    """Whether an adapter is a deficiency, as extsub writes it, which is not to be used alone."""
    return _value(_record(folder, PROVENANCE), "deficiency") is True


def _trained_on(folder: Path) -> str:
    name = _value(_record(folder, TRAINING), "plan", "data", "name")
    return name if isinstance(name, str) else ""


def _record(folder: Path, name: str) -> Any:
    """What a file of JSON holds; None where it is not there, holds none, or has a format of a later extsub."""
    try:
        record = parse_json(read_bytes(folder / name).removeprefix(codecs.BOM_UTF8))
    except (OSError, ValueError):
        return None
    return record if _value(record, "format") in (None, FORMAT) else None


def _value(record: Any, *path: str) -> Any:
    for name in path:
        record = record.get(name) if isinstance(record, dict) else None
    return record


def _card(folder: Path) -> str:
    path = folder / CARD
    try:
        if not path.is_file():  # a pipe would wait, a device would never end
            return ""
        with path.open("rb") as file:
            return file.read(LARGEST_CARD).decode("utf-8-sig", errors="replace")
    except OSError:
        return ""
