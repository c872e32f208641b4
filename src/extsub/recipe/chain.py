"""The stages of a recipe, and what each is made from: settings, the content of files and adapters, the base."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from extsub.adapters.adapter import sha256
from extsub.adapters.source import find_adapter
from extsub.errors import ExtSubError
from extsub.evaluation.evaluate import SETTINGS
from extsub.evaluation.settings import EvaluationSettings
from extsub.evaluation.task import data_of
from extsub.evaluation.tasks import TASKS
from extsub.files.reading import located, read_json
from extsub.recipe.schema import Recipe, Sweep
from extsub.recipe.specs import AdapterSpec
from extsub.recipe.stages import Stage, key_of
from extsub.rewriting.make import made_from
from extsub.sweeping.budget import in_words
from extsub.sweeping.settings import RESULT, SweepSettings, swept_tasks
from extsub.training.checkpoints import MAY_DIFFER

PAGE, COMBINED = "report.html", "result"
"""A file in each sweep's folder, and a folder in the output."""


def written(spec: AdapterSpec) -> Stage:
    """The stage that writes an anti-expert's data. What changes memory, speed and price alone does not count."""
    assert spec.negatives
    return Stage(spec.writing, (spec.negatives.output.name,), made_from(spec.negatives))


def trained(spec: AdapterSpec, base: Mapping[str, Any]) -> Stage:
    """The stage that trains an adapter. What changes memory and speed alone does not count."""
    assert spec.training
    decisive = {name: value for name, value in spec.training.to_dict().items() if name not in MAY_DIFFER}
    decisive |= {"model": base, "data": _content(spec.training.data)}
    if spec.negatives:
        decisive |= {"data": _content(str(spec.negatives.output)), "field": None}
    return Stage(spec.name, (spec.name,), decisive)


def swept(recipe: Recipe, sweep: Sweep, base: Mapping[str, Any]) -> Stage:
    """The stage of a sweep. Another grid or budget goes on with what was asked; anything else begins anew."""
    values = sweep.settings.to_dict()
    tasks = {}
    for task in swept_tasks(sweep.settings):
        data = data_of(task, sweep.settings, tuple(TASKS))
        tasks[task.name] = {"data": data and _content(data), **task.values(sweep.settings)}
    inputs = {
        "base": base,
        "adapters": _provenance(recipe.expert, *sweep.anti_experts),
        "tasks": tasks,
        **{name: values[name] for name in SETTINGS},
        "prompt": sweep.prompt,
    }
    asked = {field.name for field in fields(EvaluationSettings)} | {"tasks"}
    again = {field.name: values[field.name] for field in fields(SweepSettings) if field.name not in asked}
    return Stage(sweep.name, (sweep.name, f"{sweep.name}/{RESULT}"), inputs, again)


def reported(recipe: Recipe, sweep: Sweep, base: Mapping[str, Any]) -> Stage:
    """The stage that writes the page of a sweep."""
    asked = swept(recipe, sweep, base)
    inputs = {"sweep": key_of(asked.inputs), "again": key_of(asked.again)}
    return Stage(sweep.report, (f"{sweep.name}/{PAGE}",), inputs)


def combined(recipe: Recipe, alphas: Sequence[float]) -> Stage:
    """The stage that combines the result at the strengths that were chosen, whatever else the sweeps tried."""
    inputs = {"adapters": _provenance(*recipe.specs), "alpha": list(alphas), **vars(recipe.result)}
    return Stage("result", (COMBINED,), inputs)


def evaluated(recipe: Recipe, sweep: Sweep, base: Mapping[str, Any]) -> Stage:
    """The stage in which the result is asked what a sweep asks."""
    asked = swept(recipe, sweep, base)
    inputs = {"result": find_adapter(str(recipe.output / COMBINED)).provenance(), "sweep": key_of(asked.inputs)}
    return Stage(sweep.evaluation, (sweep.evaluation,), inputs)


@dataclass(frozen=True)
class ChosenAlphas:
    """What a sweep chose for the result's operation."""

    alpha: float | None
    """None where nothing keeps the budget"""
    rule: str
    """``one-se`` or ``best``"""
    score: str
    """The score of the sweep."""
    budget: str | None
    notes: tuple[str, ...]
    figures: dict[str, Any]
    """The chosen position, or the closest to the budget, with its figures, as ``sweep.json`` has them."""

    def to_dict(self) -> dict[str, Any]:
        """The choice as JSON values."""
        return {"alpha": self.alpha, "choose": self.rule, "score": self.score, "budget": self.budget, **self.figures}


def chosen(recipe: Recipe, sweep: Sweep) -> ChosenAlphas:
    """Read what a finished sweep chose.

    Raises:
        ExtSubError: it had no strength of the operation to choose from.
    """
    record = read_json(recipe.output / sweep.name / RESULT, largest=None)
    choice = record["chosen"].get(recipe.result.operation)
    if choice is None:
        raise ExtSubError(f"{sweep.name} has no strength of {recipe.result.operation} to choose from: widen alphas")
    position = choice["position"]
    alpha = None if position is None else record["positions"][position]["alpha"]
    notes = tuple(record["notes"])
    return ChosenAlphas(alpha, sweep.settings.choose, record["score"], record["budget"], notes, choice)


def nothing_kept(recipe: Recipe, choice: ChosenAlphas) -> str:
    """A sentence on what to do where no strength keeps the budget."""
    wanted = f"keeps {in_words(choice.budget)}" if choice.budget else f"has a {choice.score} that is a number"
    return (
        f"no strength of {recipe.result.operation} {wanted}, and {choice.figures['closest']} comes closest: change "
        f"budget or alphas in {recipe.path}, and '{recipe.command}' goes on; what was asked is not asked again"
    )


def _provenance(*specs: AdapterSpec) -> list[dict[str, Any]]:
    return [find_adapter(spec.adapter).provenance() for spec in specs]


def _content(name: str) -> dict[str, str]:
    """Tells data from any other: a file or folder by its bytes, a dataset of the hub by its name."""
    path = located(name)
    if path.is_file():
        return {"sha256": sha256(path)}
    if not path.is_dir():
        return {"name": name}
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file() and not file.name.startswith("."):
            digest.update(f"{file.relative_to(path)} {sha256(file)}\n".encode())
    return {"sha256": digest.hexdigest()}
