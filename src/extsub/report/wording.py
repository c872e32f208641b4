"""Figures in words: every sentence follows from the numbers in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from extsub.formatting import form_of, rounded, written
from extsub.sweeping.budget import ScoreName, in_words

NAMES = {
    "ext-sub": "Ext-Sub",
    "negated": "the negated anti-expert alone",
    "random": "a random anti-expert",
    "icd": "ICD",
    "dexperts": "DExperts",
    "prompt": "the expert with a system message",
}

OVER_PLAIN = "over answers without a negation or an evasion"


def score(name: ScoreName) -> str:
    """A score as a sentence calls it."""
    return name.score if name.score == name.task else str(name)


def arrowed(name: ScoreName) -> str:
    """A score over a column, with the direction that is better."""
    return f"{score(name)}\u00a0{'↑' if name.measure.better == 'higher' else '↓'}"


def number(value: float | None) -> str:
    """A figure without an interval: four digits."""
    if value is None or math.isnan(value):
        return "–"
    return (f"{value:.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.4g}").replace("-", "−")


def figure(value: float, ci95: Any) -> tuple[str, str]:
    """A figure and its 95 % interval."""
    if math.isnan(value):
        return "–", ""
    text, interval = rounded(value, ci95)
    return text.replace("-", "−"), interval.replace("-", "−")


def alone(measured: Mapping[str, Any], value: float | None = None) -> str:
    """A figure without its interval, with as many digits as beside it; or another value with as many."""
    form = form_of(measured["value"], measured["ci95"])
    return written(measured["value"] if value is None else value, form).replace("-", "−")


def change(value: float, ci95: Any) -> tuple[str, str]:
    """A difference, with its sign, and its 95 % interval."""
    text, interval = rounded(value, ci95, signed=True)
    return text.replace("-", "−"), interval.replace("-", "−")


def p_value(p: float | None) -> str:
    """A p value in words, to as many digits as anybody needs: ``p = 0.031``, ``p < 0.001``."""
    return "no p" if p is None else "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def said(verdict: str, than: str) -> str:
    """A verdict as the middle of a sentence."""
    return {
        "better": f"is significantly better than {than}",
        "worse": f"is significantly worse than {than}",
        "no difference": f"shows no difference from {than}",
        "": f"cannot be tested against {than}",
    }[verdict]


def change_in_words(difference: Mapping[str, Any]) -> str:
    """A difference with all that is known of it."""
    return (
        f"{' '.join(change(difference['value'], difference['ci95']))}, {p_value(difference['p'])}, "
        f"n = {difference['n']}"
    )


def aim(rule: str, score: str, budget: str | None) -> str:
    """What a choice looked for, as a part of a sentence."""
    best = f"best {score}" + (f" within the budget ({in_words(budget)})" if budget else "")
    return f"the α with the {best}" if rule == "best" else f"the smallest α within one standard error of the {best}"


def named(operation: str) -> str:
    """An operation as a sentence calls it."""
    return NAMES.get(operation, operation)


def capital(text: str) -> str:
    """A text that begins with a capital letter, as a sentence does."""
    return text[:1].upper() + text[1:]


def at(alpha: float) -> str:
    """A strength in words: ``α = 0.5``."""
    return f"α = {alpha:g}".replace("-", "−")
