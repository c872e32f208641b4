"""Which fields of unknown data may be question and answer: for the hint of an error, never for reading."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from extsub.data.messages import is_conversation
from extsub.data.rows import Row

QUESTIONS = (
    "instruction",
    "prompt",
    "question",
    "query",
    "input",
    "problem",
    "goal",
    "user",
    "human",
    "dialogue_history",
    "document",
    "text",
)
ANSWERS = (
    "output",
    "completion",
    "answer",
    "response",
    "target",
    "solution",
    "continuation",
    "assistant",
    "reply",
    "answers",
)
PAIRS = (
    ("chosen", "rejected"),
    ("right_answer", "hallucinated_answer"),
    ("right_response", "hallucinated_response"),
    ("right_summary", "hallucinated_summary"),
)
"""Names of a better and a worse answer, as for DPO and in HaluEval."""


def how_to_read(row: Row, with_answers: bool) -> str:
    """What to pass so that a row is read, in a clause that follows a colon."""
    for better, worse in PAIRS:
        if better in row and worse in row and (with_answers or is_conversation(row[better])):
            return _pair_of_answers(row, better, worse)
    if talks := [name for name, value in row.items() if is_conversation(value)]:
        return f"pass --field {pair('messages', talks[0])}"
    if not with_answers:
        return f"say which is the question with --field {pair('prompt', _text_in(row, QUESTIONS))}"
    answer = _text_in(row, ANSWERS)
    question = _text_in({name: value for name, value in row.items() if name != answer}, QUESTIONS)
    if "text" in row and not answer:
        return "a text alone has no question and answer to tell apart: make two fields of it, prompt and completion"
    if isinstance(row.get("instruction"), str):
        return f"say which is the answer with --field {pair('output', answer)}"
    return f"say what they are with --field {pair('prompt', question)} {pair('completion', answer)}"


def inside(value: object, name: str, depth: int = 3) -> str | None:
    """Where in an object or list a text stands, at most so deep: ``prompt.text``, ``answers.0``; None if nowhere."""
    if isinstance(value, str):
        return name
    if depth == 0:
        return None
    if isinstance(value, list) and value:
        return inside(value[0], f"{name}.0", depth - 1)
    if isinstance(value, Mapping):
        known = [key for key in ("text", "value", "content") if key in value]
        paths = (inside(value[key], f"{name}.{key}", depth - 1) for key in dict.fromkeys([*known, *value]))
        return next((path for path in paths if path), None)
    return None


def _pair_of_answers(row: Row, better: str, worse: str) -> str:
    said, asked = row[better], ""
    field = "messages" if is_conversation(said) and len(said) > 1 else "completion"
    if field == "completion" and "prompt" not in row:
        question = _text_in(row, QUESTIONS)
        if question is None:
            return f"{better} and {worse} alone are whole conversations: make two fields of each, prompt and completion"
        asked = f"{pair('prompt', question)} "
    return (
        f"they are pairs of answers: pass --field {asked}{field}={better} for the expert, and "
        f"--field {asked}{field}={worse} for the anti-expert"
    )


def pair(ours: str, theirs: str | None) -> str:
    """What follows ``--field`` on a command line: our name of a field and the data's, ``prompt=question``."""
    return shlex.quote(f"{ours}={theirs or 'NAME'}")


def _text_in(row: Mapping[str, object], names: Sequence[str]) -> str | None:
    """The first of these fields that is a text, or that holds one."""
    there = {name.lower(): name for name in row}
    return next((path for usual in names if (name := there.get(usual)) and (path := inside(row[name], name))), None)
