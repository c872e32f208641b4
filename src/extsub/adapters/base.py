"""Base models: when two names mean the same one, which name the hub knows, and a folder that holds none."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from extsub.errors import ExtSubError
from extsub.files.reading import elsewhere

CONFIG = "config.json"

# Hub repositories that moved to an owner; configs keep the old bare name.
_OWNERS = {
    **dict.fromkeys(("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"), "openai-community"),
    **dict.fromkeys(("distilgpt2", "distilbert-base-uncased", "distilbert-base-cased"), "distilbert"),
    **dict.fromkeys(("bert-base-uncased", "bert-base-cased", "bert-large-uncased", "bert-large-cased"), "google-bert"),
    **dict.fromkeys(("roberta-base", "roberta-large", "xlm-roberta-base", "xlm-roberta-large"), "FacebookAI"),
    **dict.fromkeys(("t5-small", "t5-base", "t5-large", "t5-3b", "t5-11b"), "google-t5"),
}

_QUANTISED = re.compile(r"(-unsloth)?-(bnb-4bit|bnb-8bit|gptq|awq)(-int[48])?$", re.IGNORECASE)


def normalised(base: str) -> str:
    """One spelling for the names of the same model."""
    name = _QUANTISED.sub("", base.rstrip("/\\").replace("\\", "/"))
    return f"{_OWNERS[name]}/{name}".lower() if name in _OWNERS else name.lower()


def is_path(base: str) -> bool:
    """Whether a base is named by a path: absolute, relative, of several parts, or a bare name."""
    return base.startswith(("/", ".", "~")) or "\\" in base or base.count("/") != 1


def is_local(base: str) -> bool:
    """Whether a base is a folder of this machine: by how it is written, or because it is there."""
    written = base.startswith(("/", ".", "~")) or "\\" in base or base.count("/") > 1 or base[1:2] == ":"
    return written or os.path.isdir(base)  # noqa: PTH112  no error, whatever the name


def public(base: str) -> str:
    """What may be published of the name of a base: of a folder the last part."""
    return re.split(r"[\\/]", base.rstrip("\\/"))[-1] or base if is_local(base) else base


def is_quantised(base: str) -> bool:
    """Whether the name of a base says that it is quantised (``...-bnb-4bit``)."""
    return _QUANTISED.search(base) is not None


def hub_id(base: str | None) -> str | None:
    """``owner/name`` of a base, or None for a folder and what else the hub would refuse as metadata."""
    if not base or is_local(base):
        return None
    if base in _OWNERS:
        return f"{_OWNERS[base]}/{base}"
    return base if re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", base, re.ASCII) else None


def no_model(name: str, folder: Path, files: Iterable[str]) -> ExtSubError:
    """The error for a folder without a config.

    Args:
        name: of the folder, as the user wrote it.
        files: the names of those in it.
    """
    hint = elsewhere(folder, CONFIG) or of_gguf(files)
    return ExtSubError(f"{name}: no {CONFIG} in this folder, so it holds no model{hint}")


def of_gguf(files: Iterable[str]) -> str:
    """What to do where weights are in the format of llama.cpp, as the end of a sentence; empty where none are."""
    is_there = any(file.lower().endswith(".gguf") for file in files)
    return "; a GGUF file is for llama.cpp: give the model that it was made from" if is_there else ""
