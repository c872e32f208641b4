"""What lies beside the weights of a merged model: its config.json, the base's small files, the model card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from extsub.adapters.base import CONFIG, hub_id
from extsub.adapters.card import base_in_words, front_matter
from extsub.adapters.card_use import TASKS
from extsub.escaping import markdown
from extsub.files.staging import OUR_FILES
from extsub.merging.source import CARRIED, INDEX, TEMPLATES, BaseFiles
from extsub.merging.tied import FIELD
from extsub.merging.writing import SHARD

DTYPES = ("dtype", "torch_dtype")
"""In config.json: transformers 5 writes the first, earlier versions the second, which every version reads."""


def is_ours(name: str) -> bool:
    """Whether a merged model may have a file or folder of this name."""
    named = name in (*OUR_FILES, CONFIG, INDEX, TEMPLATES)
    return named or bool(SHARD.fullmatch(name) or CARRIED.fullmatch(name))


def carry(files: BaseFiles, folder: Path) -> None:
    """Copy what the merged model has as the base has it."""
    for name, path in files.carried.items():
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(path, folder / name)


def write_config(files: BaseFiles, folder: Path, dtype: str | None, untied: bool) -> None:
    """config.json: the base's bytes, unless the dtype is another now or embedding and output layer came apart."""
    if dtype is None and not untied:
        shutil.copyfile(files.folder / CONFIG, folder / CONFIG)
        return
    edits: dict[str, Any] = dict.fromkeys(DTYPES, dtype) if dtype else {}
    config = _edited(files.config, edits | ({FIELD: False} if untied else {}))
    if dtype and not config.keys() & set(DTYPES):
        config["torch_dtype"] = dtype
    if untied:
        config[FIELD] = False
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _edited(config: Mapping[str, Any], edits: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that are there get another value, also those of a part of the model."""
    return {
        name: edits.get(name, _edited(value, edits) if isinstance(value, dict) else value)
        for name, value in config.items()
    }


def merged_card(record: Mapping[str, Any], base: str, task: str | None, licence: Mapping[str, str], name: str) -> str:
    """README.md for the folder ``name``, from the record.

    Args:
        base: as the card may name it: a hub id, or the last part of a folder.
        task: the adapter's ``task_type``.
        licence: what the base states, as the hub's metadata.
    """
    given, version = record["adapter"], record["versions"]["extsub"]
    pipeline, model = TASKS.get(task or "", (None, "AutoModelForCausalLM"))
    on_hub = hub_id(base) if record["base"]["commit"] else None
    fields = {
        **({"base_model": on_hub, "base_model_relation": "finetune"} if on_hub else {}),
        "library_name": "transformers",
        **({"pipeline_tag": pipeline} if pipeline else {}),
        **licence,
        "tags": ["extsub", "merged"],
    }
    words = base_in_words(base) if on_hub else f"the local model {markdown(base)}"
    lines = [
        front_matter(fields),
        f"# {markdown(name)}",
        "",
        f"{words[0].upper()}{words[1:]} with the adapter {_named(given)} merged in by extsub {version}: an ordinary "
        "model, which needs no PEFT.",
        "",
        "## Use",
        "",
        "```python",
        f"from transformers import {model}, AutoTokenizer",
        "",
        f'model = {model}.from_pretrained({name!r}, dtype="auto")',
        f"tokenizer = AutoTokenizer.from_pretrained({name!r})",
        "```",
        "",
        "## How it was made",
        "",
        f"{record['changed']:,} of {record['tensors']:,} tensors are changed, each computed in float32 or better and "
        f"rounded once; the others are the base's. SHA-256 of the adapter's weights: `{given['weights_sha256'][:16]}`.",
        "",
        f"Licence: {licence.get('license_name') or licence.get('license', 'not stated')} for the base; that of the "
        "adapter and of its data holds as well.",
        "",
        "What it does is what base and adapter did together: their cards say what is known of that, and of its limits.",
        "",
    ]
    if record["notes"]:
        lines += ["## Notes", "", *(f"- {markdown(note)}" for note in record["notes"]), ""]
    return "\n".join([*lines, "Full figures, hashes and versions: `extsub.json`.", ""])


def _named(given: Mapping[str, Any]) -> str:
    commit = f" @ {given['commit'][:12]}" if given["commit"] else ""
    return markdown(given["name"] + commit)
