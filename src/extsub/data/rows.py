"""Rows with named fields from a file or a hub dataset, each with where it stands. Knows nothing of what they mean."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from extsub.data.formats import PACKED, SUFFIXES, Row, decode, kind_of, rows_in
from extsub.errors import ExtSubError, RowError
from extsub.escaping import brief
from extsub.extras import require
from extsub.files.reading import located, read_bytes
from extsub.hub import hub_id_of, nothing_there

MOST_SHOWN = 8
"""Field names that an error quotes."""


def refusal(wrong: Sequence[tuple[str, RowError]], beside: Sequence[str] = ()) -> ExtSubError:
    """The first row that is wrong, and how many others are.

    Args:
        wrong: where each stands, and what is wrong with it.
        beside: what else was found.
    """
    (where, first), others = wrong[0], len(wrong) - 1
    more = [*([f"{others:,} more such row{'s' if others > 1 else ''}"] if others else []), *beside]
    return ExtSubError(f"{where}: {first.wrong}{' (and ' + ', '.join(more) + ')' if more else ''}; {first.way}")


class Rows(NamedTuple):
    """What a file or dataset holds."""

    rows: list[tuple[str, Row]]
    """The rows, each with where it stands, so that a bad one can be found again."""
    sha256: str
    """The hash of the file, or of the rows as JSON lines where they came from the hub."""


def find_file(name: str, text: bool = False) -> Path | None:
    """The file that holds rows, or None for a dataset of the hub. Reads nothing, so it can be asked first of all.

    Args:
        text: a plain text (.txt) will do as well.

    Raises:
        ExtSubError: it is a folder, a file of an unknown kind, or neither a file nor the shape of a hub id.
    """
    path = located(name)
    if path.is_file():
        if not (text and path.suffix == ".txt"):
            kind_of(path)
        return path
    if path.is_dir():
        raise ExtSubError(f"{name} is a folder: give a file ({', '.join(SUFFIXES)}) or a dataset of the hub")
    if path.suffix.lower() in (*SUFFIXES, *PACKED, ".gz", ".txt"):
        raise nothing_there(name, "dataset", "file")
    hub_id_of(name, path, "dataset", "file")
    return None


def read_rows(name: str, subset: str | None = None, split: str = "train") -> Rows:
    """Read a file, or a dataset of the hub.

    A .json is a list of rows, an object that has them under a name such as ``data``, or one row on each line.

    Args:
        name: the file (``SUFFIXES``), or ``owner/name`` or ``owner/name@revision``.
        subset: which configuration of a hub dataset.
        split: which split of a hub dataset.

    Raises:
        ExtSubError: nothing is there, it is malformed (by file and line), or it is empty.
    """
    path = find_file(name)
    if path:
        content = _bytes(path)
        sha256, rows = hashlib.sha256(content).hexdigest(), list(rows_in(path, content))
    else:
        rows = list(_from_hub(name, subset, split))
        lines = (json.dumps(row, ensure_ascii=False, sort_keys=True, default=str) for _, row in rows)
        sha256 = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    if not rows:
        raise ExtSubError(f"{name} has no rows: give one that has")
    return Rows(rows, sha256)


def read_text(name: str) -> tuple[str, str]:
    """A plain text file, and its SHA-256.

    Raises:
        ExtSubError: it is not there, not UTF-8, or blank.
    """
    path = located(name)
    content = _bytes(path)
    text = decode(path, content)
    if not text.strip():
        raise ExtSubError(f"{name} is blank: give one that holds text")
    return text.replace("\r\n", "\n"), hashlib.sha256(content).hexdigest()


def reach(row: Any, name: str) -> Any:
    """The value of a field; ``prompt.text`` and ``answers.0`` reach into objects and lists, counted from 0.

    Raises:
        KeyError: the row has no such field.
    """
    if isinstance(row, Mapping) and name in row:  # also one that has a dot in its own name
        return row[name]
    first, dot, rest = name.partition(".")
    if isinstance(row, Mapping) and dot and first in row:
        return reach(row[first], rest)
    if isinstance(row, list) and first.isdecimal() and int(first) < len(row):
        return reach(row[int(first)], rest) if dot else row[int(first)]
    raise KeyError(name)


def has(row: Row, name: str) -> bool:
    """Whether ``reach`` finds a field."""
    try:
        reach(row, name)
    except KeyError:
        return False
    return True


def fields_of(row: Row) -> str:
    """The names of a row's fields, for an error."""
    return ", ".join(map(brief, list(row)[:MOST_SHOWN])) + (", ..." if len(row) > MOST_SHOWN else "")


def _bytes(path: Path) -> bytes:
    try:
        return read_bytes(path, largest=None)
    except OSError as error:
        raise ExtSubError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from error


def _from_hub(name: str, subset: str | None, split: str) -> Iterator[tuple[str, Row]]:
    hub_id = hub_id_of(name, located(name), "dataset", "file")
    datasets = require("datasets", "train")
    try:
        dataset = datasets.load_dataset(hub_id.repo, subset, split=split, revision=hub_id.revision)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        said = str(error).splitlines()[0]
        raise ExtSubError(
            f"{name}: no dataset could be loaded from the hub: {said}; if you have a file, give that"
        ) from error
    for number, row in enumerate(dataset, start=1):
        yield f"{name}, row {number}", row
