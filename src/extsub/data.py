"""Instruction data: a file or a hub dataset becomes a list of examples, each row checked. Knows no model, no tokens."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from extsub.errors import ExtSubError, require
from extsub.prompts import ROLES, Turn, user_turn

FORMATS = (("messages",), ("prompt", "completion"), ("instruction", "output"))
"""what a row must have, first match counts; ``input`` may stand beside ``instruction``"""
FIELDS = ("instruction", "input", "output", "prompt", "completion", "messages")
SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
MOST_SHOWN = 8
"""field names in an error"""

Row = Mapping[str, Any]


class Example(NamedTuple):
    """What every format becomes: the conversation so far, and the answer to learn."""

    turns: tuple[Turn, ...]
    answer: str


@dataclass(frozen=True)
class Data:
    """The examples of one file or dataset, and what the check of its rows found."""

    name: str
    """as the user gave it"""
    examples: list[Example] = field(repr=False)
    sha256: str
    """of the file; of the rows as JSON lines where the data came from the hub"""
    empty_answers: int
    """rows left out because there is nothing to learn"""
    duplicates: int
    """rows that say the same as an earlier one; they are kept"""
    notes: tuple[str, ...] = ()
    """what a user should know, in sentences"""


def load_data(name: str, fields: Mapping[str, str] | None = None) -> Data:
    """Read and check instruction data.

    Args:
        name: a .json, .jsonl, .csv or .parquet file, or a dataset on the hub (``owner/name`` or
            ``owner/name@revision``, its ``train`` split).
        fields: what the data calls our fields: ``{"output": "right_answer"}``.

    Raises:
        ExtSubError: nothing is there, the file is malformed or empty, a field is unknown, or a row has no prompt or
            values of a wrong type; the message names the first such row by file and line, and counts the others.
    """
    fields = dict(fields or {})
    if unknown := sorted(set(fields) - set(FIELDS)):
        raise ExtSubError(f"--field {unknown[0]}=...: no such field of ours; there are {', '.join(FIELDS)}")
    path = Path(name).expanduser()
    if path.is_file():
        content = path.read_bytes()
        sha256, rows = hashlib.sha256(content).hexdigest(), list(_read(path, content))
    elif path.is_dir():
        raise ExtSubError(f"{name} is a folder: give a file ({', '.join(SUFFIXES)}) or a dataset of the hub")
    else:
        rows = list(_from_hub(name))
        lines = (json.dumps(row, ensure_ascii=False, sort_keys=True, default=str) for _, row in rows)
        sha256 = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    if not rows:
        raise ExtSubError(f"{name} has no rows: there is nothing to learn from")
    return _check(name, rows, fields, sha256)


def _check(name: str, rows: list[tuple[str, Row]], fields: dict[str, str], sha256: str) -> Data:
    wanted = _choose_format(name, rows[0], fields)
    examples, wrong, empty = [], [], []
    for where, row in rows:
        try:
            example = _example(row, wanted, fields)
        except _BadRowError as error:
            wrong.append(f"{where}: {error}")
            continue
        if example.answer.strip():
            examples.append(example)
        else:
            empty.append(where)
    counts = Counter(examples)
    duplicates = len(examples) - len(counts)
    if wrong:
        found = [f"{len(wrong) - 1} more such rows"] if len(wrong) > 1 else []
        found += [f"{len(empty)} with an empty answer"] if empty else []
        found += [f"{duplicates} duplicates"] if duplicates else []
        raise ExtSubError(wrong[0] + (f" (and {', '.join(found)})" if found else "") + "; correct or remove it")
    if not examples:
        raise ExtSubError(f"{name}: every answer is empty, first {empty[0]}: there is nothing to learn from")
    notes = []
    if empty:
        notes.append(f"{len(empty):,} of {len(rows):,} rows have an empty answer and are left out, first {empty[0]}")
    if duplicates:
        notes.append(f"{duplicates:,} of {len(rows):,} rows say the same as an earlier row; they are kept")
    return Data(name, examples, sha256, len(empty), duplicates, tuple(notes))


class _BadRowError(Exception):
    """What is wrong with one row."""


def _choose_format(name: str, first: tuple[str, Row], fields: dict[str, str]) -> tuple[str, ...]:
    where, row = first
    there = ", ".join(list(row)[:MOST_SHOWN]) + (", ..." if len(row) > MOST_SHOWN else "")
    for ours, theirs in fields.items():
        if theirs not in row:
            raise ExtSubError(f"--field {ours}={theirs}: {name} has no field {theirs!r}; it has {there}")
    for wanted in sorted(FORMATS, key=lambda wanted: -len(set(wanted) & set(fields))):  # what the user named, first
        if all(fields.get(ours, ours) in row for ours in wanted):
            unused = sorted(set(fields) - {*wanted, *(["input"] if "instruction" in wanted else [])})
            if unused:
                raise ExtSubError(f"--field {unused[0]}={fields[unused[0]]}: does not go with {' and '.join(wanted)}")
            return wanted
    raise ExtSubError(
        f"{where}: expected instruction and output (and perhaps input), or prompt and completion, or messages; found "
        f"{there}: say what they are with --field, for example --field instruction=question --field output=answer"
    )


def _example(row: Row, wanted: tuple[str, ...], fields: dict[str, str]) -> Example:
    if wanted == ("messages",):
        return _conversation(row.get(fields.get("messages", "messages")))
    question, answer = (_text(row, fields.get(ours, ours)) for ours in wanted)
    input = _text(row, fields.get("input", "input"), optional=True) if wanted[0] == "instruction" else ""
    if not (question.strip() or input.strip()):
        raise _BadRowError(f"{fields.get(wanted[0], wanted[0])} is empty")
    return Example((user_turn(question, input),), answer)


def _text(row: Row, name: str, optional: bool = False) -> str:
    if name not in row and not optional:
        raise _BadRowError(f"{name} is missing")
    value = row.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _BadRowError(f"{name} is {_describe(value)}, expected text")
    return _whole(value, name)


def _whole(value: str, name: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _BadRowError(f"{name} holds half a character (a lone surrogate)") from error
    return value


def _describe(value: object) -> str:
    kinds = {bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def _conversation(messages: object) -> Example:
    if not isinstance(messages, Sequence) or isinstance(messages, str) or len(messages) < 2:
        raise _BadRowError("messages is no list of two or more messages")
    turns = []
    for message in messages:
        role, content = (message.get("role"), message.get("content")) if isinstance(message, Mapping) else (None, None)
        if role not in ROLES or not isinstance(content, str):
            raise _BadRowError(f"a message needs a role ({', '.join(ROLES)}) and its content as text")
        turns.append(Turn(role, _whole(content, "a message")))
    question, answer = turns[-2:]
    if answer.role != "assistant" or question.role != "user" or not question.content.strip():
        raise _BadRowError("the last two messages must be a question of the user and the assistant's answer")
    return Example(tuple(turns[:-1]), turns[-1].content)


# Reading. Every reader yields (where, row), so that a bad row can be found again.


def _read(path: Path, content: bytes) -> Iterator[tuple[str, Row]]:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ExtSubError(f"{path}: unknown kind of file; expected {', '.join(SUFFIXES)}")
    if suffix == ".parquet":
        yield from _read_parquet(path)
        return
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ExtSubError(f"{path}, line {line}: not UTF-8; convert the file") from error
    if suffix == ".csv":
        rows = _read_csv(path, text)
    elif text.lstrip().startswith("["):
        rows = _read_json(path, text)
    else:
        rows = _read_lines(path, text)
    for where, row in rows:
        if not isinstance(row, dict):
            raise ExtSubError(f"{where}: a row is {_describe(row)}, expected an object with named fields")
        yield where, row


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


def _from_hub(name: str) -> Iterator[tuple[str, Row]]:
    hub_id = HUB_ID.fullmatch(name)
    folder = Path(name).expanduser().parent
    if not hub_id or name.startswith((".", "~")) or Path(name).suffix.lower() in SUFFIXES:
        raise ExtSubError(f"{name}: no such file, and not a dataset of the hub (owner/name or owner/name@revision)")
    if folder.is_dir() and not hub_id["revision"]:  # a slip, most likely: do not wait for the hub to say so
        raise ExtSubError(f"{name}: no such file in {folder}; if you mean the hub's dataset, write {name}@main")
    datasets = require("datasets", "train")
    try:
        dataset = datasets.load_dataset(hub_id["repo"], split="train", revision=hub_id["revision"])
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise ExtSubError(f"{name}: no dataset could be loaded from the hub: {str(error).splitlines()[0]}") from error
    for number, row in enumerate(dataset, start=1):
        yield f"{name}, row {number}", row
