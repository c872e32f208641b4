"""What a run will do, known before any weight is loaded; whatever can be refused is refused here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from extsub.adapters.adapter import Adapter
from extsub.adapters.load import load_adapter
from extsub.adapters.source import find_adapter
from extsub.adapters.staging import check_place
from extsub.adapters.stated import template_in
from extsub.combination import combine
from extsub.errors import ExtSubError
from extsub.evaluation.evaluate import check_judges, items_of, tasks_named
from extsub.evaluation.store import read_results
from extsub.evaluation.subjects import identify
from extsub.evaluation.task import Items, limited
from extsub.evaluation.wording import settled
from extsub.extras import require
from extsub.matching import same_base
from extsub.models import find_model, load_config, load_tokenizer
from extsub.prompts import PromptOption, usual_template
from extsub.recipe import chain
from extsub.recipe.chain import SWEPT, Stage
from extsub.recipe.recipe import Ingredient, Recipe, named
from extsub.stages import Stages, key_of
from extsub.sweeping.positions import parse_alphas, positions
from extsub.sweeping.search import searched
from extsub.sweeping.settings import POSITIONS
from extsub.sweeping.sweep import check_halves, judged_by
from extsub.training.encoding import Progress
from extsub.training.plan import plan_training

FLOAT32 = 4
"""bytes of a number of a trained adapter"""


@dataclass(frozen=True)
class Ahead:
    """One stage as it stands."""

    name: str
    why: str | None
    """why it is to be done; None: it is done"""
    estimate: dict[str, Any] = field(default_factory=dict)
    """of what is to be done"""

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"stage": self.name, "done": self.why is None, "why": self.why, "estimate": self.estimate}


@dataclass(frozen=True)
class _Size:
    """Of an adapter."""

    kind: str
    rank: int | None
    bytes: int | None
    """None where it is not known before"""


def plan(recipe: Recipe, stages: Stages, tokenising: Progress | None = None) -> list[Ahead]:
    """Check everything that can be checked without weights, and say what is to be done.

    Raises:
        ExtSubError: model, data, adapters, tasks, score, budget or output are at fault.
    """
    require("trl", "train")
    require("jinja2", "report")
    check_place(recipe.output)
    with named(f"{recipe.path}: sweep"):
        check_choice(recipe)
        tasks = tasks_named(recipe.sweep.tasks, recipe.sweep)
        items = items_of(tasks, recipe.sweep)
        check_halves(recipe.sweep, items, *judged_by(recipe.sweep, tasks))
    model = find_model(recipe.model)
    base = identify(model)
    with named(f"{recipe.path}: sweep"):
        settled(tasks, items, replace(recipe.sweep, prompt=recipe.prompt), (), model)
    taken = {one.name: load_adapter(one.adapter) for one in recipe.ingredients if not one.training}
    _check_together(recipe, {name: _size(one) for name, one in taken.items()})
    _check_taken(recipe, taken)
    trained = [chain.trained(one, base) for one in recipe.ingredients if one.training]
    if any(one.why(stages) for one in trained) or chain.swept(recipe, base).why(stages):
        with named(f"{recipe.path}: sweep"):
            check_judges(tasks, recipe.sweep)
    ahead, sizes = _training(recipe, stages, base, tokenising)
    sizes |= {name: _size(one) for name, one in taken.items()}
    _check_together(recipe, sizes)
    if undone := [one.name for one in ahead if one.why]:
        after = f"after {undone[-1]}"
        later = [Ahead("sweep", after, _sweep_estimate(recipe, items, anew=True)), Ahead("report", "after sweep")]
        return [*ahead, *later, Ahead("result", "after sweep", _result_estimate(recipe, sizes))]
    combine(*[load_adapter(one.adapter) for one in recipe.ingredients], **vars(recipe.result))
    return [*ahead, *_after_training(recipe, stages, chain.swept(recipe, base), sizes, items)]


def with_templates(recipe: Recipe) -> Recipe:
    """The recipe with the templates and the prompt that ``auto`` means, so that stages are known by them.

    Raises:
        ExtSubError: the tokenizer cannot be loaded, or an adapter that is taken as it is is not there.
    """
    settings = [one.training for one in recipe.ingredients if one.training]
    prompt = recipe.prompt
    if "auto" not in (prompt, *(one.template for one in settings)):
        return recipe
    model = find_model(recipe.model)
    usual = usual_template(load_tokenizer(model, load_config(model)))

    def known(one: Ingredient) -> Ingredient:
        trained_here = one.training and one.training.template == "auto"
        return replace(one, training=replace(one.training, template=usual)) if trained_here else one

    recipe = replace(recipe, expert=known(recipe.expert), anti_experts=tuple(map(known, recipe.anti_experts)))
    if prompt == "auto":  # as the sweep will find it, once all adapters are there
        templates = (_template(one) for one in recipe.ingredients)
        prompt = next(filter(None, templates), usual)
    return replace(recipe, prompt=prompt)


def _template(one: Ingredient) -> PromptOption | None:
    return one.training.template if one.training else template_in(find_adapter(one.adapter).folder)[0]


def _check_taken(recipe: Recipe, taken: Mapping[str, Adapter]) -> None:
    """Adapters that are there belong to the base, and together."""
    for name, one in taken.items():
        if one.base and not same_base(one.base, recipe.model):
            raise ExtSubError(
                f"{recipe.path}: {name}: {one.label} was trained on {one.base}, and model is {recipe.model}: they must "
                "be the same"
            )
    if len(taken) > 1:
        first, *others = taken.values()
        with named(str(recipe.path)):
            combine(first, *others)


def check_choice(recipe: Recipe) -> None:
    """Grid, score and budget, as ``sweep`` will understand them.

    Raises:
        ExtSubError: it will not.
    """
    settings, operation = recipe.sweep, recipe.result.operation
    tasks = tasks_named(settings.tasks, settings)
    turns = positions(settings.operations, parse_alphas(settings.alphas))
    if not any(turn.operation == operation for turn in turns):
        raise ExtSubError(f"--alphas {settings.alphas}: no strength of {operation} but 0")
    judged_by(settings, tasks)
    if settings.search:
        searched(turns)


def _training(
    recipe: Recipe, stages: Stages, base: Mapping[str, Any], tokenising: Progress | None
) -> tuple[list[Ahead], dict[str, _Size]]:
    ahead, sizes = [], {}
    for one in recipe.ingredients:
        if not one.training:
            continue
        why, estimate = chain.trained(one, base).why(stages), {}
        if why:
            with named(f"{recipe.path}: {one.name}"):
                estimate = plan_training(one.training, tokenising).to_dict()
            factored = one.training.kind == "lora"
            size = estimate["trainable_parameters"] * FLOAT32 if one.training.kind != "prefix" else None
            sizes[one.name] = _Size(KINDS[one.training.kind], one.training.rank if factored else None, size)
        else:
            sizes[one.name] = _size(load_adapter(one.adapter))
        ahead.append(Ahead(one.name, why, {**estimate, "bytes": sizes[one.name].bytes} if why else {}))
    return ahead, sizes


KINDS = {"lora": "LORA", "ia3": "IA3", "prefix": "PREFIX_TUNING"}


def _size(adapter: Adapter) -> _Size:
    weights = adapter.source.weights.stat().st_size if adapter.source else None
    return _Size(adapter.kind, adapter.rank if adapter.kind == "LORA" else None, weights)


def _check_together(recipe: Recipe, sizes: Mapping[str, _Size]) -> None:
    kinds = {name: one.kind for name, one in sizes.items()}
    if len(set(kinds.values())) > 1:
        said = ", ".join(f"{name} is {kind}" for name, kind in kinds.items())
        raise ExtSubError(f"{recipe.path}: {said}: all adapters must be of one kind")


def _after_training(
    recipe: Recipe, stages: Stages, sweep: Stage, sizes: Mapping[str, _Size], items: Mapping[str, Items]
) -> list[Ahead]:
    if why := sweep.why(stages):
        anew = stages.done.get("sweep", {}).get("inputs") != key_of(sweep.inputs)
        later = [Ahead("report", "after sweep"), Ahead("result", "after sweep", _result_estimate(recipe, sizes))]
        return [Ahead("sweep", why, _sweep_estimate(recipe, items, anew)), *later]
    ahead = [Ahead("sweep", None), Ahead("report", chain.reported(sweep).why(stages))]
    choice = chain.chosen(recipe)
    if choice.alpha is None:
        return [*ahead, Ahead("result", chain.nothing_kept(recipe, choice))]
    why = chain.combined(recipe, choice.alpha).why(stages)
    return [*ahead, Ahead("result", why, _result_estimate(recipe, sizes) if why else {})]


def _sweep_estimate(recipe: Recipe, items: Mapping[str, Items], anew: bool) -> dict[str, Any]:
    """How many items of each task are to be asked at how many positions of the grid."""
    settings = recipe.sweep
    turns = positions(settings.operations, parse_alphas(settings.alphas))
    there = [] if anew else [_asked(recipe, turn.label) for turn in turns]
    tasks = {}
    for name, known in items.items():
        count = len(known.items if name == "ability" else limited(known.items, settings))
        left = len(turns) - sum(name in asked for asked in there)
        tasks[name] = {"positions": left, "items": count, "answers": left * count}
    return {"prompt": recipe.prompt, "positions": len(turns), "tasks": tasks}


def _asked(recipe: Recipe, position: str) -> Sequence[str]:
    return list(read_results(recipe.output / SWEPT / POSITIONS / position).get("runs", ()))


def _result_estimate(recipe: Recipe, sizes: Mapping[str, _Size]) -> dict[str, Any]:
    """Bytes of the result, if it is stored as its inputs are."""
    kept = [sizes[one.name] for one in recipe.ingredients]
    if recipe.result.operation == "amplify" or kept[0].rank is None:
        kept = kept[:1]
    size = sum(one.bytes or 0 for one in kept) if all(one.bytes for one in kept) else None
    rank = sum(one.rank or 0 for one in kept) or None
    if rank and recipe.result.rank and recipe.result.rank < rank:
        size, rank = size and size * recipe.result.rank // rank, recipe.result.rank
    return {"rank": rank, "bytes": size}
