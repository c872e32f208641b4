"""The search between the points of a grid: what it tried, the best of it, and whether that beats the grid's choice."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from extsub.algebra import OPERATIONS
from extsub.errors import ExtSubError
from extsub.extras import require
from extsub.sweeping.grid import SweepPoint
from extsub.sweeping.proposals import Space, propose
from extsub.sweeping.runner import Runner
from extsub.sweeping.selection import Chooser


def searched(points: Sequence[SweepPoint]) -> str:
    """The operation that is searched: ext-sub, or the first one.

    Raises:
        ExtSubError: the grid has none that adapters can be combined by, or optuna is not installed.
    """
    require("optuna", "search")
    known = [point.operation for point in points if point.operation in OPERATIONS and (point.alpha or 0.0) > 0]
    if not known:
        raise ExtSubError("--search goes between the strengths of a grid: give --operations one with an α above 0")
    return "ext-sub" if "ext-sub" in known else known[0]


def search(
    runner: Runner, chooser: Callable[[], Chooser], operation: str, grid: Sequence[SweepPoint], maximize: bool
) -> dict[str, Any] | None:
    """Search between the points of the grid: ask what is proposed, and choose among all as among the grid.

    Args:
        chooser: for the main process, which has the scores.
        grid: positions of the operation that were asked.

    Returns:
        what ``sweep.json`` says of it; None for the other processes
    """
    settings, group = runner.settings, runner.group
    space = Space.of(operation, grid, list(runner.adapters[0].modules), settings.search_over)

    def evaluate(position: SweepPoint) -> tuple[float, float]:
        if position not in grid:
            runner.ask([position])
        return group.run_on_main(lambda: chooser().on_validation(runner.scores(position)))

    tried = propose(space, grid, settings.search, settings.seed, evaluate, maximize)
    return group.run_on_main(lambda: _found(runner, chooser(), operation, grid, tried))


def _found(
    runner: Runner, chooser: Chooser, operation: str, grid: Sequence[SweepPoint], tried: Sequence[SweepPoint]
) -> dict[str, Any]:
    known = {point.label: point for point in (*grid, *tried)}
    scores = {point: runner.scores(point) for point in known.values()}
    single = chooser.choose(operation, {point: scores[point] for point in grid})
    best = chooser.choose(operation, scores)
    change = None
    if single.position and best.position and single.position != best.position:
        change = chooser.change(scores[known[single.position]], scores[known[best.position]])
    return {
        "operation": operation,
        "over": list(runner.settings.search_over),
        "trials": runner.settings.search,
        "tried": [_trial(point, *chooser.on_validation(scores[point])) for point in tried],
        "grid": single.position,
        "best": {**best.to_dict(), **(known[best.position].to_dict() if best.position else {})},
        "against_grid": change,
    }


def _trial(position: SweepPoint, value: float, excess: float) -> dict[str, Any]:
    validation = None if math.isnan(value) else value
    return {"position": position.label, **position.to_dict(), "validation": validation, "within_budget": excess <= 0}
