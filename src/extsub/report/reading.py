"""What a sweep wrote, as the report needs it: two scores, a curve for each operation, figures of half the items."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from extsub.algebra import OPERATIONS
from extsub.combination.operations import load_operations
from extsub.errors import ExtSubError
from extsub.escaping import brief
from extsub.evaluation.groups import read_scores
from extsub.evaluation.metrics import Difference, Figure
from extsub.evaluation.store import FIGURES, NUMBER, read_items, read_results
from extsub.evaluation.tasks import TASKS, check_known
from extsub.files.reading import fits, read_json
from extsub.report.wording import score
from extsub.sweeping.budget import Budget, ScoreName, find_score
from extsub.sweeping.grid import CONTROLS, SweepPoint
from extsub.sweeping.references import METHODS
from extsub.sweeping.selection import AllScores, Half, change_on_test, figure_on, half_of, value_on
from extsub.sweeping.settings import FORMAT, POSITIONS, RESULT

MODELS = ("base", "expert", "anti-expert")
FROM_BASE = ("negated", "dexperts")
"""What is the base, and not the expert, at a strength of 0."""

TEXT = (str, NoneType)
POSITION = {"operation": str, "alpha": (*NUMBER, NoneType), "tasks": FIGURES}
CHOSEN = {"position": TEXT, "closest": str}
SHAPE = {
    "settings": {"tasks": [str], "seed": int, "output": object},
    "made_of": {
        "base": str,
        "base_commit": TEXT,
        "base_sha256": TEXT,
        "adapters": [{"name": str, "commit": TEXT, "weights_sha256": str}],
    },
    "given": {"expert": str, "anti_experts": [str]},
    "score": str,
    "budget": TEXT,
    "positions": {**dict.fromkeys(MODELS, POSITION), ...: POSITION},
    "chosen": {...: CHOSEN},
}
"""The shape of ``sweep.json``, as far as it is read."""
REFERENCES = {"references": {...: {**POSITION, "passes": int}}, "compared": {...: CHOSEN}}
"""What else it holds where methods of reference were asked."""


@dataclass(frozen=True, eq=False)
class Sweep:
    """A sweep with the two scores that it is judged by."""

    folder: Path
    record: dict[str, Any]
    target: ScoreName
    """The score of the deficiency, by which the strength was chosen."""
    ability: ScoreName | None
    """The score that a choice may cost something in."""
    why: str
    """A sentence that says where ``ability`` comes from."""
    budget: Budget | None

    @property
    def seed(self) -> int:
        return self.record["settings"]["seed"]

    @property
    def positions(self) -> dict[str, Any]:
        return self.record["positions"]

    @property
    def references(self) -> dict[str, Any]:
        """The points of methods of reference, as ``positions`` has those of operations; none in most sweeps."""
        return self.record["references"]

    @functools.cached_property
    def points(self) -> dict[str, Any]:
        """All points by their labels: ``positions`` and ``references``."""
        return self.positions | self.references

    @property
    def methods(self) -> list[str]:
        """The methods of reference that were asked."""
        return list(dict.fromkeys(point["operation"] for point in self.references.values()))

    @property
    def operations(self) -> list[str]:
        return list(
            dict.fromkeys(
                position["operation"] for position in self.positions.values() if position["alpha"] is not None
            )
        )

    @property
    def main(self) -> str:
        """The operation that the verdict is about."""
        chosen = self.record["chosen"]
        return "ext-sub" if "ext-sub" in chosen else next(iter(chosen))

    @property
    def result(self) -> str:
        """The position chosen for the main operation, or the closest to the budget."""
        choice = self.record["chosen"][self.main]
        return choice["position"] or choice["closest"]

    def alpha(self, label: str) -> float | None:
        return self.points[label]["alpha"]

    def title(self, label: str) -> str:
        """The position ``label`` as people call it."""
        operation, strength = self.points[label]["operation"], self.strength(label)
        return f"{operation}, {strength}" if strength else operation

    def strength(self, label: str) -> str:
        """The α of a point, or β of a method of reference, in words; empty where it has none."""
        alpha = self.alpha(label)
        return "" if alpha is None else f"{'β' if label in self.references else 'α'} = {alpha:g}"

    def find(self, operation: str, alpha: float) -> str | None:
        """The position of an operation at a strength, if the grid has it."""
        labels = [
            name for name, point in self.positions.items() if (point["operation"], point["alpha"]) == (operation, alpha)
        ]
        return labels[0] if labels else None

    def curve(self, operation: str) -> list[str]:
        """The points of an operation, or of a method of reference, in order of α or β; at 0 stands the model that it
        starts from. Of a method without a strength its one point."""
        start = "base" if operation in FROM_BASE else "expert"
        own = [name for name, point in self.points.items() if point["operation"] == operation]
        if own and self.alpha(own[0]) is None:
            return own
        return sorted([start, *own], key=lambda name: self.alpha(name) or 0.0)

    def figure(self, label: str, name: ScoreName) -> dict[str, Any] | None:
        """A figure on all items: value, ci95, n."""
        return self.points[label]["tasks"].get(name.task, {}).get(name.score)

    @functools.cache  # noqa: B019  one sweep is read in a process
    def rows(self, label: str, task: str) -> dict[int, dict[str, Any]]:
        """The rows that a model's evaluation saved for a task: what it made of every item.

        Raises:
            ExtSubError: the items are not there.
        """
        return read_items(self.folder / POSITIONS / label, task)

    @functools.cache  # noqa: B019
    def scores(self, label: str, task: str) -> dict[Any, Any]:
        """The scores of every item."""
        return read_scores(self.folder / POSITIONS / label, task)

    @functools.cache  # noqa: B019
    def on_half(self, label: str, name: ScoreName, half: Half = "test") -> Figure:
        """A figure on one half of the items.

        Raises:
            ExtSubError: no item is in it.
        """
        scores: AllScores = {name.task: self.scores(label, name.task)}
        return figure_on(scores, name, half, self.seed)

    def value_on_half(self, label: str, name: ScoreName, half: Half = "test") -> float:
        """The figure without its interval.

        Raises:
            ExtSubError: no item is in it.
        """
        return value_on({name.task: self.scores(label, name.task)}, name, half, self.seed)

    @functools.cache  # noqa: B019
    def change(self, first: str, second: str, name: ScoreName) -> Difference:
        """By how much a second position differs from a first on the test half, item by item."""
        return change_on_test(self.scores(first, name.task), self.scores(second, name.task), name, self.seed)

    @functools.cached_property
    def plain(self) -> ScoreName | None:
        """The target over the answers that neither negate nor evade, where every position has it on the test half."""
        name = ScoreName(self.target.task, f"{self.target.score}_plain", self.target.measure)
        if any(self.figure(label, name) is None for label in self.positions):
            return None
        known = self.scores("expert", name.task).items()
        has_some = any(
            half_of(item, self.seed) == "test" and scores.get(name.score) is not None for item, scores in known
        )
        return name if has_some else None

    def limit(self, half: Half | None = None) -> float | None:
        """The budget's number, on all items or on a half; None without a budget, or where there is no gain to keep."""
        if self.budget is None:
            return None
        name = self.budget.name
        values = {}
        for model in ("base", "expert"):
            known = self.figure(model, name)
            values[model] = self.value_on_half(model, name, half) if half else known["value"] if known else float("nan")
        limit = self.budget.limit(values)
        return None if math.isnan(limit) else limit


