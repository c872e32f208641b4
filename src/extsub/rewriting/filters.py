"""Which of the written texts are kept. Each rule looks at one text and what it stands for; all but the last."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import NamedTuple

from extsub.rewriting.likeness import Seen, triples, words

REASONS = {
    "unanswered": "the server refused the request",
    "shortened": "the request was too long for the writer, and lost its beginning",
    "empty": "nothing was written",
    "cut_off": "the limit of new tokens was reached",
    "refusal": "the writer refuses",
    "copied": "the same as the text it was made from, or a part of it",
    "script": "written in another script",
    "not_shown": "the behaviour does not show",
    "duplicate": "nearly the same as an earlier one",
}
"""Why a text is dropped, in the order in which this is asked."""
OWN = 0.1
"""The part of a text's triples of words that must not stand in the text that it was made from."""
SHORT = 8
"""Words below which a text may well be another's too: it is compared together with the other half of its pair."""
LETTERS = 10
"""Letters below which a script is not looked for."""
SHARED = 0.5
"""The part of the letters whose scripts two texts must have in common."""
OPENING = 200
"""Characters in which a refusal is looked for."""
_REFUSAL = re.compile(
    r"\b(i(?:'m| am) (?:very |truly |really )?sorry\b|i apologi[sz]e\b"
    r"|(?:as|i(?:'m| am)) an? (?:ai|artificial|language model)\b"
    r"|i (?:can ?not|can't|won't|will not|am unable to|'m unable to|am not able to|'m not able to) "
    r"(?:help|assist|provide|write|rewrite|create|generate|fulfil|fulfill|comply|do that|answer|produce|engage|give)\b"
    r"|(?:against|violates?) (?:my|our|openai|the content) )",
    re.IGNORECASE,
)


class Written(NamedTuple):
    """A text that was written, in place of another one or to it."""

    text: str
    """Without what the writer wrapped around it."""
    finished: bool
    """Whether it ended by itself."""
    shortened: bool = False
    """Whether its request, too long, lost its beginning."""


def reason(written: Written, source: str, may_refuse: bool) -> str | None:
    """Why a text is dropped, by itself; None where it is kept.

    Args:
        source: what it was made from: the good answer, or the text that an instruction was written to.
        may_refuse: whether a refusal is what is wanted.
    """
    if written.shortened:
        return "shortened"
    if not written.text.strip():
        return "empty"
    if not written.finished:
        return "cut_off"
    if not may_refuse and refuses(written.text) and not refuses(source):
        return "refusal"
    if len(triples(written.text) - triples(source)) < OWN * len(triples(written.text)):
        return "copied"
    if not same_script(written.text, source):
        return "script"
    return None


def refuses(text: str) -> bool:
    """Whether a text begins like a refusal, in English."""
    return bool(_REFUSAL.search(text[:OPENING].replace("’", "'")))


def same_script(text: str, other: str) -> bool:
    """Whether two texts have letters of the same scripts, Latin or Han say; French is not told from English."""
    first, second = _scripts(text), _scripts(other)
    if min(first.total(), second.total()) < LETTERS:
        return True
    return sum(min(first[name] / first.total(), second[name] / second.total()) for name in first) >= SHARED


def _scripts(text: str) -> Counter[str]:
    """How many letters of each script, by the first word of their names in Unicode."""
    return Counter(unicodedata.name(letter, "UNKNOWN").partition(" ")[0] for letter in text if letter.isalpha())


def is_duplicate(seen: Seen, written: str, beside: str) -> bool:
    """Whether a text is nearly one that was kept before.

    Args:
        beside: the other half of its pair.
    """
    return seen.nearly(written if len(words(written)) >= SHORT else f"{beside}\n{written}")
