"""How much a recipe will ask and write, before it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from extsub.adapters.adapter import Adapter
from extsub.adapters.codecs import CODECS
from extsub.evaluation.store import read_results
from extsub.evaluation.task import Items, limited
from extsub.evaluation.tasks import TASKS
from extsub.recipe.schema import Recipe, Sweep
from extsub.sweeping.grid import parse_alphas, sweep_points
from extsub.sweeping.references import reference_points
from extsub.sweeping.settings import POSITIONS
from extsub.training.settings import PEFT_TYPES, TrainingSettings


@dataclass(frozen=True)
class Size:
    """How large an adapter is, or will be."""

    kind: str
    rank: int | None
    bytes: int | None
    """None where it is not known before it is trained."""


def size_ahead(training: TrainingSettings, size: int | None) -> Size:
    """The size of an adapter that is still to be trained."""
    kind = PEFT_TYPES[training.kind]
    return Size(kind, training.rank if CODECS[kind].ranked else None, size)


def size_of(adapter: Adapter) -> Size:
    """The size of an adapter that is there."""
    weights = adapter.source.weights.stat().st_size if adapter.source else None
    return Size(adapter.kind, adapter.rank if CODECS[adapter.kind].ranked else None, weights)


def sweep_estimate(recipe: Recipe, sweep: Sweep, items: Mapping[str, Items], anew: bool) -> dict[str, Any]:
    """How many items of each task are to be asked at how many positions of the grid."""
    settings = sweep.settings
    alphas = parse_alphas(settings.alphas)
    points = [*sweep_points(settings.operations, alphas), *reference_points(settings.references, alphas)]
    folder = recipe.output / sweep.name / POSITIONS
    there = [] if anew else [list(read_results(folder / point.label).get("runs", ())) for point in points]
    tasks = {}
    for name, known in items.items():
        count = len(limited(TASKS[name], known.items, settings))
        left = len(points) - sum(name in asked for asked in there)
        tasks[name] = {"positions": left, "items": count, "answers": left * count}
    return {"prompt": sweep.prompt, "positions": len(points), "tasks": tasks}


def result_estimate(recipe: Recipe, sizes: Mapping[str, Size]) -> dict[str, Any]:
    """Bytes of the result, if it is stored as its inputs are."""
    kept = [sizes[spec.name] for spec in recipe.specs]
    if recipe.result.operation == "amplify" or kept[0].rank is None:
        kept = kept[:1]
    size = sum(adapter.bytes or 0 for adapter in kept) if all(adapter.bytes for adapter in kept) else None
    rank = sum(adapter.rank or 0 for adapter in kept) or None
    if rank and recipe.result.rank and recipe.result.rank < rank:
        size, rank = size and size * recipe.result.rank // rank, recipe.result.rank
    return {"rank": rank, "bytes": size}
