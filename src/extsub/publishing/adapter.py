"""The folder of an adapter that extsub combined or trained, as it goes to the hub."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from extsub.adapters.adapter import Adapter, sha256
from extsub.adapters.base import hub_id, public
from extsub.adapters.card import KINDS, combined_card, trained_card
from extsub.adapters.card_making import PICTURE, name_of
from extsub.adapters.codecs import READERS
from extsub.adapters.load import load_adapter
from extsub.adapters.reading import open_tensors, read_config
from extsub.adapters.scores import Scores
from extsub.adapters.source import CONFIG, SAFETENSORS, find_adapter
from extsub.adapters.stated import PROVENANCE, TRAINING
from extsub.combination import serving
from extsub.errors import ExtSubError
from extsub.escaping import brief
from extsub.publishing.folder import WrittenFolder, check_files, places_in

IDENTITY = (SAFETENSORS, CONFIG)
FILES = (*IDENTITY, PROVENANCE, TRAINING, PICTURE)
"""What extsub writes beside the card into the folder of an adapter."""


def adapter_in(path: Path, record_file: str, record: dict[str, Any]) -> WrittenFolder:
    """Read and check an adapter.

    Args:
        record_file: ``extsub.json`` or ``training.json``.
        record: what it holds.

    Raises:
        ExtSubError: something is damaged, missing or a link, or belongs to another adapter.
    """
    find_adapter(os.fspath(path))
    files = tuple(name for name in FILES if name in IDENTITY or os.path.lexists(path / name))
    check_files(path, files)
    if record_file == PROVENANCE and record["bytes"] != (path / SAFETENSORS).stat().st_size:
        raise ExtSubError(f"{path}: {SAFETENSORS} is not the one that {PROVENANCE} tells of: write the adapter anew")
    config = read_config(path / CONFIG, str(path))
    vllm = _vllm(_opened(path, config))
    what = _what(config, record if record_file == PROVENANCE else None)
    trained, version = record_file == TRAINING, brief(record["versions"]["extsub"])

    def card(repository: str, scores: Scores | None) -> str:
        if trained:
            return trained_card(config, record, repository, vllm, scores)
        return combined_card(config, record, repository, scores)

    return WrittenFolder(
        path,
        files,
        IDENTITY,
        what,
        f"{what}, {'trained' if trained else 'written'} by extsub {version}",
        card,
        [*_without_base(config), *places_in({CONFIG: config, record_file: record})],
        {"weights_sha256": sha256(path / SAFETENSORS), "config_sha256": sha256(path / CONFIG)},
        {} if trained else record,
    )


def _opened(path: Path, config: dict[str, Any]) -> Adapter | None:
    """The adapter, checked; None for a kind that is trained and cannot be combined.

    Raises:
        ExtSubError: a file is damaged, or config and tensors contradict one another.
    """
    kind = config.get("peft_type")
    if kind in READERS:
        return load_adapter(path)
    if kind not in KINDS:
        raise ExtSubError(f"{path}: extsub writes no adapters of kind {brief(kind)}")
    open_tensors(path / SAFETENSORS, str(path))
    return None


def _vllm(adapter: Adapter | None) -> str | None:
    """The flags that vLLM needs, where it serves the adapter."""
    if adapter is None or adapter.copies:
        return None
    return serving.vllm(adapter.kind, adapter.modules, adapter.settings).get("vllm")


def _what(config: Mapping[str, Any], record: Mapping[str, Any] | None) -> str:
    """What an adapter is, in some words."""
    if record and "operation" in record:
        operation = "the deficiency" if record["deficiency"] else record["operation"]
        expert, *others = map(_called, record["inputs"])
        return brief(f"{operation} of {expert} and {', '.join(others)}")
    _, _, kind = KINDS[config["peft_type"]].partition(" ")
    base = config.get("base_model_name_or_path")
    return f"{kind} adapter for {brief(public(base)) if base else 'a base that it does not name'}"


def _called(given: Mapping[str, Any]) -> str:
    name = name_of(given)
    return name if given["alpha"] is None else f"{name} (α {given['alpha']:g})"


def _without_base(config: Mapping[str, Any]) -> list[str]:
    if hub_id(config.get("base_model_name_or_path")):
        return []
    return [
        f"{CONFIG} names no base model of the hub, so others cannot find it: combine with --base-model owner/name, or "
        "write the id there"
    ]
