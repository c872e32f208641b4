"""Find a base model, in a local folder or on the hub. Nothing of it is read or downloaded."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extsub.adapters.base import CONFIG, no_model, of_gguf
from extsub.errors import ExtSubError
from extsub.files.reading import located
from extsub.hub import hub_id_of, nothing_there

ADAPTER = "adapter_config.json"
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True)
class ModelName:
    """Where a model is: an absolute folder, or a hub id with perhaps a revision."""

    name: str
    given: str
    """The name as the user wrote it, for messages."""
    revision: str | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments for every ``from_pretrained``."""
        return {"pretrained_model_name_or_path": self.name, "revision": self.revision, "trust_remote_code": False}

    @property
    def arguments_alone(self) -> dict[str, Any]:
        """Arguments for every ``from_pretrained`` that loads weights. Where an adapter lies beside them, transformers
        would put it on; told to look for it in a folder that is not there, it finds none.
        """
        return {**self.arguments, "adapter_kwargs": {"subfolder": "no-adapter"}}

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of it, in sentences."""
        if not self.holds_adapter:
            return ()
        return (
            f"{self.given} also holds an adapter ({ADAPTER}), which was not put on: pass it as "
            "--adapter, unless the model has it merged in already",
        )

    @functools.cached_property
    def holds_adapter(self) -> bool:
        """Whether an adapter lies in the same folder or repository."""
        from transformers.utils import find_adapter_config_file

        try:
            return find_adapter_config_file(self.name, revision=self.revision) is not None
        except (OSError, ValueError):  # no such repository
            return False


def find_model(name: str) -> ModelName:
    """Where a model of this name is.

    A folder becomes absolute, so that an adapter that names it as its base can be loaded from anywhere.

    Raises:
        ExtSubError: neither a folder that may hold a model nor the shape of a hub id.
    """
    folder = located(name)
    if folder.is_dir():
        _check_folder(folder, name)
        return ModelName(str(folder.resolve()), name)
    if folder.is_file():
        raise ExtSubError(f"{name} is a file: give the folder that holds {CONFIG} and the weights{of_gguf([name])}")
    if folder.exists():  # neither a folder nor a file
        raise nothing_there(name, "model")
    hub_id = hub_id_of(name, folder, "model")
    return ModelName(hub_id.repo, name, hub_id.revision)


def _check_folder(folder: Path, name: str) -> None:
    files = {path.name for path in folder.iterdir()}
    if ADAPTER in files and not (CONFIG in files and any(any(folder.glob(weights)) for weights in WEIGHTS)):
        raise ExtSubError(
            f"{name} is an adapter, not a model: pass it as --adapter to evaluate or generate, or merge it into its "
            "base (extsub merge)"
        )
    if CONFIG not in files:
        raise no_model(name, folder, files)
