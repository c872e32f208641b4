"""Find a base model's files: in a local folder or on the Hugging Face hub. Nothing here reads its weights."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extsub.adapters import source as adapter_source
from extsub.adapters.base import CONFIG, no_model, of_gguf
from extsub.adapters.stated import CARD
from extsub.errors import ExtSubError
from extsub.escaping import brief, shown
from extsub.files.fingerprint import fingerprint
from extsub.files.reading import located, parse_json, read_bytes
from extsub.hub import commit_of, hub_id_of

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

TEMPLATES = "additional_chat_templates"
"""The folder in which transformers keeps chat templates beyond the first."""
CARRIED = re.compile(
    r"(generation_config|\w*processor_config|tokenizer\w*|special_tokens_map|added_tokens|vocab|merges|normalizer|tekken"
    r"|chat_template)\.(json|txt|model|jinja)"
    rf"|(spiece|sentencepiece(\.bpe)?)\.model|\w+\.(tiktoken|spm)|{TEMPLATES}/\w[\w.-]*\.jinja"
    r"|(LICEN[CS]E|NOTICE|USE_POLICY)(\.(txt|md))?",
    re.IGNORECASE,
)
"""Files that a merged model has as the base has them. None holds weights, and none is code."""

PICKLES = re.compile(r"(pytorch_model|tf_model|flax_model|model)(-\d+-of-\d+)?\.(bin|pt|pth|ckpt|h5|msgpack)")
QUANTISED = ("quantization_config", "compression_config")
"""Fields of config.json."""
QUANTISED_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")


@dataclass(frozen=True)
class BaseFiles:
    """Where the files of a base model are, and what its config.json says."""

    name: str
    """As the user wrote it; for messages."""
    folder: Path
    config: dict[str, Any]
    shards: list[Path]
    weight_map: dict[str, str]
    """The file of each tensor, as the index says; empty where there is none."""
    carried: dict[str, Path]
    """What a merged model has as it is, by its name there."""
    hub_id: str | None
    commit: str | None
    notes: tuple[str, ...]
    """What a user should know, in sentences."""

    @property
    def label(self) -> str:
        """A name fit for publishing: of a local folder only the last part."""
        return self.hub_id or self.folder.resolve().name

    def provenance(self) -> dict[str, Any]:
        """What tells it from any other: the hub's commit, or a fingerprint."""
        sha256 = None if self.commit else fingerprint(self.folder)
        return {"name": self.label, "commit": self.commit, "sha256": sha256}


def find_base(name: str) -> BaseFiles:
    """The files of a local folder, or of ``owner/name[@revision]`` on the hub. A local folder wins.

    Raises:
        ExtSubError: nothing is there, or what is there is not an unquantised model in safetensors files.
    """
    folder = located(name)
    if folder.is_dir():
        templates = folder / TEMPLATES
        there = [*folder.iterdir(), *(templates.iterdir() if templates.is_dir() else ())]
        files = {path.relative_to(folder).as_posix() for path in there if path.is_file()}
        return _chosen(name, files, lambda file: folder / file, folder)
    if folder.exists():
        raise ExtSubError(f"{name} is a file: give the folder that holds {CONFIG} and the weights")
    hub_id = hub_id_of(name, folder, "model")
    with commit_of(name, hub_id, CONFIG, "it holds no model") as commit:
        return _chosen(name, commit.files, commit.download, commit.folder, hub_id.repo, commit.sha)


def _chosen(
    name: str,
    files: set[str],
    fetch: Callable[[str], Path],
    folder: Path,
    hub_id: str | None = None,
    commit: str | None = None,
) -> BaseFiles:
    """The files that are needed of those that are there, the weights fetched last."""
    if adapter_source.CONFIG in files and not {SINGLE, INDEX} & files:
        raise ExtSubError(f"{name} is an adapter: give the base model first, then the adapter")
    if CONFIG not in files:
        raise no_model(name, folder, files)
    config = _read_json(fetch(CONFIG), name)
    _refuse_quantised(name, config, files)
    shards, weight_map, notes = _shards(name, files, fetch)
    if adapter_source.CONFIG in files:
        notes.append(f"an adapter lies beside the base model ({adapter_source.CONFIG}), and was left out")
    if code := _code(config):
        notes.append(
            f"{CONFIG} names code ({', '.join(code)}), which is not carried along: put these files beside the merged "
            "model if you trust them"
        )
    if CARD in files:
        fetch(CARD)  # it may state the licence
    carried = {file: fetch(file) for file in sorted(files) if CARRIED.fullmatch(file)}
    return BaseFiles(
        name, folder, config, [fetch(shard) for shard in shards], weight_map, carried, hub_id, commit, tuple(notes)
    )


