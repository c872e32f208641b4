"""From figures to places on paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MOST = 200
"""The most ticks of an axis."""


@dataclass(frozen=True)
class Axis:
    """Figures from ``low`` to ``high`` lie from ``start`` to ``end``; ``start`` > ``end`` turns the axis round."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float, log: bool = False) -> Axis:
        """An axis with room for all values."""
        log = log and min(values) > 0
        low, high = (math.log(value) if log else value for value in (min(values), max(values)))
        room = 0.07 * (high - low) or 0.05 * abs(high) or 1.0
        low, high = low - room, high + room
        return cls(math.exp(low), math.exp(high), start, end, True) if log else cls(low, high, start, end)

    def __call__(self, value: float) -> float:
        """The place of a figure."""
        if self.log:
            part = math.log(max(value, 1e-300) / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return self.start + part * (self.end - self.start)

    def ticks(self, about: int) -> list[float]:
        """Round figures along the axis, roughly ``about`` of them."""
        if self.log and self.high / self.low > 8:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            for digits in ((1, 2, 5), (1, 3), (1,)):
                ticks = [digit * 10.0**power for power in range(first, last + 1) for digit in digits]
                ticks = [tick for tick in ticks if self.low <= tick <= self.high]
                if len(ticks) <= about + 1:
                    return ticks
            return ticks[:: math.ceil(len(ticks) / about)]
        raw = (self.high - self.low) / about
        unit = 10.0 ** math.floor(math.log10(raw))
        step = next(unit * digit for digit in (1, 2, 2.5, 5, 10) if unit * digit >= raw * 0.999)
        first = math.ceil(self.low / step)
        return [round(k * step, 12) for k in range(first, first + MOST) if k * step <= self.high]
