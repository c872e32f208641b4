"""What a sweep knows of a position: its figures, or those of the strengths around it; and when to warn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from extsub.combination.combination import LARGEST_ALPHA
from extsub.models.position import Position
from extsub.report.reading import Sweep
from extsub.report.wording import alone, at
from extsub.report.wording import figure as in_words
from extsub.sweeping.budget import ScoreName
from extsub.ui.scale import scale_of


@dataclass(frozen=True)
class Known:
    """What is known of one score at a position, in words."""

    value: str
    """The figure, or those of the strengths around it."""
    beside: tuple[str, ...]
    """Its 95 % interval, or which strengths those are; and the expert's figure."""


def known_at(sweep: Sweep, position: Position) -> dict[ScoreName, Known]:
    """What the sweep knows at a position: the score of the deficiency, and that of the ability if there is one."""
    return {name: _known(sweep, name, position) for name in (sweep.target, sweep.ability) if name}


def label_of(sweep: Sweep, position: Position) -> str | None:
    """The label that this position has in the sweep; None between its strengths."""
    if not isinstance(position.alpha, float):
        return position.operation
    return "expert" if position.alpha == 0 else sweep.find(position.operation, position.alpha)


def warning_at(sweep: Sweep | None, position: Position) -> str:
    """Why nobody knows what the model does there; empty within what was swept."""
    if not isinstance(position.alpha, float):
        return ""
    strength, swept = at(position.alpha), scale_of(sweep, position.operation).swept
    if sweep is None:
        beyond = "" if 0 <= position.alpha <= LARGEST_ALPHA else f", and usually 0 to {LARGEST_ALPHA} is swept"
        return f"Nothing was measured at {strength}: no --sweep was given{beyond}."
    if swept is None:
        return f"Nothing was measured at {strength}: {position.operation} was not swept."
    if swept[0] <= position.alpha <= swept[1]:
        return ""
    return f"{strength} is outside of what was measured, {swept[0]:g} to {swept[1]:g}: nobody knows what it costs."


def _known(sweep: Sweep, name: ScoreName, position: Position) -> Known:
    label, expert = label_of(sweep, position), sweep.figure("expert", name)
    than = (f"expert {alone(expert)}",) if expert and label != "expert" else ()
    if here := sweep.figure(label, name) if label else None:
        value, interval = in_words(here["value"], here["ci95"])
        return Known(value, (interval, *than))
    around = _around(sweep, name, position)
    if len(around) < 2:
        return Known("–", than)
    where = " and ".join(f"{alpha:g}" for alpha in around)
    return Known(" … ".join(map(alone, around.values())), (f"measured at {where}", *than))


def _around(sweep: Sweep, name: ScoreName, position: Position) -> dict[float, dict[str, Any]]:
    """The figures at the nearest strengths below and above."""
    here = position.alpha
    assert isinstance(here, float)  # every model to start from was asked
    measured = scale_of(sweep, position.operation).measured
    below, above = [alpha for alpha in measured if alpha < here][-1:], [alpha for alpha in measured if alpha > here][:1]
    labels = {alpha: label_of(sweep, Position(position.operation, alpha)) for alpha in (*below, *above)}
    return {alpha: figure for alpha, label in labels.items() if label and (figure := sweep.figure(label, name))}
