"""What a demo found: truth, and how much of what the expert learnt is left."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from extsub.demo.settings import RETAINED
from extsub.evaluation.statistics import Measure
from extsub.evaluation.tasks import TASKS
from extsub.sweeping.budget import ScoreName
from extsub.sweeping.choice import figure_on, read_scores
from extsub.sweeping.settings import POSITIONS

PARTS = {
    **dict.fromkeys(("all_items", "test_half"), ("mc1", "mc2", "perplexity", "retained")),
    "manners": ("mc2", "polite", "perplexity", "retained"),
}
"""what a seed's summary holds of every model"""
MODELS = ("base", "expert", "anti-expert")
NAMES = {
    "mc1": ScoreName("truthfulqa-mc", "mc1", TASKS["truthfulqa-mc"].measure("mc1")),
    "mc2": ScoreName("truthfulqa-mc", "mc2", TASKS["truthfulqa-mc"].measure("mc2")),
    "perplexity": ScoreName("perplexity", "perplexity", Measure(better="lower", perplexity=True)),
}


def retained(perplexity: float, base: float, expert: float) -> float | None:
    """What is left of the expert's gain in log-perplexity over the base: 1 is the expert, 0 the base.

    None where the expert gained nothing.
    """
    return math.log(base / perplexity) / math.log(base / expert) if expert < base else None


def ability_limit(sweep: Path, seed: int) -> float | None:
    """The perplexity at which RETAINED of the expert's gain is left, on the validation half."""
    base, expert = (_on(sweep, label, "perplexity", "validation", seed) for label in ("base", "expert"))
    return base * (expert / base) ** RETAINED if expert < base else None


def summary_of(record: Mapping[str, Any], sweep: Path, seed: int) -> dict[str, Any]:
    """The figures of one seed's sweep.

    Args:
        record: what ``sweep.json`` holds.
        sweep: the folder of it.
    """
    perplexities = [_perplexity(record, label) for label in ("base", "expert")]
    return {
        "budget": record["budget"],
        "items": {name: record["positions"]["base"]["tasks"][task][score]["n"] for name, task, score in COUNTED},
        "all_items": {label: _position(record, label, perplexities) for label in record["positions"]},
        "test_half": {
            **{label: _test(sweep, label, None, seed) for label in MODELS},
            **{name: _test(sweep, one["position"], one, seed) for name, one in record["chosen"].items()},
        },
    }


COUNTED = (("facts", "truthfulqa-mc", "mc2"), ("neutral", "perplexity", "perplexity"))


def _position(record: Mapping[str, Any], label: str, perplexities: Sequence[float]) -> dict[str, float | None]:
    tasks = record["positions"][label]["tasks"]
    perplexity = _perplexity(record, label)
    return {
        "mc1": tasks["truthfulqa-mc"]["mc1"]["value"],
        "mc2": tasks["truthfulqa-mc"]["mc2"]["value"],
        "perplexity": perplexity,
        "retained": retained(perplexity, *perplexities),
    }


def _perplexity(record: Mapping[str, Any], label: str) -> float:
    return record["positions"][label]["tasks"]["perplexity"]["perplexity"]["value"]


def _test(sweep: Path, label: str | None, chosen: Mapping[str, Any] | None, seed: int) -> dict[str, Any] | None:
    """Figures on the test half. None where nothing kept the budget."""
    if label is None:
        return None
    base, expert, own = (_on(sweep, one, "perplexity", "test", seed) for one in ("base", "expert", label))
    return {
        **({"position": label, "against_expert": chosen["against_expert"]} if chosen else {}),
        **{name: _on(sweep, label, name, "test", seed) for name in ("mc1", "mc2")},
        "perplexity": own,
        "retained": retained(own, base, expert),
    }


def _on(sweep: Path, label: str, name: str, half: Any, seed: int) -> float:
    known = NAMES[name]
    return figure_on({known.task: read_scores(sweep / POSITIONS / label, known.task)}, known, half, seed).value


def over_seeds(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation of every figure over seeds, and of how many seeds."""
    result: dict[str, Any] = {"mean": {}, "deviation": {}, "of": {}}
    for part in PARTS:
        labels = dict.fromkeys(label for one in found for label in one[part])
        for name, use in (("mean", fmean), ("deviation", _deviation)):
            result[name][part] = {label: _each(found, part, label, use) for label in labels}
        result["of"][part] = {label: sum(one[part].get(label) is not None for one in found) for label in labels}
    for name, use in (("mean", fmean), ("deviation", _deviation)):
        exact = [one["answers"]["exact"] for one in found]
        result[name]["exact"] = {label: use([one[label] for one in exact]) for label in exact[0]}
    return result


def _each(found: Sequence[Mapping[str, Any]], part: str, label: str, use: Any) -> dict[str, float | None]:
    given = [one[part][label] for one in found if one[part].get(label) is not None]
    values = {name: [one[name] for one in given if one[name] is not None] for name in PARTS[part]}
    return {name: use(some) if some else None for name, some in values.items()}


def _deviation(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None
