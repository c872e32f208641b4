"""The rows that negatives are made from, and what is written of them: the same fields, so that they pair."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from extsub.data.instructions import check_fields, load_data
from extsub.data.rows import Row, has, reach, read_rows, read_text, refusal
from extsub.errors import RowError
from extsub.escaping import shown
from extsub.models.prompts import Message
from extsub.rewriting.settings import TEXT, NegativesSettings


class Source(NamedTuple):
    """One row of the data: a conversation with its good answer, or a text that has none."""

    messages: tuple[Message, ...]
    """Empty where the instruction is to be written."""
    text: str
    """The good answer, or the text that shows the behaviour."""


class Sources(NamedTuple):
    """All rows of a file or dataset."""

    rows: list[Source]
    sha256: str
    notes: tuple[str, ...]
    """What a user should know, in sentences."""


def read_sources(settings: NegativesSettings) -> Sources:
    """Read and check the data.

    Raises:
        ExtSubError: as ``load_data``; or a row has no text.
    """
    if settings.mode == "rewrite":
        data = load_data(settings.data, settings.field)
        return Sources([Source(*example) for example in data.examples], data.sha256, data.notes)
    name = check_fields(settings.field, (TEXT,)).get(TEXT, TEXT)
    if settings.data.endswith(".txt"):
        text, sha256 = read_text(settings.data)
        rows: list[tuple[str, Row]] = [("", {TEXT: line}) for line in text.split("\n") if line.strip()]
    else:
        rows, sha256 = read_rows(settings.data)
    sources, wrong = [], []
    for where, row in rows:
        value = reach(row, name) if has(row, name) else None
        if isinstance(value, str) and value.strip():
            sources.append(Source((), value))
        else:
            what = f"found {shown(value)}" if has(row, name) else "it is missing"
            wrong.append((where, RowError(f"expected a text in {name!r}, {what}", "pass --field text=THEIRS")))
    if wrong:
        raise refusal(wrong)
    return Sources(sources, sha256, ())


def drawn(count: int, limit: int | None, seed: int) -> list[int]:
    """The numbers of the rows that are taken, in order; those of a larger limit include those of a smaller one."""
    if limit is None or limit >= count:
        return list(range(count))
    return sorted(random.Random(seed).sample(range(count), count)[:limit])


class Pair(NamedTuple):
    """One row of the output."""

    index: int
    """Its number in the data, from 0."""
    messages: tuple[Message, ...]
    good: str
    """Empty where there is none."""
    bad: str


def rows_of(pairs: Sequence[Pair], answers: Sequence[str]) -> list[dict[str, Any]]:
    """Rows that ``extsub train`` reads: ``instruction`` and ``output``; ``messages`` where one of them needs that."""
    plain = all(len(pair.messages) == 1 for pair in pairs)
    rows = []
    for pair, answer in zip(pairs, answers, strict=True):
        if plain:
            rows.append({"index": pair.index, "instruction": pair.messages[0].content, "output": answer})
        else:
            said = [*pair.messages, Message("assistant", answer)]
            rows.append({"index": pair.index, "messages": [message._asdict() for message in said]})
    return rows
