"""How a figure and its interval are written: with the same number of decimals, everywhere."""

from __future__ import annotations

import math
from collections.abc import Sequence

DIGITS = 4
"""Digits that count, at most."""
SMALL, LARGE = 1e-4, 1e7
"""Below and beyond these, figures are written with an exponent."""


def rounded(value: float, ci95: Sequence[float], *, signed: bool = False) -> tuple[str, str]:
    """A figure and its 95 % interval, ``("0.083", "[0.015, 0.354]")``.

    As many decimals as show two digits of the distance to the nearer end, and no more than four digits of the largest
    number; an end that is the figure itself does not count.

    Args:
        signed: a difference, with its sign.
    """
    form = form_of(value, ci95)
    text, low, high = (written(number, form, signed=signed) for number in (value, *ci95))
    return text, f"[{low}, {high}]"


def spread(value: float, sd: float) -> tuple[str, str]:
    """A mean and its standard deviation, ``("0.503", "0.012")``: both to two digits of the deviation."""
    form = form_of(value, (value - sd, value + sd))
    return written(value, form), written(sd, form)


def form_of(value: float, ci95: Sequence[float]) -> str:
    """The format of a figure and its interval, for ``written``."""
    if not all(map(math.isfinite, (value, *ci95))):
        return ".3g"
    largest = max(map(abs, (value, *ci95)))
    if largest and not SMALL <= largest < LARGE:
        return f".{DIGITS - 2}e"
    most = DIGITS - 1 - math.floor(math.log10(largest)) if largest else 0
    distances = [distance for end in ci95 if (distance := abs(end - value))]
    wanted = 1 - math.floor(math.log10(min(distances))) if distances else most
    return f".{max(0, min(wanted, most))}f"


def written(number: float, form: str, *, signed: bool = False) -> str:
    """A number as a figure beside it is written."""
    text = f"{number:{form}}"
    if text.strip("-0.") == "" and "e" not in text:  # no sign before what is rounded to zero
        return text.lstrip("-")
    return f"+{text}" if signed and number > 0 else text


def in_bytes(size: int) -> str:
    """A number of bytes in words: kB, MB or GB, of a thousand each."""
    if size >= 1e9:
        return f"{size / 1e9:,.1f} GB"
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"
