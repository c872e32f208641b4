"""The words in which two answers differ, marked for HTML. Answers are others' words: they are escaped."""

from __future__ import annotations

import re
from itertools import groupby

from extsub.chat.differences import differing
from extsub.escaping import xml


def marked(text: str, other: str) -> str:
    """``text`` as HTML; words that ``other`` does not have in their place stand in ``<mark>``."""
    words = enumerate(re.findall(r"\s*\S+", text))  # each with the white space before it
    differ = differing(text, other)[0]
    runs = groupby(words, lambda word: word[0] in differ)
    texts = ((differs, "".join(word for _, word in run)) for differs, run in runs)
    return "".join(_mark(text) if differs else xml(text) for differs, text in texts)


def _mark(run: str) -> str:
    words = run.lstrip()
    return f"{run[: len(run) - len(words)]}<mark>{xml(words)}</mark>"
