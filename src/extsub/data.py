"""Instruction data: a file or hub dataset becomes examples or prompts, each row checked. Knows no model, no tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from extsub.errors import ExtSubError
from extsub.escaping import brief, shown
from extsub.prompts import ROLES, Turn, user_turn
from extsub.rows import Row, describe, fields_of, read_rows, read_text

FORMATS = (("messages",), ("prompt", "completion"), ("instruction", "output"))
"""what a row must have, first match counts; ``input`` may stand beside ``instruction``"""
PROMPT_FORMATS = (("messages",), ("prompt",), ("instruction",))
"""where only the question counts"""
FIELDS = ("instruction", "input", "output", "prompt", "completion", "messages")


class Prompts(NamedTuple):
    """Questions without answers, and the rows they came from."""

    turns: list[tuple[Turn, ...]]
    rows: list[Row]
    sha256: str


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
    fields = _known(fields)
    rows, sha256 = read_rows(name)
    return _check(name, rows, fields, sha256)


def load_prompts(name: str, fields: Mapping[str, str] | None = None) -> Prompts:
    """Read and check questions: ``instruction`` (and ``input``), ``prompt``, or ``messages``; or the lines of a .txt.

    An answer that stands in the data counts for nothing.

    Raises:
        ExtSubError: as ``load_data``.
    """
    fields = _known(fields)
    if name.endswith(".txt"):
        text, sha256 = read_text(name)
        rows: list[tuple[str, Row]] = [
            (f"{name}, line {number}", {"prompt": line})
            for number, line in enumerate(text.split("\n"), start=1)
            if line.strip()
        ]
    else:
        rows, sha256 = read_rows(name)
    wanted = _choose_format(name, rows[0], fields, PROMPT_FORMATS)
    turns = []
    for where, row in rows:
        try:
            turns.append(_question(row, wanted[0], fields))
        except _BadRowError as error:
            raise ExtSubError(f"{where}: {error}; correct or remove it") from error
    return Prompts(turns, [row for _, row in rows], sha256)


def _known(fields: Mapping[str, str] | None) -> dict[str, str]:
    if unknown := sorted(set(fields or {}) - set(FIELDS)):
        raise ExtSubError(f"--field {brief(unknown[0])}=...: no such field of ours; there are {', '.join(FIELDS)}")
    return dict(fields or {})


def _check(name: str, rows: list[tuple[str, Row]], fields: dict[str, str], sha256: str) -> Data:
    wanted = _choose_format(name, rows[0], fields, FORMATS)
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


def _choose_format(
    name: str, first: tuple[str, Row], fields: dict[str, str], formats: tuple[tuple[str, ...], ...]
) -> tuple[str, ...]:
    where, row = first
    there = fields_of(row)
    for ours, theirs in fields.items():
        if theirs not in row:
            raise ExtSubError(f"--field {ours}={brief(theirs)}: {name} has no field {shown(theirs)}; it has {there}")
    for wanted in sorted(formats, key=lambda wanted: -len(set(wanted) & set(fields))):  # what the user named, first
        if all(fields.get(ours, ours) in row for ours in wanted):
            unused = sorted(set(fields) - {*wanted, *(["input"] if "instruction" in wanted else [])})
            if unused:
                raise ExtSubError(
                    f"--field {unused[0]}={brief(fields[unused[0]])}: does not go with {' and '.join(wanted)}"
                )
            return wanted
    if formats == PROMPT_FORMATS:
        expected, example = "instruction (and perhaps input), or prompt, or messages", "--field prompt=question"
    else:
        expected = "instruction and output (and perhaps input), or prompt and completion, or messages"
        example = "--field instruction=question --field output=answer"
    raise ExtSubError(
        f"{where}: expected {expected}; found {there}: say what they are with --field, for example {example}"
    )


def _example(row: Row, wanted: tuple[str, ...], fields: dict[str, str]) -> Example:
    if wanted == ("messages",):
        *turns, answer = _conversation(row.get(fields.get("messages", "messages")))
        if len(turns) < 1 or answer.role != "assistant" or not _is_question(turns[-1]):
            raise _BadRowError("the last two messages must be a question of the user and the assistant's answer")
        return Example(tuple(turns), answer.content)
    answer = _text(row, fields.get(wanted[1], wanted[1]))
    return Example(_question(row, wanted[0], fields), answer)


def _question(row: Row, name: str, fields: dict[str, str]) -> tuple[Turn, ...]:
    if name == "messages":
        turns = _conversation(row.get(fields.get(name, name)))
        turns = turns[:-1] if turns[-1].role == "assistant" else turns
        if not turns or not _is_question(turns[-1]):
            raise _BadRowError("the last message (before the answer, if there is one) must be a question of the user")
        return tuple(turns)
    question = _text(row, fields.get(name, name))
    input = _text(row, fields.get("input", "input"), optional=True) if name == "instruction" else ""
    if not (question.strip() or input.strip()):
        raise _BadRowError(f"{fields.get(name, name)} is empty")
    return (user_turn(question, input),)


def _is_question(turn: Turn) -> bool:
    return turn.role == "user" and bool(turn.content.strip())


def _text(row: Row, name: str, optional: bool = False) -> str:
    if name not in row and not optional:
        raise _BadRowError(f"{name} is missing")
    value = row.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _BadRowError(f"{name} is {describe(value)}, expected text")
    return _whole(value, name)


def _whole(value: str, name: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _BadRowError(f"{name} holds half a character (a lone surrogate)") from error
    return value


def _conversation(messages: object) -> list[Turn]:
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise _BadRowError("messages is no list of messages")
    turns = []
    for message in messages:
        role, content = (message.get("role"), message.get("content")) if isinstance(message, Mapping) else (None, None)
        if role not in ROLES or not isinstance(content, str):
            raise _BadRowError(f"a message needs a role ({', '.join(ROLES)}) and its content as text")
        turns.append(Turn(role, _whole(content, "a message")))
    return turns
