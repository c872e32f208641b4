"""Find and read the config.json of a base model: in a folder, as a file, or on the hub. Its weights are not needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from extsub.adapters.adapter import Adapter
from extsub.adapters.base import CONFIG
from extsub.errors import ExtSubError
from extsub.escaping import brief, shown
from extsub.export.architectures import ARCHITECTURES, Base
from extsub.files.reading import located, read_json
from extsub.hub import hub_errors_explained, hub_id_of


def read_base(adapter: Adapter, given: str | None) -> Base:
    """The base of an adapter.

    Args:
        given: a folder, a config.json or a hub id; None for what the adapter names.

    Raises:
        ExtSubError: there is no config.json, it cannot be read, or llama.cpp's name for the architecture is not known.
    """
    if given is not None:
        return _read(given)
    if adapter.base is None:
        raise ExtSubError(f"{adapter.name} names no base model: say with --base where its {CONFIG} is")
    try:
        return _read(adapter.base)
    except ExtSubError as error:
        raise ExtSubError(f"the base of {adapter.name}: {error}; or say with --base where its {CONFIG} is") from error


def _read(name: str) -> Base:
    config = _content(_find(name), name)
    text = config.get("text_config")  # of a model with images
    config |= {field: value for field, value in text.items() if value is not None} if isinstance(text, dict) else {}
    architectures = config.get("architectures")
    architecture = architectures[0] if isinstance(architectures, list) and architectures else None
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        raise ExtSubError(
            f"{brief(name)}: the architecture is {shown(architecture)}, and adapters are written as GGUF for "
            f"{', '.join(ARCHITECTURES)}"
        )
    return Base(f"the config of {brief(name)}", ARCHITECTURES[architecture], config)


def _content(path: Path, name: str) -> dict[str, Any]:
    try:
        return read_json(path, {})
    except OSError as error:
        reason = error.strerror
    except ValueError as error:
        reason = str(error)
    raise ExtSubError(
        f"{brief(name)}: {path.name} is not the config of a model ({brief(reason)}): give its folder, its {CONFIG}, or "
        "its hub id"
    )


def _find(name: str) -> Path:
    path = located(name)
    if path.is_dir():
        path = path / CONFIG
        if not path.exists():
            raise ExtSubError(f"{brief(name)}: no {CONFIG} in this folder: give the folder of the base model")
    if path.exists():
        return path
    from huggingface_hub import hf_hub_download

    repo, _, revision = hub_id_of(name, path, "model", "folder or file")
    with hub_errors_explained(name, revision, f"the hub repository has no {CONFIG}: it is not a model"):
        return Path(hf_hub_download(repo, CONFIG, revision=revision))