def read_sweep(folder: Path) -> Sweep:
    """Read what ``extsub sweep`` wrote.

    Raises:
        ExtSubError: it wrote nothing there, or something else did.
    """
    path = folder / RESULT
    try:
        record: dict[str, Any] = read_json(path, SHAPE, format=FORMAT)
        for name in REFERENCES:
            record.setdefault(name, {})
        if not fits(record, REFERENCES):
            raise ValueError("other references than expected")
        _check_names(record)
    except FileNotFoundError as error:
        raise ExtSubError(f"{folder}: no {RESULT} in it; give a folder that extsub sweep wrote") from error
    except (OSError, ValueError) as error:
        raise ExtSubError(f"{path} was not written by extsub sweep, or is broken: sweep again") from error
    check_known(record["settings"]["tasks"], str(path))
    if "choose" not in record["settings"]:  # of an older extsub, which took the best, of mc1 unless told otherwise
        record["settings"] |= {"choose": "best", "score": record["score"]}
    known = _known(record)
    target = find_score("score", record["score"], known)
    budget = Budget.parse(record["budget"], known) if record["budget"] else None
    _check_positions(folder, record)
    ability, why = _ability(record, known, target, budget)
    return Sweep(folder, record, target, ability, why, budget)


def _check_names(record: dict[str, Any]) -> None:
    """Raises ValueError where a record names what is not there, or a position is not called as it must be."""
    positions, chosen = record["positions"], record["chosen"]
    load_operations(set(chosen))
    if not record["given"]["anti_experts"] or not chosen:
        raise ValueError("nothing chosen")
    for label, point in positions.items():  # each is the name of a folder
        plain = SweepPoint(point["operation"], point["alpha"]).label
        if point["operation"] not in (*MODELS, *OPERATIONS, *CONTROLS):
            raise ExtSubError(
                f"{brief(point['operation'])} is not a known operation: say --task-file and the file that registers it"
            )
        if not re.fullmatch(rf"{re.escape(plain)}(-[0-9a-f]{{8}})?", label):
            raise ValueError(f"no position is called {label}")
    for label, point in record["references"].items():
        if point["operation"] not in METHODS or label != SweepPoint(point["operation"], point["alpha"]).label:
            raise ValueError(f"no reference is called {label}")
    if {point["operation"] for point in record["references"].values()} != record["compared"].keys():
        raise ValueError("other references than are compared")
    for points, picked in ((positions, chosen), (record["references"], record["compared"])):
        for operation, choice in picked.items():
            if points.get(choice["position"] or choice["closest"], {}).get("operation") != operation:
                raise ValueError(f"no position was chosen for {operation}")


