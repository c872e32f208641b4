"""The α slider of an operation: how far it reaches, what of it was swept, and where the chosen strength is."""

from __future__ import annotations

from dataclasses import dataclass

from extsub.combination.combination import LARGEST_ALPHA
from extsub.report.reading import Sweep

MARGIN = 0.25
"""How far a slider goes on after what was swept, as a part of that."""
STEPS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0)
FINEST = 100
"""A step is so many parts of the slider, or fewer."""
CLOSE = 11
"""Labels at least so far apart, in hundredths of the slider, stand side by side on a narrow screen."""


@dataclass(frozen=True)
class Scale:
    """The scale of a slider, from ``low`` to ``high``."""

    low: float
    high: float
    swept: tuple[float, float] | None = None
    """The smallest and the largest α that were swept, 0, the expert, among them; None where none was."""
    measured: tuple[float, ...] = ()
    """The strengths that were asked, in order."""
    chosen: float | None = None
    """The one that the sweep chose."""

    @property
    def step(self) -> float:
        """The distance from one position of the slider to the next."""
        return next((step for step in STEPS if (self.high - self.low) / step <= FINEST), STEPS[-1])

    def place(self, alpha: float) -> float:
        """Where α is, in hundredths of the slider."""
        return round(100 * (alpha - self.low) / (self.high - self.low), 3)

    def labelled(self) -> list[float]:
        """Strengths whose labels have room on a narrow screen: the ends and the chosen one before the others."""
        first = [alpha for alpha in (self.chosen, *(self.swept or ())) if alpha is not None]
        kept: list[float] = []
        for alpha in (*first, *self.measured):
            if all(abs(self.place(alpha) - self.place(other)) >= CLOSE for other in kept):
                kept.append(alpha)
        return kept


def scale_of(sweep: Sweep | None, operation: str) -> Scale:
    """The slider of an operation; where it was not swept, to the largest α that is swept unless told otherwise."""
    alphas = {sweep.alpha(label) or 0.0 for label in sweep.curve(operation)} if sweep else {0.0}
    if sweep is None or alphas == {0.0}:
        return Scale(0.0, float(LARGEST_ALPHA))
    first, last = min(alphas), max(alphas)
    margin = MARGIN * (last - first)
    label = sweep.record["chosen"].get(operation, {}).get("position")
    return Scale(
        low=first - margin if first < 0 else 0.0,
        high=last + margin if last > 0 else 0.0,
        swept=(first, last),
        measured=tuple(sorted(alphas)),
        chosen=sweep.alpha(label) if label else None,
    )


def start_of(sweep: Sweep | None, operation: str) -> float:
    """The strength to begin with: what the sweep chose, or what came closest to its budget; 1 without a sweep."""
    chosen = sweep.record["chosen"].get(operation) if sweep else None
    alpha = sweep.alpha(chosen["position"] or chosen["closest"]) if sweep and chosen else None
    return 1.0 if alpha is None else float(alpha)
