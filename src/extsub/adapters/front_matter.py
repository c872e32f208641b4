"""What the hub reads of a model card: the fields between its dashes, scores as ``model-index`` among them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from extsub.adapters.base import hub_id
from extsub.adapters.card_use import TASKS
from extsub.adapters.scores import Scores, model_index


def front_matter(
    base: str | None,
    kind: str,
    task: str | None,
    datasets: Iterable[str],
    licence: Mapping[str, str],
    *,
    name: str = "",
    operation: str | None = None,
    scores: Scores | None = None,
) -> str:
    """What the hub reads of a model card, between its dashes.

    Args:
        kind: ``peft_type``.
        task: ``task_type``.
        licence: ``license``, and what belongs to it.
        name: what the adapter is called where it has scores.
        operation: what it was combined by, if it was.
    """
    pipeline, _ = TASKS.get(task or "", (None, ""))
    on_hub, datasets = hub_id(base), sorted(set(datasets))
    fields: dict[str, Any] = {
        **({"base_model": on_hub, "base_model_relation": "adapter"} if on_hub else {}),
        "library_name": "peft",
        **({"pipeline_tag": pipeline} if pipeline else {}),
        **licence,
        **({"datasets": datasets} if datasets else {}),
        "tags": [
            *([f"base_model:adapter:{on_hub}"] if on_hub else []),
            *("transformers", "peft", "extsub"),
            *(["ext-sub"] if operation == "ext-sub" else []),
            kind.lower().replace("_", "-"),
        ],
        **({"model-index": model_index(name, scores, pipeline)} if scores else {}),
    }
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, width=10_000)}---\n"
