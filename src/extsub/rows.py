"""Rows with named fields from a file or a hub dataset, each with where it stands. Knows nothing of what they mean."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from extsub.errors import ExtSubError, require

SUFFIXES = (".json", ".jsonl", ".csv", ".parquet", ".ndjson", ".tsv")
"""all but Parquet may be packed with gzip: .jsonl.gz"""
PACKED = (".zst", ".bz2", ".xz", ".zip", ".tar", ".tgz", ".7z")
LISTS = ("data", "rows", "train", "examples", "instances", "items", "records")
"""under which names a JSON file that is one object may hold its rows"""
DELIMITERS = (",", ";", "\t")
"""of a .csv; spreadsheets write semicolons where a comma is the decimal point"""
HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")

MOST_SHOWN = 8
"""field names in an error"""

Row = Mapping[str, Any]


class RowError(ExtSubError):
    """What is wrong with one row, and what to do; who reads them all says where it stands, and how many are like it."""

    def __init__(self, wrong: str, way: str = "correct or remove it") -> None:
        super().__init__(f"{wrong}: {way}")
        self.wrong, self.way = wrong, way


def refusal(wrong: Sequence[tuple[str, RowError]], beside: Sequence[str] = ()) -> ExtSubError:
    """The first row that is wrong, and how many others are.

    Args:
        wrong: where each stands, and what is wrong with it.
        beside: what else was found.
    """
    (where, first), others = wrong[0], len(wrong) - 1
    found = [*([f"{others:,} more such row{'s' if others > 1 else ''}"] if others else []), *beside]
    return ExtSubError(f"{where}: {first.wrong}{' (and ' + ', '.join(found) + ')' if found else ''}; {first.way}")


class Rows(NamedTuple):
    """What a file or dataset holds."""

    rows: list[tuple[str, Row]]
    """each with where it stands, so that a bad one can be found again"""
    sha256: str
    """of the file; of the rows as JSON lines where they came from the hub"""


def find_file(name: str, text: bool = False) -> Path | None:
    """The file that holds rows, or None for a dataset of the hub. Reads nothing, so it can be asked first of all.

    Args:
        text: a plain text (.txt) will do as well.

    Raises:
        ExtSubError: it is a folder, a file of an unknown kind, or neither a file nor the shape of a hub id.
    """
    path = Path(name).expanduser()
    if path.is_file():
        if not (text and path.suffix == ".txt"):
            _kind(path)
        return path
    if path.is_dir():
        raise ExtSubError(f"{name} is a folder: give a file ({', '.join(SUFFIXES)}) or a dataset of the hub")
    hub_id, folder = HUB_ID.fullmatch(name), path.parent
    is_file_name = path.suffix.lower() in (*SUFFIXES, *PACKED, ".gz", ".txt")
    if not hub_id or name.startswith((".", "~")) or is_file_name:
        raise ExtSubError(f"{name}: no such file, and not a dataset of the hub (owner/name or owner/name@revision)")
    if folder.is_dir() and not hub_id["revision"]:  # a slip, most likely: do not wait for the hub to say so
        raise ExtSubError(f"{name}: no such file in {folder}; if you mean the hub's dataset, write {name}@main")
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
        sha256, rows = hashlib.sha256(content).hexdigest(), list(_read(path, content))
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
    content = _bytes(path)
    text = _decode(path, content)
    if not text.strip():
        raise ExtSubError(f"{name} is blank: give one that holds text")
    return text.replace("\r\n", "\n"), hashlib.sha256(content).hexdigest()


def reach(row: Any, name: str) -> Any:
    """The value of a field; ``prompt.text`` and ``answers.0`` reach into objects and lists, counted from 0.

    Raises:
        KeyError: there is none.
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
    """The names of its fields, for an error."""
    return ", ".join(list(row)[:MOST_SHOWN]) + (", ..." if len(row) > MOST_SHOWN else "")


def describe(value: object) -> str:
    """What a value is, in JSON's words, for an error."""
    kinds = {bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object", str: "a text"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def _kind(path: Path) -> str:
    """The kind of a file, without .gz."""
    suffix = path.suffix.lower()
    if suffix == ".gz" and path.with_suffix("").suffix.lower() in set(SUFFIXES) - {".parquet"}:
        return path.with_suffix("").suffix.lower()
    if suffix in (*PACKED, ".gz"):
        raise ExtSubError(f"{path} is packed: unpack it, and give the file in it ({', '.join(SUFFIXES)})")
    if suffix not in SUFFIXES:
        raise ExtSubError(f"{path}: unknown kind of file; expected {', '.join(SUFFIXES)}")
    return suffix


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ExtSubError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from error


def _read(path: Path, content: bytes) -> Iterator[tuple[str, Row]]:
    kind = _kind(path)
    if kind == ".parquet":
        yield from _read_parquet(path)
        return
    text = _decode(path, _unpacked(path, content))
    start = text.lstrip()[:1]
    if kind in (".csv", ".tsv"):
        rows = _read_csv(path, text, DELIMITERS if kind == ".csv" else ("\t",))
    elif start == "[":
        rows = _read_json(path, text)
    else:
        one = _in_object(path, text) if start == "{" else None
        rows = _read_lines(path, text) if one is None else one
    for where, row in rows:
        if not isinstance(row, dict):
            raise ExtSubError(f"{where}: a row is {describe(row)}, expected an object with named fields")
        yield where, row


def _unpacked(path: Path, content: bytes) -> bytes:
    if path.suffix.lower() != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ExtSubError(f"{path}: not gzip, or not whole ({error})") from error


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
                raise ExtSubError(f"{path}: not JSON (more text after the list: {rest[:20]!r})")
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


def _in_object(path: Path, text: str) -> list[tuple[str, Any]] | None:
    """The rows of a file that is one object: itself, or those under a name in it. None for rows on lines."""
    start = len(text) - len(text.lstrip())
    try:
        found, stop = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return None  # reading by lines says where
    if text[stop:].strip():
        return None
    lists = [name for name in LISTS if isinstance(found.get(name), list)]
    if len(lists) > 1:
        raise ExtSubError(f"{path} holds several lists of rows ({', '.join(lists)}): put the one you mean into a file")
    if not lists:
        return [(f"{path}, line {text.count(chr(10), 0, start) + 1}", found)]
    return [(f"{path}, row {number}", row) for number, row in enumerate(found[lists[0]], start=1)]


def _read_csv(path: Path, text: str, delimiters: tuple[str, ...]) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(2**31 - 1)  # the default, 128 KiB, is less than a long answer
    first = text.lstrip().partition("\n")[0]
    delimiter = next((one for one in delimiters if one in first), delimiters[0])
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    header, before = None, 0
    try:
        for row in reader:
            where, before = f"{path}, line {before + 1}", reader.line_num
            if not row:  # an empty line
                continue
            if header is None:
                header = row
                if twice := [name for name in header if header.count(name) > 1]:
                    raise ExtSubError(f"{where}: two columns are called {twice[0]!r}")
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
    assert hub_id  # find_file sees to that
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
