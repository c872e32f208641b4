"""The words in which two answers differ, marked for HTML. Answers are others' words: they are escaped."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

from extsub.escaping import xml


def marked(text: str, other: str) -> str:
    """``text`` as HTML; words that ``other`` does not have in their place stand in ``<mark>``."""
    pieces = re.findall(r"\s*\S+", text)  # each word with the white space before it
    matcher = SequenceMatcher(None, [piece.strip() for piece in pieces], other.split(), autojunk=False)
    runs = ((tag, "".join(pieces[start:stop])) for tag, start, stop, _, _ in matcher.get_opcodes())
    return "".join(xml(run) if tag == "equal" else _mark(run) for tag, run in runs)


def _mark(run: str) -> str:
    words = run.lstrip()
    return f"{run[: len(run) - len(words)]}<mark>{xml(words)}</mark>" if words else ""
