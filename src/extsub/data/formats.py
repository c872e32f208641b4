"""What a file of rows holds: JSON, JSON on lines, CSV, Parquet; each row with where it stands."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from extsub.errors import ExtSubError
from extsub.escaping import brief, shown
from extsub.extras import require

SUFFIXES = (".json", ".jsonl", ".csv", ".parquet", ".ndjson", ".tsv")
"""Endings of files that are read; all but Parquet may be packed with gzip (.jsonl.gz)."""
PACKED = (".zst", ".bz2", ".xz", ".zip", ".tar", ".tgz", ".7z")
LISTS = ("data", "rows", "train", "examples", "instances", "items", "records")
"""Names under which a JSON file that is one object may hold its rows."""
LARGEST = 2**31
"""Bytes that a packed file may hold."""
DELIMITERS = (",", ";", "\t")
"""Separators of a .csv; spreadsheets write semicolons where a comma is the decimal point."""

Row = Mapping[str, Any]


def describe(value: object) -> str:
    """What a value is, in JSON's words, for an error."""
    kinds = {bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object", str: "a text"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def kind_of(path: Path) -> str:
    """The kind of a file: its suffix, without .gz.

    Raises:
        ExtSubError: it is packed otherwise, or no kind that is read.
    """
    suffix = path.suffix.lower()
    if suffix == ".gz" and path.with_suffix("").suffix.lower() in set(SUFFIXES) - {".parquet"}:
        return path.with_suffix("").suffix.lower()
    if suffix in (*PACKED, ".gz"):
        raise ExtSubError(f"{path} is packed: unpack it, and give the file in it ({', '.join(SUFFIXES)})")
    if suffix not in SUFFIXES:
        raise ExtSubError(f"{path}: unknown kind of file; expected {', '.join(SUFFIXES)}")
    return suffix


def rows_in(path: Path, content: bytes) -> Iterator[tuple[str, Row]]:
    """Every row of a file, as it is read.

    Raises:
        ExtSubError: it is malformed; the message says where.
    """
    kind = kind_of(path)
    if kind == ".parquet":
        yield from _read_parquet(path)
        return
    text = decode(path, _unpacked(path, content))
    start = text.lstrip()[:1]
    if kind in (".csv", ".tsv"):
        rows = _read_csv(path, text, DELIMITERS if kind == ".csv" else ("\t",))
    elif start == "[":
        rows = _read_json(path, text)
    else:
        in_object = _in_object(path, text) if start == "{" else None
        rows = _read_lines(path, text) if in_object is None else in_object
    for where, row in rows:
        if not isinstance(row, dict):
            raise ExtSubError(f"{where}: a row is {describe(row)}, expected an object with named fields")
        yield where, row


def _unpacked(path: Path, content: bytes) -> bytes:
    if path.suffix.lower() != ".gz":
        return content
    try:
        unpacked = gzip.GzipFile(fileobj=io.BytesIO(content)).read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ExtSubError(f"{path}: not gzip, or not whole ({brief(error)})") from error
    if len(unpacked) > LARGEST:  # a kilobyte can unpack to a megabyte, and a megabyte to a gigabyte
        raise ExtSubError(
            f"{path} unpacks to more than {LARGEST // 2**20:,} MiB: unpack it first, if that is what it holds"
        )
    return unpacked


def decode(path: Path, content: bytes) -> str:
    """A text in UTF-8, perhaps with a mark at its beginning.

    Raises:
        ExtSubError: the content is not UTF-8.
    """
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


def _in_object(path: Path, text: str) -> list[tuple[str, Any]] | None:
    """The rows of a file that is one object: itself, or those under a name in it. None for rows on lines."""
    start = len(text) - len(text.lstrip())
    try:
        content, stop = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return None  # reading by lines says where
    if text[stop:].strip():
        return None
    lists = [name for name in LISTS if isinstance(content.get(name), list)]
    if len(lists) > 1:
        raise ExtSubError(f"{path} holds several lists of rows ({', '.join(lists)}): put the one you mean into a file")
    if not lists:
        return [(f"{path}, line {text.count(chr(10), 0, start) + 1}", content)]
    return [(f"{path}, row {number}", row) for number, row in enumerate(content[lists[0]], start=1)]


def _read_csv(path: Path, text: str, delimiters: tuple[str, ...]) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(2**31 - 1)  # the default, 128 KiB, is less than a long answer
    first = text.lstrip().partition("\n")[0]
    delimiter = next((candidate for candidate in delimiters if candidate in first), delimiters[0])
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    header, before = None, 0
    try:
        for row in reader:
            where, before = f"{path}, line {before + 1}", reader.line_num
            if not row:  # an empty line
                continue
            if header is None:
                header = row
                if twice := [name for name, count in Counter(header).items() if count > 1]:
                    raise ExtSubError(f"{where}: two columns are called {shown(twice[0])}")
            elif len(row) != len(header):
                raise ExtSubError(f"{where}: {len(row)} values under the {len(header)} columns of the header")
            else:
                yield where, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise ExtSubError(f"{path}, line {before + 1}: not CSV ({brief(error)})") from error


def _read_parquet(path: Path) -> Iterator[tuple[str, Row]]:
    parquet = require("pyarrow.parquet", "train")
    arrow = require("pyarrow", "train")
    try:
        rows = parquet.read_table(path).to_pylist()
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise ExtSubError(f"{path}: not Parquet ({brief(error)})") from error
    for number, row in enumerate(rows, start=1):
        yield f"{path}, row {number}", row
