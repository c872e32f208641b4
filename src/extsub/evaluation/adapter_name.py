"""An adapter to evaluate: where it is, and what its config says of its base. Reads no weights."""

from __future__ import annotations

import json
from dataclasses import dataclass

from extsub.adapters.adapter import Source
from extsub.adapters.base import normalised
from extsub.adapters.lora import check_scale
from extsub.adapters.source import find_adapter
from extsub.errors import ExtSubError
from extsub.models import ModelName, find_model

CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""ways to begin a LoRA that change the base"""
KINDS = ("LORA", "ADALORA", "IA3", "PREFIX_TUNING", "P_TUNING", "PROMPT_TUNING")


@dataclass(frozen=True)
class AdapterName:
    """Where an adapter is and what its config says of itself."""

    source: Source
    kind: str
    base: str | None
    revision: str | None
    changes_base: bool
    """its weights are differences from a base that PEFT changes first (PiSSA and the like), for good"""
    template: str | None
    """it was trained with, where ``training.json`` says so"""
    notes: tuple[str, ...] = ()
    """what a user should know of it, in sentences"""

    @property
    def given(self) -> str:
        """as the user wrote it"""
        return self.source.name


def find(name: str) -> AdapterName:
    """An adapter in a folder or on the hub. Reads its config, not its weights.

    Raises:
        ExtSubError: nothing is there, it is of a kind that is not evaluated, or its scale was lost.
    """
    source = find_adapter(name)
    try:
        config = json.loads(source.config.read_text(encoding="utf-8"))
        kind = str(config["peft_type"]).upper()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExtSubError(f"{name}: {source.config.name} cannot be read, or names no peft_type") from error
    if kind not in KINDS:
        raise ExtSubError(f"{name}: adapters of kind {kind} are not evaluated; of these: {', '.join(KINDS)}")
    return AdapterName(
        source=source,
        kind=kind,
        base=config.get("base_model_name_or_path"),
        revision=config.get("revision"),
        changes_base=str(config.get("init_lora_weights")).lower().startswith(CHANGING),
        template=_template(source),
        notes=tuple(check_scale(config, name)) if kind == "LORA" else (),
    )


def _template(source: Source) -> str | None:
    try:
        return json.loads((source.folder / "training.json").read_text(encoding="utf-8"))["settings"]["template"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def base_of(given: str | None, adapters: list[AdapterName]) -> ModelName:
    """The base model: as given, or as the adapters say.

    Raises:
        ExtSubError: nobody names one, or they name different ones.
    """
    if given:
        return find_model(given)
    named = [(one.base, one.revision, one.given) for one in adapters if one.base]
    if not named:
        raise ExtSubError("no base model: give --model, a folder or a hub id (the adapter's config names none)")
    base, revision, _ = named[0]
    for other, _, name in named[1:]:
        if normalised(str(other)) != normalised(str(base)):
            raise ExtSubError(f"the adapters name different base models ({base}, and {name} {other}): say --model")
    try:
        name = find_model(str(base))
    except ExtSubError as error:
        raise ExtSubError(
            f"{error}; that is what the adapter's config names as its base: say where it is, --model"
        ) from error
    return ModelName(name.name, name.given, name.revision or revision)
