"""Instruction data: a file or hub dataset becomes examples or prompts, each row checked. Knows no model, no tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from extsub.data.field_guesses import how_to_read, inside, pair
from extsub.data.formats import describe
from extsub.data.messages import conversation, is_conversation, is_question, split_answer, whole
from extsub.data.rows import Row, fields_of, has, reach, read_rows, read_text, refusal
from extsub.errors import ExtSubError, RowError
from extsub.escaping import brief, shown
from extsub.models.prompts import Message, user_message

FORMATS = (("messages",), ("prompt", "completion"), ("instruction", "output"))
"""What a row must have, the first match counts; ``input`` may stand beside ``instruction``, ``system`` beside all."""
PROMPT_FORMATS = (("messages",), ("prompt",), ("instruction",))
"""The same where only the question counts."""
FIELDS = ("instruction", "input", "output", "prompt", "completion", "messages", "system")
NOT_READ = {"system": "system", "system_prompt": "system", "history": None}
"""What some have beside a question, and the field of ours to read it with."""

Value = TypeVar("Value")


class Prompts(NamedTuple):
    """Questions without answers, and the rows they came from."""

    messages: list[tuple[Message, ...]]
    rows: list[Row]
    sha256: str
    places: list[str]
    """Where each row stands: file and line."""


class Example(NamedTuple):
    """What every format becomes: the conversation so far, and the answer to learn."""

    messages: tuple[Message, ...]
    answer: str


@dataclass(frozen=True)
class Data:
    """The examples of one file or dataset, and what the check of its rows found."""

    name: str
    """The name as the user gave it."""
    examples: list[Example] = field(repr=False)
    places: list[str] = field(repr=False)
    """Where each example stands: file and line."""
    sha256: str
    """The hash of the file, or of the rows as JSON lines where the data came from the hub."""
    empty_answers: int
    """How many rows were left out because there is nothing to learn."""
    duplicates: int
    """How many rows say the same as an earlier one; they are kept."""
    notes: tuple[str, ...] = ()
    """What a user should know, in sentences."""


def load_data(name: str, fields: Mapping[str, str] | None = None) -> Data:
    """Read and check instruction data.

    Args:
        name: a file (``rows.SUFFIXES``), or a dataset on the hub (``owner/name`` or ``owner/name@revision``, its
            ``train`` split).
        fields: what the data calls our fields: ``{"output": "right_answer"}``, ``{"prompt": "prompt.text"}``.

    Raises:
        ExtSubError: nothing is there, the file is malformed or empty, a field is unknown, or a row has no prompt or
            values of a wrong type; the message names the first such row by file and line, and counts the others.
    """
    fields = check_fields(fields)
    rows, sha256 = read_rows(name)
    return _check(name, rows, fields, sha256)


def load_prompts(name: str, fields: Mapping[str, str] | None = None) -> Prompts:
    """Read and check questions: ``instruction`` (and ``input``), ``prompt``, or ``messages``; or the lines of a .txt.

    An answer that stands in the data counts for nothing.

    Raises:
        ExtSubError: as ``load_data``.
    """
    fields = check_fields(fields)
    if name.endswith(".txt"):
        text, sha256 = read_text(name)
        rows: list[tuple[str, Row]] = [
            (f"{name}, line {number}", {"prompt": line})
            for number, line in enumerate(text.split("\n"), start=1)
            if line.strip()
        ]
    else:
        rows, sha256 = read_rows(name)
    wanted, fields = _choose_format(name, rows[0], fields, PROMPT_FORMATS)
    messages, wrong = _each(rows, lambda row: _question(row, wanted[0], fields))
    if wrong:
        raise refusal(wrong)
    return Prompts([turns for _, turns in messages], [row for _, row in rows], sha256, [where for where, _ in rows])


def has_answers(row: Row, fields: Mapping[str, str]) -> bool:
    """Whether there is something to learn or to score in a row, and not a question alone."""
    return any(has(row, fields.get(ours, ours)) for ours in ("output", "completion", "messages", "conversations"))


def check_fields(fields: Mapping[str, str] | None, more: Sequence[str] = ()) -> dict[str, str]:
    """What the user calls our fields.

    Args:
        more: fields that a task has beside those of instruction data.

    Raises:
        ExtSubError: there is no such field of ours.
    """
    known = (*FIELDS, *more)
    if unknown := sorted(set(fields or {}) - set(known)):
        raise ExtSubError(f"--field {brief(unknown[0])}=...: no such field of ours; there are {', '.join(known)}")
    return dict(fields or {})


def _check(name: str, rows: list[tuple[str, Row]], fields: dict[str, str], sha256: str) -> Data:
    wanted, fields = _choose_format(name, rows[0], fields, FORMATS)
    read, wrong = _each(rows, lambda row: _example(row, wanted, fields))
    empty = [where for where, example in read if not example.answer.strip()]
    kept = [(where, example) for where, example in read if example.answer.strip()]
    examples = [example for _, example in kept]
    duplicates = len(examples) - len(set(examples))
    if wrong:
        beside = [f"{len(empty)} with an empty answer"] if empty else []
        raise refusal(wrong, beside + ([f"{duplicates} duplicates"] if duplicates else []))
    if not examples:
        raise ExtSubError(f"{name}: every answer is empty, first {empty[0]}: there is nothing to learn from")
    notes = []
    if empty:
        notes.append(f"{len(empty):,} of {len(rows):,} rows have an empty answer and are left out, first {empty[0]}")
    if duplicates:
        notes.append(f"{duplicates:,} of {len(rows):,} rows say the same as an earlier row; they are kept")
    if earlier := sum(any(message.role == "assistant" for message in example.messages) for example in examples):
        notes.append(f"{earlier:,} of {len(rows):,} rows hold several answers: the last counts, the others are asked")
    for theirs, ours in NOT_READ.items():
        if theirs not in fields.values() and (there := sum(bool(row.get(theirs)) for _, row in rows)):
            hint = f": pass --field {ours}={theirs} to read it" if ours else ""
            notes.append(f"{there:,} of {len(rows):,} rows have {theirs}, which is left out{hint}")
    return Data(name, examples, [where for where, _ in kept], sha256, len(empty), duplicates, tuple(notes))


def _each(
    rows: Sequence[tuple[str, Row]], read: Callable[[Row], Value]
) -> tuple[list[tuple[str, Value]], list[tuple[str, RowError]]]:
    """(what each row holds, with where it stands; the same of what is wrong with the others)"""
    values, wrong = [], []
    for where, row in rows:
        try:
            values.append((where, read(row)))
        except RowError as error:
            wrong.append((where, error))
    return values, wrong


def _choose_format(
    name: str, first: tuple[str, Row], fields: dict[str, str], formats: tuple[tuple[str, ...], ...]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """(which of the formats the rows have, what they call our fields)"""
    where, row = first
    for ours, theirs in fields.items():
        if not has(row, theirs):
            raise ExtSubError(
                f"--field {ours}={brief(theirs)}: {name} has no field {shown(theirs)}; it has {fields_of(row)}"
            )
    known = fields if "messages" in row else {"messages": "conversations", **fields}  # ShareGPT's name
    for wanted in sorted(formats, key=lambda wanted: -len(set(wanted) & set(fields))):  # what the user named, first
        if all(has(row, known.get(ours, ours)) for ours in wanted):
            unused = sorted(set(fields) - {*wanted, "system", *(["input"] if "instruction" in wanted else [])})
            if unused:
                given = f"{unused[0]}={brief(fields[unused[0]])}"
                raise ExtSubError(f"--field {given}: does not go with {' and '.join(wanted)}")
            return wanted, known
    if formats == PROMPT_FORMATS:
        expected = "instruction (and perhaps input), or prompt, or messages"
    else:
        expected = "instruction and output (and perhaps input), or prompt and completion, or messages"
    hint = how_to_read(row, with_answers=formats != PROMPT_FORMATS)
    raise ExtSubError(f"{where}: expected {expected}; found {fields_of(row)}: {hint}")


def _example(row: Row, wanted: tuple[str, ...], fields: dict[str, str]) -> Example:
    if wanted == ("messages",):
        name = fields.get("messages", "messages")
        messages, answer = split_answer(_value(row, name), name)
        return Example((*_system(row, fields), *messages), answer)
    return Example(_question(row, wanted[0], fields), _answer(row, wanted[1], fields))


def _question(row: Row, name: str, fields: dict[str, str]) -> tuple[Message, ...]:
    theirs = fields.get(name, name)
    value = _value(row, theirs)
    if name == "messages" or is_conversation(value):
        messages = conversation(value, theirs)
        messages = messages[:-1] if messages[-1].role == "assistant" else messages
        if not messages or not is_question(messages[-1]):
            raise RowError("the last message (before the answer, if there is one) must be a question of the user")
        return (*_system(row, fields), *messages)
    question = _text(row, name, fields)
    input = _text(row, "input", fields, optional=True) if name == "instruction" else ""
    if not (question.strip() or input.strip()):
        raise RowError(f"{theirs} is empty")
    return (*_system(row, fields), user_message(question, input))


def _answer(row: Row, name: str, fields: dict[str, str]) -> str:
    theirs = fields.get(name, name)
    value = _value(row, theirs)
    if not is_conversation(value):
        return _text(row, name, fields)
    said = conversation(value, theirs)
    if len(said) > 1 or said[0].role != "assistant":
        raise RowError(
            f"{theirs} holds a conversation, expected the answer alone", f"pass --field {pair('messages', theirs)}"
        )
    return said[0].content


def _system(row: Row, fields: dict[str, str]) -> tuple[Message, ...]:
    """What stands in a field of its own; read where the user says so, since to others it is a name, say."""
    said = _text(row, "system", fields, optional=True) if "system" in fields else ""
    return (Message("system", said),) if said.strip() else ()


def _value(row: Row, theirs: str) -> Any:
    try:
        return reach(row, theirs)
    except KeyError as error:
        raise RowError(f"{theirs} is missing") from error


def _text(row: Row, ours: str, fields: dict[str, str], optional: bool = False) -> str:
    theirs = fields.get(ours, ours)
    value = None if optional and not has(row, theirs) else _value(row, theirs)
    if value is None:
        return ""
    if not isinstance(value, str):
        text = inside(value, theirs)
        ways = (f"pass --field {pair(ours, text)}",) if text else ()
        raise RowError(f"{theirs} is {describe(value)}, expected text", *ways)
    return whole(value, theirs)
