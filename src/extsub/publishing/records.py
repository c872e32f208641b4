"""What ``extsub.json`` and ``training.json`` say, as the card needs it: others may have written them, so their shape is
checked before a word of them is published."""

from __future__ import annotations

from pathlib import Path
from types import NoneType
from typing import Any

from extsub.adapters.stated import FORMAT, PROVENANCE, TRAINING
from extsub.errors import ExtSubError
from extsub.evaluation.store import NUMBER
from extsub.files.reading import fitting, read_json

TEXT = (str, NoneType)
FIGURE = {"value": NUMBER, "ci95": [NUMBER, NUMBER], "n": int}
SCORES = {
    "held_out": bool,
    "chosen_by": [{"score": str, "choose": TEXT, "budget": TEXT}],
    "before_truncation": bool,
    "base": {"name": TEXT, "commit": TEXT, "sha256": TEXT},
    "prompt": TEXT,
    "sources": [{"file": str, "sha256": str}],
    "tasks": [
        {
            "task": str,
            "data": str,
            "data_sha256": TEXT,
            "scores": [{"score": str, "better": str, "figures": {"adapter": FIGURE, ...: FIGURE}}],
        }
    ],
}
WRITTEN = {"bytes": int, "template": TEXT, "serve": dict, "notes": [str], "versions": {"extsub": str}}
"""An adapter that extsub wrote, whatever it was before."""
COMBINED = {
    **WRITTEN,
    "modules": int,
    "rank": (int, NoneType),
    "operation": str,
    "formula": str,
    "deficiency": bool,
    "serve": {...: str},
    "inputs": [
        {
            "role": str,
            "alpha": (*NUMBER, NoneType),
            "name": TEXT,
            "commit": TEXT,
            "weights_sha256": TEXT,
            "licence": {...: str},
            "datasets": [str],
            "data": str,
        }
    ],
}
MERGED = {
    "base": {"name": str},
    "adapter": {"name": str},
    "files": [str],
    "notes": [str],
    "versions": {"extsub": str},
}
TRUNCATED = {**COMBINED, "truncation": {"rank": int, "relative_error": NUMBER}}
TRAINED = {
    "settings": {
        "template": str,
        **dict.fromkeys(("batch_size", "seed"), int),
        **dict.fromkeys(("epochs", "learning_rate", "warmup"), NUMBER),
    },
    "plan": {"data": {"name": str, "rows": int, "sha256": str}, "steps": int, "trainable_parameters": int},
    "first_loss": NUMBER,
    "last_loss": NUMBER,
    "versions": {"extsub": str},
}
UNSTATED = {"commit": None, "weights_sha256": None, "licence": {}, "datasets": [], "data": ""}
"""What an input of an older record, or one that was not saved, does not say."""


def read_record(folder: Path) -> tuple[str, dict[str, Any]]:
    """(the name of the file that says how an adapter or a merged model was made, what it holds).

    Raises:
        ExtSubError: there is none, so extsub did not write this folder; or it is broken.
    """
    for name in (PROVENANCE, TRAINING):
        if (folder / name).exists():
            try:
                record = read_json(folder / name, dict, format=FORMAT)
                return name, _checked(record) if name == PROVENANCE else fitting(record, TRAINED)
            except (OSError, ValueError) as error:
                raise ExtSubError(f"{folder / name} is broken: write the folder anew") from error
    raise ExtSubError(f"{folder} was not written by extsub (it has neither {PROVENANCE} nor {TRAINING})")


def is_merged(record: dict[str, Any]) -> bool:
    """Whether ``extsub.json`` lies beside a merged model; else it lies beside an adapter."""
    return "files" in record


def _checked(record: dict[str, Any]) -> dict[str, Any]:
    if is_merged(record):
        return fitting(record, MERGED)
    record = {"template": None, "serve": {}, **record}
    if "operation" not in record:
        return fitting(record, WRITTEN)
    inputs = record.get("inputs")
    if not isinstance(inputs, list) or len(inputs) < 2 or not all(isinstance(given, dict) for given in inputs):
        raise ValueError("made of nothing")
    record["inputs"] = [{**UNSTATED, **given} for given in inputs]
    if record.get("scores") is not None:
        fitting(record["scores"], SCORES)
    return fitting({"truncation": None, **record}, TRUNCATED if record.get("truncation") else COMBINED)
