"""Asking a server again: where it is busy, broken or silent, after a while; where it says when, then."""

from __future__ import annotations

import datetime
import math
import random
import threading
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

Value = TypeVar("Value")

FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds before the second attempt, doubled before each further one up to a limit."""
LONGEST_ASKED = 900.0
"""Seconds that a server may ask for with Retry-After."""


def retried(
    ask: Callable[[], Value],
    may_pass: Callable[[Exception], bool],
    retries: int,
    stop: threading.Event,
) -> Value:
    """What ``ask`` returns, at its first attempt that raises nothing.

    Args:
        may_pass: whether an error may be gone at the next attempt.
        retries: further attempts after the first.
        stop: no further attempt is made once it is set, and nobody waits any longer.

    Raises:
        Exception: that of the last attempt.
    """
    for attempt in range(retries + 1):
        try:
            return ask()
        except Exception as error:
            if attempt == retries or not may_pass(error) or stop.wait(_pause(error, attempt)):
                raise
    raise AssertionError("the last attempt returns or raises")


def _pause(error: Exception, attempt: int) -> float:
    """Seconds until the next attempt, a little different for each of those that wait."""
    asked = asked_pause(getattr(getattr(error, "response", None), "headers", {}))
    return max(asked or 0.0, min(FIRST_WAIT * 2**attempt, LONGEST_WAIT)) * random.uniform(1.0, 1.25)


def asked_pause(headers: Mapping[str, Any]) -> float | None:
    """The seconds that a server asks for with Retry-After, as a number or as a date."""
    said = headers.get("retry-after")
    if said is None:
        return None
    try:
        seconds = float(said)
    except ValueError:
        try:
            when = parsedate_to_datetime(said)
        except ValueError:
            return None
        seconds = (when - datetime.datetime.now(tz=when.tzinfo)).total_seconds()
    return min(max(seconds, 0.0), LONGEST_ASKED) if math.isfinite(seconds) else None
