"""Names of base models: when two of them mean the same model, and which one the hub knows."""

from __future__ import annotations

import re

# Hub repositories that moved to an owner; configs keep the old bare name.
_OWNERS = {
    "gpt2": "openai-community",
    "distilgpt2": "distilbert",
    "distilbert": "distilbert",
    "bert": "google-bert",
    "roberta": "FacebookAI",
    "xlm": "FacebookAI",
    "t5": "google-t5",
    "albert": "albert",
}

_QUANTISED = re.compile(r"(-unsloth)?-(bnb-4bit|bnb-8bit|gptq|awq)(-int[48])?$", re.IGNORECASE)


def normalised(base: str) -> str:
    """One spelling for the names of the same model."""
    name = _QUANTISED.sub("", base.rstrip("/\\").replace("\\", "/")).lower()
    if "/" not in name:
        owner = _owner(name)
        return f"{owner.lower()}/{name}" if owner else name
    return name


def _owner(name: str) -> str | None:
    return _OWNERS.get(re.split(r"[-_]", name.lower())[0])


def is_path(base: str) -> bool:
    """Whether a base is named by a path: absolute, relative, of several parts, or a bare name."""
    return base.startswith(("/", ".", "~")) or "\\" in base or base.count("/") != 1


def is_quantised(base: str) -> bool:
    """Whether the name says so (``...-bnb-4bit``)."""
    return _QUANTISED.search(base) is not None


def hub_id(base: str | None) -> str | None:
    """``owner/name`` of a base, or None for a path and what else the hub would refuse as metadata."""
    if base and "/" not in base and "/" in normalised(base):
        return f"{_owner(base)}/{base}"
    return base if base and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", base) else None
