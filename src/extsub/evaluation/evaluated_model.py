"""Who is evaluated: a base model, an adapter on it, or a model on a server; and what identifies it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extsub.errors import ExtSubError
from extsub.evaluation.settings import Asking
from extsub.models import adapter_handle
from extsub.models.adapter_handle import AdapterHandle
from extsub.models.base import ModelName, load_config

PROBE = 2**20


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
    """Everyone that the settings name; with several adapters each has a folder of its own in ``output``.

    Raises:
        ExtSubError: an adapter or the base is not there, or two adapters have the same name.
    """
    adapters = [adapter_handle.find(name) for name in settings.adapter]
    for one in adapters:
        if one.changes_base and len(adapters) > 1:
            raise ExtSubError(f"{one.given} changes its base when it is loaded (PiSSA and the like): evaluate it alone")
    labels = [one.source.label.rpartition("/")[2] for one in adapters]
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
    for label, one in zip(labels, adapters, strict=True):
        folder = output if len(adapters) == 1 or output is None else output / label
        record = {**known, "adapter": one.source.provenance(), "kind": one.kind}
        # where both lie in one folder, each was taken from it, and neither is left out
        beside = () if one.source.config.parent == Path(base.name) else (*base.notes, *one.source.notes)
        evaluated_models.append(EvaluatedModel(label, one, folder, record, (*beside, *one.notes)))
    return evaluated_models


def base_of(settings: Asking, evaluated_models: Sequence[EvaluatedModel]) -> ModelName | None:
    """The base model of all of them; None where it is on a server.

    Raises:
        ExtSubError: nobody names one.
    """
    if settings.backend == "openai":
        return None
    return adapter_handle.base_of(
        settings.model, [evaluated_model.adapter for evaluated_model in evaluated_models if evaluated_model.adapter]
    )


def identify(base: ModelName) -> dict[str, Any]:
    """What tells a base model from any other.

    Raises:
        ExtSubError: it is not there.
    """
    return {
        "base": Path(base.name).name if Path(base.name).is_dir() else base.name,
        "base_commit": getattr(load_config(base), "_commit_hash", None),
        "base_sha256": _fingerprint(base.name),
    }


def _fingerprint(name: str) -> str | None:
    """Tells a local model from another one in its place: sizes of its files, and a megabyte of each at three places.

    An adapter beside it is not part of it.
    """
    folder = Path(name)
    if not folder.is_dir():
        return None  # the hub's commit identifies it
    digest = hashlib.sha256()
    files = [*folder.glob("*.safetensors"), *folder.glob("*.bin"), *folder.glob("*.json")]
    for path in sorted(one for one in files if one.is_file() and not one.name.startswith("adapter_")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for place in (0, size // 2, max(0, size - PROBE)):
                file.seek(place)
                digest.update(file.read(PROBE))
    return digest.hexdigest()
