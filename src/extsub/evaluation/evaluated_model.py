"""Who is evaluated: a base model, an adapter on it, or a model on a server; and what identifies it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extsub.errors import ExtSubError
from extsub.evaluation.settings import Asking
from extsub.files.fingerprint import fingerprint
from extsub.models import adapter_handle
from extsub.models.adapter_handle import AdapterHandle
from extsub.models.base import load_config
from extsub.models.source import ModelName


@dataclass(frozen=True)
class EvaluatedModel:
    """A model that is evaluated: the base, an adapter on it, or one on a server."""

    label: str
    adapter: AdapterHandle | None
    folder: Path | None
    record: dict[str, Any]
    notes: tuple[str, ...] = ()
    """What a user should know of base and adapter, in sentences."""
    asked: tuple[str, ...] = ()
    """What a user should know of the prompt that it is asked with, in sentences."""


def evaluated_models_of(settings: Asking, output: Path | None) -> list[EvaluatedModel]:
    """The models that the settings name; with several adapters each has a folder of its own in ``output``.

    Raises:
        ExtSubError: an adapter or the base is not there, or two adapters have the same name.
    """
    adapters = [adapter_handle.find(name) for name in settings.adapter]
    for adapter in adapters:
        if adapter.changes_base and len(adapters) > 1:
            raise ExtSubError(
                f"{adapter.given} changes its base when it is loaded (PiSSA and the like): evaluate it alone"
            )
    labels = [adapter.source.label.rpartition("/")[2] for adapter in adapters]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise ExtSubError(f"two adapters are called {twice[0]}: evaluate them into outputs of their own")
    if settings.backend == "openai":
        record = {"base": None, "server": settings.url, "served_name": settings.model}
        return [EvaluatedModel(str(settings.model), None, output, record)]
    base = adapter_handle.base_of(settings.model, adapters)
    known = identify(base)
    if not adapters:
        return [EvaluatedModel(known["base"], None, output, {**known, "adapter": None}, base.notes)]
    evaluated_models = []
    for label, adapter in zip(labels, adapters, strict=True):
        folder = output if len(adapters) == 1 or output is None else output / label
        record = {**known, "adapter": adapter.source.provenance(), "kind": adapter.kind}
        # where both lie in one folder, each was taken from it, and neither is left out
        beside = () if adapter.source.config.parent == Path(base.name) else (*base.notes, *adapter.source.notes)
        evaluated_models.append(EvaluatedModel(label, adapter, folder, record, (*beside, *adapter.notes)))
    return evaluated_models


def identify(base: ModelName) -> dict[str, Any]:
    """What tells a base model from any other.

    Raises:
        ExtSubError: it is not there.
    """
    folder = Path(base.name)
    return {
        "base": folder.name if folder.is_dir() else base.name,
        "base_commit": getattr(load_config(base), "_commit_hash", None),
        "base_sha256": fingerprint(folder) if folder.is_dir() else None,  # the hub's commit identifies it
    }
