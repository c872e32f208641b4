"""An adapter to evaluate: where it is, what its config says of its base, and that PEFT may load it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from extsub.adapters import config as fields
from extsub.adapters.adapter import Source
from extsub.adapters.base import normalised
from extsub.adapters.codecs import READERS
from extsub.adapters.lora import check_scale
from extsub.adapters.reading import open_tensors, read_config
from extsub.adapters.source import find_adapter
from extsub.adapters.stated import template_in
from extsub.adapters.tensors import TensorFile
from extsub.errors import ExtSubError
from extsub.escaping import brief, shown
from extsub.models.prompts import Template
from extsub.models.source import ModelName, find_model

CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Ways to begin a LoRA that change the base."""
SIZES = ("r", "init_r", "num_virtual_tokens", "num_layers", "token_dim", "encoder_hidden_size")
"""Sizes in a config that are sides of tensors, or less."""
KINDS = (*READERS, "P_TUNING", "PROMPT_TUNING")


@dataclass(frozen=True)
class AdapterHandle:
    """Where an adapter is and what its config says of itself."""

    source: Source
    kind: str
    base: str | None
    revision: str | None
    changes_base: bool
    """Whether its weights are differences from a base that PEFT changes first (PiSSA and the like), for good."""
    template: Template | None
    """The template that it was trained with, where ``training.json`` or ``extsub.json`` says so."""
    notes: tuple[str, ...] = ()
    """What a user should know of it, in sentences."""

    @property
    def given(self) -> str:
        """The name as the user wrote it."""
        return self.source.name


def find(name: str) -> AdapterHandle:
    """An adapter in a folder or on the hub that PEFT may load: its files are whole and hold no code.

    Raises:
        ExtSubError: nothing is there, it is of a kind that is not evaluated, its scale was lost, or its files are not
            to be believed.
    """
    source = find_adapter(name)
    config = read_config(source.config, name)
    kind = str(config.get("peft_type")).upper()
    if kind not in KINDS:
        raise ExtSubError(f"{name}: adapters of kind {brief(kind)} are not evaluated; of these: {', '.join(KINDS)}")
    if config.get("megatron_config"):
        raise ExtSubError(f"{name}: megatron_config is set in {source.config.name}: PEFT would import what it names")
    fields.names(config, "modules_to_save", name)  # PEFT takes a text apart, and each letter for an expression
    for field in ("rank_pattern", "alpha_pattern"):  # PEFT takes the entries of anything for expressions
        if not isinstance(config.get(field) or {}, dict):
            raise ExtSubError(f"{name}: {field} must map names to numbers, found {shown(config[field])}")
    _check_sizes(config, open_tensors(source.weights, name))
    template, notes = template_in(source.folder)
    scale = check_scale(config, name) if kind == "LORA" else ()
    return AdapterHandle(
        source=source,
        kind=kind,
        base=fields.text(config, "base_model_name_or_path", name),
        revision=fields.text(config, "revision", name),
        changes_base=str(config.get("init_lora_weights")).lower().startswith(CHANGING),
        template=template,
        notes=(*scale, *notes),
    )


def _check_sizes(config: Mapping[str, Any], file: TensorFile) -> None:
    """Refuse sizes that no tensor has: PEFT makes room for them before it looks."""
    longest = max(side for info in file.info.values() for side in (0, *info.shape))
    ranks = config.get("rank_pattern")
    sizes = {name: config.get(name) for name in SIZES} | (ranks if isinstance(ranks, dict) else {})
    for name, size in sizes.items():
        if isinstance(size, (int, float)) and size > longest:
            raise ExtSubError(
                f"{file.where}: {brief(name)} is {shown(size)} in adapter_config.json, and no tensor has a side of "
                f"more than {longest}: the file and its config do not belong together"
            )


def base_of(given: str | None, adapters: list[AdapterHandle]) -> ModelName:
    """The base model: as given, or as the adapters say.

    Raises:
        ExtSubError: nobody names one, or they name different ones.
    """
    if given:
        return find_model(given)
    named = [(adapter.base, adapter.revision, adapter.given) for adapter in adapters if adapter.base]
    if not named:
        raise ExtSubError("no base model: give --model, a folder or a hub id (the adapter's config names none)")
    base, revision, _ = named[0]
    for other, _, name in named[1:]:
        if normalised(str(other)) != normalised(str(base)):
            raise ExtSubError(
                f"the adapters name different base models ({brief(base)}, and {name} {brief(other)}): say --model"
            )
    try:
        name = find_model(str(base))
    except ExtSubError as error:
        raise ExtSubError(
            f"{error}; that is what the adapter's config names as its base: say where it is, --model"
        ) from error
    return ModelName(name.name, name.given, name.revision or revision)
