"""What a run will do, known before any weight is loaded; whatever can be refused is refused here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from extsub.adapters.adapter import Adapter
from extsub.adapters.load import load_adapter
from extsub.adapters.source import find_adapter
from extsub.adapters.stated import template_in
from extsub.combination.combine import combine
from extsub.combination.matching import same_base
from extsub.errors import ExtSubError
from extsub.evaluation.evaluate import items_of
from extsub.evaluation.evaluated_model import identify
from extsub.evaluation.prompting import settled
from extsub.evaluation.run import check_judges
from extsub.evaluation.task import Items
from extsub.evaluation.tasks import TASKS
from extsub.extras import need, require
from extsub.files.staging import check_place
from extsub.models.base import load_config, load_tokenizer
from extsub.models.prompts import PromptOption, usual_template
from extsub.models.source import find_model
from extsub.recipe import chain
from extsub.recipe.estimates import Size, result_estimate, size_ahead, size_of, sweep_estimate
from extsub.recipe.schema import Recipe, Sweep
from extsub.recipe.specs import AdapterSpec, named
from extsub.recipe.stages import Stage, Stages, key_of
from extsub.rewriting.make import plan_negatives
from extsub.sweeping.grid import parse_alphas, sweep_points
from extsub.sweeping.references import check_system, told
from extsub.sweeping.search import searched
from extsub.sweeping.settings import swept_tasks
from extsub.sweeping.sweep import check_halves, judged_by
from extsub.training.encoding import ChunkProgress
from extsub.training.plan import Plan, plan_training

FLOAT32 = 4
"""Bytes of a number of a trained adapter."""


@dataclass(frozen=True)
class StagePlan:
    """What is to be done in one stage, and why."""

    name: str
    why: str | None
    """Why it is to be done; None where it is done."""
    estimate: dict[str, Any] = field(default_factory=dict)
    """An estimate of what is to be done."""
    training: tuple[Stage, Plan] | None = field(default=None, repr=False)
    """What a training that is to be done was planned from, and its plan."""

    def to_dict(self) -> dict[str, Any]:
        """The plan of the stage as JSON values."""
        return {"stage": self.name, "done": self.why is None, "why": self.why, "estimate": self.estimate}


def plan(recipe: Recipe, stages: Stages, tokenising: ChunkProgress | None = None) -> list[StagePlan]:
    """Check everything that can be checked without weights, and say what is to be done.

    Raises:
        ExtSubError: model, data, adapters, tasks, score, budget or output are at fault.
    """
    need("training", "train")
    require("jinja2", "report")
    check_place(recipe.output)
    model, items = find_model(recipe.model), {}
    for sweep in recipe.sweeps:
        with named(sweep.where):
            check_choice(sweep, recipe.result.operation)
            items[sweep.name] = _items(sweep)
    base = identify(model)
    for sweep in recipe.sweeps:
        with named(sweep.where):
            settings = replace(sweep.settings, prompt=sweep.prompt)
            asked = settled(swept_tasks(settings), items[sweep.name], settings, (), model)
            target, _ = judged_by(asked, swept_tasks(asked))
            check_system(told(asked, TASKS[target.task]), model)
    taken = {spec.name: load_adapter(spec.adapter) for spec in recipe.specs if not spec.training}
    _check_together(recipe, {name: size_of(adapter) for name, adapter in taken.items()})
    _check_taken(recipe, taken)
    trained = [chain.trained(spec, base) for spec in recipe.specs if spec.training]
    untrained = any(map(stages.why, trained))
    for sweep in recipe.sweeps:
        if untrained or stages.why(chain.swept(recipe, sweep, base)):
            with named(sweep.where):
                check_judges(swept_tasks(sweep.settings), sweep.settings)
    ahead, sizes = _training(recipe, stages, base, tokenising)
    sizes |= {name: size_of(adapter) for name, adapter in taken.items()}
    _check_together(recipe, sizes)
    if undone := [stage.name for stage in ahead if stage.why]:
        for sweep in recipe.sweeps:
            estimate = sweep_estimate(recipe, sweep, items[sweep.name], anew=True)
            ahead += [
                StagePlan(sweep.name, f"after {undone[-1]}", estimate),
                StagePlan(sweep.report, f"after {sweep.name}"),
            ]
        return [*ahead, *_result(recipe, f"after {sweep.name}", sizes)]
    combine(*[load_adapter(spec.adapter) for spec in recipe.specs], **vars(recipe.result))
    return [*ahead, *_after_training(recipe, stages, base, sizes, items)]


def check_choice(sweep: Sweep, operation: str) -> None:
    """Check grid, score and budget, as ``sweep`` will understand them.

    Args:
        operation: the result's.

    Raises:
        ExtSubError: it will not.
    """
    settings = sweep.settings
    points = sweep_points(settings.operations, parse_alphas(settings.alphas))
    if not any(point.operation == operation for point in points):
        raise ExtSubError(f"--alphas {settings.alphas}: no strength of {operation} but 0")
    target, _ = judged_by(settings, swept_tasks(settings))
    told(settings, TASKS[target.task])
    if settings.search:
        searched(points)


def _items(sweep: Sweep) -> Mapping[str, Items]:
    """The items of its tasks, enough to choose by and to report on."""
    tasks = swept_tasks(sweep.settings)
    items = items_of(tasks, sweep.settings)
    check_halves(sweep.settings, items, *judged_by(sweep.settings, tasks))
    return items


def with_templates(recipe: Recipe) -> Recipe:
    """The recipe with the templates and the prompts that ``auto`` means, so that stages are known by them.

    Raises:
        ExtSubError: the tokenizer cannot be loaded, or an adapter that is taken as it is is not there.
    """
    templates = [spec.training.template for spec in recipe.specs if spec.training]
    if "auto" not in (*templates, *(sweep.prompt for sweep in recipe.sweeps)):
        return recipe
    model = find_model(recipe.model)
    usual = usual_template(load_tokenizer(model, load_config(model)))

    def known(spec: AdapterSpec) -> AdapterSpec:
        trained_here = spec.training and spec.training.template == "auto"
        return replace(spec, training=replace(spec.training, template=usual)) if trained_here else spec

    expert, *anti_experts = map(known, recipe.specs)
    by_name = {anti_expert.name: anti_expert for anti_expert in anti_experts}
    sweeps = []
    for sweep in recipe.sweeps:
        own, prompt = tuple(by_name[anti_expert.name] for anti_expert in sweep.anti_experts), sweep.prompt
        if prompt == "auto":  # as the sweep will find it, once all adapters are there
            prompt = next(filter(None, map(_template, (expert, *own))), usual)
        sweeps.append(replace(sweep, anti_experts=own, prompt=prompt))
    return replace(recipe, expert=expert, anti_experts=tuple(anti_experts), sweeps=tuple(sweeps))


def _template(spec: AdapterSpec) -> PromptOption | None:
    return spec.training.template if spec.training else template_in(find_adapter(spec.adapter).folder)[0]


def _check_taken(recipe: Recipe, taken: Mapping[str, Adapter]) -> None:
    """Adapters that are there belong to the base, and together."""
    for name, adapter in taken.items():
        if adapter.base and not same_base(adapter.base, recipe.model):
            raise ExtSubError(
                f"{recipe.path}: {name}: {adapter.label} was trained on {adapter.base}, and model is {recipe.model}: "
                "they must be the same"
            )
    if len(taken) > 1:
        first, *others = taken.values()
        with named(str(recipe.path)):
            combine(first, *others)


def _training(
    recipe: Recipe, stages: Stages, base: Mapping[str, Any], tokenising: ChunkProgress | None
) -> tuple[list[StagePlan], dict[str, Size]]:
    ahead, sizes = [], {}
    for spec in recipe.specs:
        if not spec.training:
            continue
        if spec.negatives:
            ahead.append(_writing(recipe, spec, stages))
            if ahead[-1].why:
                sizes[spec.name] = size_ahead(spec.training, None)
                ahead.append(StagePlan(spec.name, f"after {spec.writing}"))
                continue
        stage = chain.trained(spec, base)
        why = stages.why(stage)
        if why is None:
            sizes[spec.name] = size_of(load_adapter(spec.adapter))
            ahead.append(StagePlan(spec.name, why))
            continue
        with named(f"{recipe.path}: {spec.name}"):
            training = plan_training(spec.learning, tokenising)
        size = training.trainable * FLOAT32 if spec.training.kind != "prefix" else None
        sizes[spec.name] = size_ahead(spec.training, size)
        ahead.append(StagePlan(spec.name, why, {**training.to_dict(), "bytes": size}, (stage, training)))
    return ahead, sizes


def _writing(recipe: Recipe, spec: AdapterSpec, stages: Stages) -> StagePlan:
    """The stage in which an anti-expert's data are made."""
    assert spec.negatives
    with named(f"{recipe.path}: {spec.name}: negatives"):
        why = stages.why(chain.written(spec))
        asked = {"requests": plan_negatives(spec.negatives)["rows"], "writer": spec.negatives.model} if why else {}
    return StagePlan(spec.writing, why, asked)


