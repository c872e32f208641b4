"""Between the points of the grid: further strengths, and strengths that differ by module, proposed by Optuna.

What is proposed depends on the seed and on the validation half alone, so an interrupted search proposes the same again.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from extsub.adapters.names import last_part
from extsub.combination.profile import Profile
from extsub.sweeping.grid import SweepPoint

if TYPE_CHECKING:
    import optuna

DIGITS = 4
"""Digits behind the point of a proposed strength."""
STEEPEST = 1.0
"""The largest ramp: from 0 in one of the end layers to twice the strength in the other."""


@dataclass(frozen=True)
class Space:
    """Where to search: up to the grid's largest α, with one α for all or one for each kind of module, and a ramp."""

    operation: str
    highest: float
    kinds: tuple[str, ...]
    """Kinds of modules that have an α each; none where there is one for all."""
    ramp: bool

    @classmethod
    def of(cls, operation: str, grid: Sequence[SweepPoint], modules: Sequence[str], over: Sequence[str]) -> Space:
        """The space of an operation; ``over`` says what is searched: ``alpha``, ``kinds``, ``depth``."""
        highest = max(point.alpha or 0.0 for point in grid)
        kinds = tuple(sorted({last_part(name) for name in modules})) if "kinds" in over else ()
        return cls(operation, highest, kinds, "depth" in over)

    def parameters(self, alpha: float) -> dict[str, float]:
        """The parameters of a point of the grid, in this space."""
        names = [f"alpha {kind}" for kind in self.kinds] or ["alpha"]
        return {**dict.fromkeys(names, alpha), **({"ramp": 0.0} if self.ramp else {})}

    def propose(self, trial: optuna.Trial) -> SweepPoint:
        """The position that a trial stands for; a point of the grid is the same position as there."""
        ramp = round(trial.suggest_float("ramp", -STEEPEST, STEEPEST), DIGITS) if self.ramp else 0.0
        if not self.kinds:
            alpha = round(trial.suggest_float("alpha", 0.0, self.highest), DIGITS)
            return SweepPoint(self.operation, alpha, Profile(ramp=ramp) if ramp else None)
        kinds = {kind: round(trial.suggest_float(f"alpha {kind}", 0.0, self.highest), DIGITS) for kind in self.kinds}
        if not ramp and len(set(kinds.values())) == 1:
            return SweepPoint(self.operation, kinds[self.kinds[0]])
        return SweepPoint(self.operation, 1.0, Profile(kinds, ramp))


def propose(
    space: Space,
    grid: Sequence[SweepPoint],
    number: int,
    seed: int,
    evaluate: Callable[[SweepPoint], tuple[float, float]],
    maximize: bool,
) -> list[SweepPoint]:
    """Propose ``number`` further positions, each from what those before it scored.

    Args:
        grid: positions of the operation, which are known.
        evaluate: position -> (score on the validation half, excess over the budget: 0 or less within it)
        maximize: the score, or minimize it.

    Returns:
        those that the grid does not have
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # constraints
        sampler = optuna.samplers.TPESampler(
            seed=seed, multivariate=True, constraints_func=lambda trial: [trial.user_attrs["excess"]]
        )
    study = optuna.create_study(direction="maximize" if maximize else "minimize", sampler=sampler)
    known = [point for point in grid if (point.alpha or 0.0) > 0]
    for point in known:
        study.enqueue_trial(space.parameters(point.alpha or 0.0))
    proposed = []
    for _ in range(len(known) + number):
        trial = study.ask()
        position = space.propose(trial)
        value, excess = evaluate(position)
        trial.set_user_attr("excess", excess)
        if math.isnan(value) or math.isnan(excess):
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, value)
        proposed.append(position)
    return list(dict.fromkeys(point for point in proposed if point not in grid))
