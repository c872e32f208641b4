"""Figures in words: every sentence follows from the numbers in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from extsub.sweeping.choice import ScoreName

NAMES = {"ext-sub": "Ext-Sub", "negated": "the negated anti-expert alone", "random": "a random anti-expert"}


def score(name: ScoreName) -> str:
    """A score as a sentence calls it."""
    return name.score if name.score == name.task else str(name)


def number(value: float | None) -> str:
    """Four digits, as everywhere in extsub."""
    return "–" if value is None or math.isnan(value) else _digits(value, 4)


def interval(ci95: Any) -> str:
    """A 95 % interval."""
    low, high = ci95
    return f"[{_digits(low, 3)}, {_digits(high, 3)}]"


def signed(value: float) -> str:
    """A difference, with its sign."""
    return _digits(value, 3, "+") if value else "0"


def signed_interval(ci95: Any) -> str:
    """The 95 % interval of a difference."""
    low, high = ci95
    return "[{}, {}]".format(*(_digits(one, 2, "+") if one else "0" for one in (low, high)))


def _digits(value: float, count: int, sign: str = "") -> str:
    """So many digits that count, without an exponent before the point is far away."""
    far = 10.0**count <= abs(value) < 1e7
    return (f"{value:{sign}.0f}" if far else f"{value:{sign}.{count}g}").replace("-", "−")


def p_value(p: float | None) -> str:
    """As far as anybody needs it."""
    return "no p" if p is None else "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def said(verdict: str, than: str) -> str:
    """A verdict as the middle of a sentence."""
    return {
        "better": f"is significantly better than {than}",
        "worse": f"is significantly worse than {than}",
        "no difference": f"shows no difference from {than}",
        "": f"cannot be tested against {than}",
    }[verdict]


def change_in_words(change: Mapping[str, Any]) -> str:
    """A difference with all that is known of it."""
    return f"{signed(change['value'])} {signed_interval(change['ci95'])}, {p_value(change['p'])}, n = {change['n']}"


def named(operation: str) -> str:
    """An operation as a sentence calls it."""
    return NAMES.get(operation, operation)


def capital(text: str) -> str:
    """The beginning of a sentence."""
    return text[:1].upper() + text[1:]


def at(alpha: float) -> str:
    """A strength."""
    return f"α = {alpha:g}".replace("-", "−")