def _check_together(recipe: Recipe, sizes: Mapping[str, Size]) -> None:
    kinds = {name: size.kind for name, size in sizes.items()}
    if len(set(kinds.values())) > 1:
        said = ", ".join(f"{name} is {kind}" for name, kind in kinds.items())
        raise ExtSubError(f"{recipe.path}: {said}: all adapters must be of one kind")


def _after_training(
    recipe: Recipe,
    stages: Stages,
    base: Mapping[str, Any],
    sizes: Mapping[str, Size],
    items: Mapping[str, Mapping[str, Items]],
) -> list[StagePlan]:
    ahead, undone, choices = [], "", []
    for sweep in recipe.sweeps:
        stage = chain.swept(recipe, sweep, base)
        if why := stages.why(stage):
            anew = stages.done.get(sweep.name, {}).get("inputs") != key_of(stage.inputs)
            ahead.append(StagePlan(sweep.name, why, sweep_estimate(recipe, sweep, items[sweep.name], anew)))
            ahead.append(StagePlan(sweep.report, f"after {sweep.name}"))
            undone = sweep.name
        else:
            page = stages.why(chain.reported(recipe, sweep, base))
            ahead += [StagePlan(sweep.name, None), StagePlan(sweep.report, page)]
            choices.append(chain.chosen(recipe, sweep))
    if failed := next((choice for choice in choices if choice.alpha is None), None):
        return [*ahead, StagePlan("result", chain.nothing_kept(recipe, failed))]
    if undone:
        return [*ahead, *_result(recipe, f"after {undone}", sizes)]
    alphas = [choice.alpha for choice in choices if choice.alpha is not None]
    if why := stages.why(chain.combined(recipe, alphas)):
        return [*ahead, *_result(recipe, why, sizes)]
    asked = [chain.evaluated(recipe, sweep, base) for sweep in recipe.asked_again]
    return [*ahead, StagePlan("result", None), *(StagePlan(stage.name, stages.why(stage)) for stage in asked)]


def _result(recipe: Recipe, why: str, sizes: Mapping[str, Size]) -> list[StagePlan]:
    """What follows the sweeps where the result is to be made."""
    asked = [StagePlan(sweep.evaluation, "after result") for sweep in recipe.asked_again]
    return [StagePlan("result", why, result_estimate(recipe, sizes)), *asked]