def _shards(name: str, files: set[str], fetch: Callable[[str], Path]) -> tuple[list[str], dict[str, str], list[str]]:
    """(the files of the weights, the file of each tensor where an index says it, notes)"""
    weight_map = _weight_map(name, fetch(INDEX)) if INDEX in files else {}
    if SINGLE in files:
        unread = weight_map and set(weight_map.values()) != {SINGLE}
        note = f"{SINGLE} was read, as transformers does, and not the other files that {INDEX} names"
        return [SINGLE], {}, [note] if unread else []
    if not weight_map:
        raise ExtSubError(f"{name}: {_why_no_weights(files)}")
    shards = sorted(set(weight_map.values()))
    if missing := [shard for shard in shards if shard not in files]:
        raise ExtSubError(
            f"{name}: {len(missing)} of {len(shards)} shards are missing, first {brief(missing[0])}: download it again"
        )
    return shards, weight_map, []


def _weight_map(name: str, path: Path) -> dict[str, str]:
    weight_map = _read_json(path, name).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise ExtSubError(f"{name}: {INDEX} has no weight_map of names: download it again")
    if strange := [file for file in weight_map.values() if not re.fullmatch(r"\w[\w.-]*\.safetensors", file)]:
        raise ExtSubError(f"{name}: {INDEX} names the file {shown(strange[0])}: that is not a shard beside it")
    return weight_map


def _why_no_weights(files: Iterable[str]) -> str:
    """What to do about a folder without weights that are read."""
    if pickles := sorted(filter(PICKLES.fullmatch, files)):
        return (
            f"its weights are in {pickles[0]}, which holds pickles or is another library's, and only safetensors are "
            "read: load it with transformers and save it with save_pretrained"
        )
    others = sorted(file for file in files if file.endswith(".safetensors"))
    if any(re.fullmatch(r"model-\d+-of-\d+\.safetensors", file) for file in others):
        return f"it has shards and no {INDEX}, which says what is in them: download it again"
    beside = f" (there is {brief(others[0])})" if others else ""
    return f"neither {SINGLE} nor {INDEX} is there{beside}{of_gguf(files)}"


def _refuse_quantised(name: str, config: Mapping[str, Any], files: set[str]) -> None:
    """Raises ExtSubError where a config says that weights are codes, to which nothing can be added."""
    for said in (config, *(part for part in config.values() if isinstance(part, dict))):
        for field in QUANTISED:
            if said.get(field):
                method = said[field].get("quant_method") if isinstance(said[field], dict) else None
                raise quantised(name, f"{field} in {CONFIG}" + (f", {brief(method)}" if method else ""))
    if there := sorted(set(QUANTISED_FILES) & files):
        raise quantised(name, f"it has a {there[0]}")


def quantised(name: str, why: str) -> ExtSubError:
    """The error for a base whose weights are codes."""
    return ExtSubError(
        f"{name} is quantised ({why}): an adapter cannot be added to quantised weights: give the model that it was "
        "made from, and quantise the result"
    )


def _code(config: Mapping[str, Any]) -> list[str]:
    """The files of code that a config asks transformers to run."""
    auto_map = config.get("auto_map")
    named = auto_map.values() if isinstance(auto_map, dict) else ()
    classes = [name for value in named for name in (value if isinstance(value, list) else [value])]
    return sorted({brief(name.rpartition(".")[0] + ".py") for name in classes if isinstance(name, str)})


def _read_json(path: Path, name: str) -> dict[str, Any]:
    """An object; Infinity, which some configs hold, is taken."""
    try:
        content = parse_json(read_bytes(path))
    except OSError as error:
        raise ExtSubError(f"{name}: {path.name} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ExtSubError(f"{name}: {path.name} is not valid JSON ({brief(error)}): download it again") from error
    if not isinstance(content, dict):
        raise ExtSubError(f"{name}: {path.name} holds a JSON {type(content).__name__}, expected an object")
    return content
