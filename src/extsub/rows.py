"""Rows with named fields from a file or a hub dataset, each with where it stands. Knows nothing of what they mean."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from extsub.errors import ExtSubError, brief, require, shown
from extsub.files import read_bytes

SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")

MOST_SHOWN = 8
"""field names in an error"""

Row = Mapping[str, Any]


class Rows(NamedTuple):
    """What a file or dataset holds."""

    rows: list[tuple[str, Row]]
    """each with where it stands, so that a bad one can be found again"""
    sha256: str
    """of the file; of the rows as JSON lines where they came from the hub"""


def read_rows(name: str, subset: str | None = None, split: str = "train") -> Rows:
    """Read a .json (a list, or one row on each line), .jsonl, .csv or .parquet file, or a dataset of the hub.

    Args:
        name: the file, or ``owner/name`` or ``owner/name@revision``.
        subset: which configuration of a hub dataset.
        split: which split of a hub dataset.

    Raises:
        ExtSubError: nothing is there, it is malformed (by file and line), or it is empty.
    """
    path = Path(name).expanduser()
    if path.is_file():
        content = read_bytes(path, largest=None)
        sha256, rows = hashlib.sha256(content).hexdigest(), list(_read(path, content))
    elif path.is_dir():
        raise ExtSubError(f"{name} is a folder: give a file ({', '.join(SUFFIXES)}) or a dataset of the hub")
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
    path = Path(name).expanduser()
    try:
        content = read_bytes(path, largest=None)
    except OSError as error:
        raise ExtSubError(f"{name}: {(error.strerror or 'cannot be read').lower()}") from error
    text = _decode(path, content)
    if not text.strip():
        raise ExtSubError(f"{name} is blank: give one that holds text")
    return text.replace("\r\n", "\n"), hashlib.sha256(content).hexdigest()


def fields_of(row: Row) -> str:
    """The names of its fields, for an error."""
    return ", ".join(map(brief, list(row)[:MOST_SHOWN])) + (", ..." if len(row) > MOST_SHOWN else "")


def describe(value: object) -> str:
    """What a value is, in JSON's words, for an error."""
    kinds = {bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def _read(path: Path, content: bytes) -> Iterator[tuple[str, Row]]:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ExtSubError(f"{path}: unknown kind of file; expected {', '.join(SUFFIXES)}")
    if suffix == ".parquet":
        yield from _read_parquet(path)
        return
    text = _decode(path, content)
    if suffix == ".csv":
        rows = _read_csv(path, text)
    elif text.lstrip().startswith("["):
        rows = _read_json(path, text)
    else:
        rows = _read_lines(path, text)
    for where, row in rows:
        if not isinstance(row, dict):
            raise ExtSubError(f"{where}: a row is {describe(row)}, expected an object with named fields")
        yield where, row


def _decode(path: Path, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ExtSubError(f"{path}, line {line}: not UTF-8; convert the file") from error


def _read_lines(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    # Not splitlines(): it would also split at U+2028 and the like, which JSON allows inside a string.
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if line.strip():
            try:
                yield f"{path}, line {number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                hint = ": expected one row on each line, or a list of rows" if number == 1 else ""
                raise ExtSubError(f"{path}, line {number}: not JSON ({error}){hint}") from error


def _read_json(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    """A list of rows, decoded one by one to know the line of each."""
    decoder, blank = json.JSONDecoder(), re.compile(r"\s*")
    position, line, counted, first = text.index("[") + 1, 1, 0, True

    def skip(position: int) -> int:
        space = blank.match(text, position)
        return space.end() if space else position

    while True:
        position = skip(position)
        if text[position : position + 1] == "]":
            if rest := text[position + 1 :].strip():
                raise ExtSubError(f"{path}: not JSON (more text after the list: {shown(rest[:20])})")
            return
        if not first and text[position : position + 1] == ",":
            position = skip(position + 1)
        elif not first:
            line += text.count("\n", counted, position)
            raise ExtSubError(f"{path}, line {line}: not JSON (expected a comma or the end of the list)")
        line, counted, first = line + text.count("\n", counted, position), position, False
        try:
            row, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            raise ExtSubError(f"{path}, line {line}: not JSON ({error})") from error
        yield f"{path}, line {line}", row


def _read_csv(path: Path, text: str) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(2**31 - 1)  # the default, 128 KiB, is less than a long answer
    reader, header, before = csv.reader(io.StringIO(text, newline=""), strict=True), None, 0
    try:
        for row in reader:
            where, before = f"{path}, line {before + 1}", reader.line_num
            if not row:  # an empty line
                continue
            if header is None:
                header = row
                if twice := [name for name in header if header.count(name) > 1]:
                    raise ExtSubError(f"{where}: two columns are called {shown(twice[0])}")
            elif len(row) != len(header):
                raise ExtSubError(f"{where}: {len(row)} values under the {len(header)} columns of the header")
            else:
                yield where, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise ExtSubError(f"{path}, line {before + 1}: not CSV ({error})") from error


def _read_parquet(path: Path) -> Iterator[tuple[str, Row]]:
    parquet = require("pyarrow.parquet", "train")
    arrow = require("pyarrow", "train")
    try:
        rows = parquet.read_table(path).to_pylist()
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise ExtSubError(f"{path}: not Parquet ({str(error).splitlines()[0]})") from error
    for number, row in enumerate(rows, start=1):
        yield f"{path}, row {number}", row


def _from_hub(name: str, subset: str | None, split: str) -> Iterator[tuple[str, Row]]:
    hub_id = HUB_ID.fullmatch(name)
    folder = Path(name).expanduser().parent
    if not hub_id or name.startswith((".", "~")) or Path(name).suffix.lower() in SUFFIXES:
        raise ExtSubError(f"{name}: no such file, and not a dataset of the hub (owner/name or owner/name@revision)")
    if folder.is_dir() and not hub_id["revision"]:  # a slip, most likely: do not wait for the hub to say so
        raise ExtSubError(f"{name}: no such file in {folder}; if you mean the hub's dataset, write {name}@main")
    datasets = require("datasets", "train")
    try:
        dataset = datasets.load_dataset(hub_id["repo"], subset, split=split, revision=hub_id["revision"])
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        said = str(error).splitlines()[0]
        raise ExtSubError(
            f"{name}: no dataset could be loaded from the hub: {said}; if you have a file, give that"
        ) from error
    for number, row in enumerate(dataset, start=1):
        yield f"{name}, row {number}", row