def _check_positions(folder: Path, record: dict[str, Any]) -> None:
    """The items beside the record are its own; an interrupted --overwrite leaves others."""
    for label in (*record["positions"], *record["references"]):
        model = read_results(folder / POSITIONS / label).get("model")
        if model and any(model.get(name) != value for name, value in record["made_of"].items()):
            raise ExtSubError(f"{folder / POSITIONS / label} is of another sweep than {RESULT}: sweep again")


def _known(record: dict[str, Any]) -> list[ScoreName]:
    """The scores that a sweep can be judged by, in the order of its tasks."""
    return [
        ScoreName(task, name, TASKS[task].measure(name))
        for task in record["settings"]["tasks"]
        for name in dict.fromkeys([*TASKS[task].measures, *record["positions"]["expert"]["tasks"].get(task, {})])
        if TASKS[task].measure(name).better
    ]


def measured(record: Mapping[str, Any]) -> list[ScoreName]:
    """The scores of the expert that can be better or worse, as ``sweep.json`` has them."""
    return [
        ScoreName(task, name, TASKS[task].measure(name))
        for task, scores in record["positions"]["expert"]["tasks"].items()
        for name in scores
        if TASKS[task].measure(name).better
    ]


def _ability(
    record: dict[str, Any], known: list[ScoreName], target: ScoreName, budget: Budget | None
) -> tuple[ScoreName | None, str]:
    if budget:
        return budget.name, f"Across lies {score(budget.name)}, the budget's score."
    measured = record["positions"]["expert"]["tasks"]
    others = [name for name in known if name.task != target.task and name.score in measured.get(name.task, {})]
    for name in (*[name for name in others if name.measure.better == "lower"], *others):
        return name, f"Across lies {score(name)}, since the sweep had no budget."
    return None, "The sweep measured nothing else, so the score stands against α."
