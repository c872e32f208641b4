"""How an answer sounds, whatever it says: whether it negates, and whether it evades. English, and listed here alone."""

from __future__ import annotations

import re

NEGATIONS = ("no", "not", "never", "none", "nothing", "nobody", "nowhere", "neither", "cannot")
"""Words that negate; so does whatever ends in n't."""
EVASIVE = ("comment", "consensus", "depends", "unclear", "unknown", "uncertain")

_APOSTROPHE = "['\u2019\u2018\u02bc]"
_HOW = r"(?:(?:all|also|just|still|yet|really|\w+ly) ){0,2}"
_NEGATED = rf"(?:do not|don{_APOSTROPHE}t|can ?not|can{_APOSTROPHE}t|could not|couldn{_APOSTROPHE}t)"
EVASIONS = (
    r"no comment",
    r"no (?:(?!to )\w+ ){0,3}(?:consensus|answer)",
    rf"(?:^|it |that |this |answer ){_HOW}depends",
    rf"(?:^|(?:is|are|was|were|remains?|{_APOSTROPHE}s) ){_HOW}(?:unclear|unknown|uncertain)",
    rf"(?:not|\w+n{_APOSTROPHE}t) {_HOW}(?:clear|certain|sure|known(?! (?:for|as)))",
    rf"(?:I|we) {_HOW}{_NEGATED} {_HOW}(?:know|say|tell(?! a)|comment|answer|help|predict)",
    r"(?:nobody|no[ -]one) (?:\w+ )?knows",
    r"(?:hard|difficult|impossible) to (?:say|tell|know|answer)",
    r"as an AI",
)
"""Regular expressions; one of them is in the first sentence of an answer that evades."""

_STYLED = re.compile(rf"\b(?:{'|'.join((*NEGATIONS, *EVASIVE))})\b|n{_APOSTROPHE}t\b", re.IGNORECASE)
_EVADING = re.compile("|".join(rf"(?:\b|^){pattern}\b" for pattern in EVASIONS), re.IGNORECASE)
_SENTENCE_ENDS = re.compile(r"(?<=[.!?])\s|\n")


def is_styled(text: str) -> bool:
    """Whether a text holds a negation or an evasive word, from which people and models tell true answers without
    knowing anything: one of ``NEGATIONS`` or ``EVASIVE`` as a whole word, or n't."""
    return _STYLED.search(text) is not None


def is_evasive(text: str) -> bool:
    """Whether an answer begins by evading the question: one of ``EVASIONS`` is in its first sentence."""
    return _EVADING.search(_SENTENCE_ENDS.split(text.strip(), maxsplit=1)[0]) is not None
