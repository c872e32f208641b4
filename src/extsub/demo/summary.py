"""What a demo found: two deficiencies, and how much of what the expert learnt is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from extsub.evaluation.metrics import Measure
from extsub.evaluation.store import RESULTS
from extsub.files.reading import read_json
from extsub.sweeping.budget import kept_part
from extsub.sweeping.settings import RESULT

SCORES = {"flattery": ("flattery", ("probability", "greedy")), "misconceptions": ("truthfulqa-mc", ("mc2", "mc1"))}
"""For each deficiency the task that shows it, and its scores."""
ABILITY = Measure(better="lower", perplexity=True)
BEFOREHAND = 1.0
"""The strength that was set before anything was seen."""


def summary_of(run: Path, ran: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of one seed, on all items; of chosen strengths on the items that did not choose.

    Args:
        run: the recipe's output.
        ran: what ``run_recipe`` returned.
    """
    summary: dict[str, Any] = {}
    for name, (task, scores) in SCORES.items():
        record = read_json(run / f"sweep-{name}" / RESULT, largest=None)
        positions = {label: position["tasks"] for label, position in record["positions"].items()}
        models = {
            label: _figures(positions[label], positions, task, scores) for label in ("base", "expert", "anti-expert")
        }
        operations = dict.fromkeys(choice["operation"] for choice in record["chosen"].values())
        at_one = {
            operation: _figures(positions[f"{operation}-{BEFOREHAND:g}"], positions, task, scores)
            for operation in operations
            if f"{operation}-{BEFOREHAND:g}" in positions
        }
        chosen = {
            operation: {
                "alpha": record["positions"][label]["alpha"],
                **_figures(positions[label], positions, task, scores),
            }
            for operation in operations
            if (label := record["chosen"][operation]["position"])
        }
        asked = read_json(run / f"evaluation-{name}" / RESULTS, largest=None)["tasks"]
        summary[name] = {
            "models": models,
            "beforehand": at_one,
            "chosen": chosen,
            "result": _figures(asked, positions, task, scores),
            "items": positions["base"][task][scores[0]]["n"],
            "sentence": ran["sweeps"][f"sweep-{name}"]["report"]["sentence"],
            "page": ran["sweeps"][f"sweep-{name}"]["page"],
        }
    return {**summary, "result": ran["result"]["output"]}


def _figures(
    asked: Mapping[str, Any], positions: Mapping[str, Any], task: str, scores: Sequence[str]
) -> dict[str, float | None]:
    perplexities = [
        tasks["perplexity"]["perplexity"]["value"] for tasks in (asked, positions["base"], positions["expert"])
    ]
    own = {score: asked[task][score]["value"] for score in scores}
    return {**own, "perplexity": perplexities[0], "kept": kept_part(*perplexities, ABILITY)}


def over_seeds(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation of every figure over seeds; where one seed lacks it, of the others."""
    return {
        "mean": _each(summaries, fmean),
        "deviation": _each(summaries, lambda values: stdev(values) if values[1:] else None),
    }


def _each(values: Sequence[Any], use: Any) -> Any:
    """``use`` of all numbers that stand at the same place."""
    if all(isinstance(value, Mapping) for value in values):
        names = dict.fromkeys(name for value in values for name in value)
        return {name: _each([value[name] for value in values if name in value], use) for name in names}
    numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    return use(numbers) if numbers else None
