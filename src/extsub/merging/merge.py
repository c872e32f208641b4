"""An adapter into its base model: from files to files, a few rows of a tensor at a time, with no model in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict, get_args

from extsub.adapters.adapter import Adapter, Source
from extsub.adapters.base import hub_id, is_quantised, normalised
from extsub.adapters.load import decode
from extsub.adapters.reading import read_config
from extsub.adapters.source import find_adapter
from extsub.adapters.stated import CARD, FORMAT, PROVENANCE, stated_in, template_in
from extsub.adapters.tensors import DTYPES
from extsub.adapters.writing import NAMES
from extsub.arrays import DTYPES as BY_NAME
from extsub.errors import ExtSubError, check_choice
from extsub.escaping import brief, to_json
from extsub.extras import versions
from extsub.files.disk import check_room
from extsub.files.reading import located
from extsub.files.staging import checked_output, staged
from extsub.merging.checkpoint import Tensor, open_checkpoint
from extsub.merging.folder import carry, is_ours, merged_card, write_config
from extsub.merging.placing import changes_of
from extsub.merging.source import BaseFiles, find_base
from extsub.merging.tied import come_apart, tied
from extsub.merging.verification import verify
from extsub.merging.writing import Output, parse_size, shards_of, write_shards
from extsub.settings import Dtype

Progress = Callable[[str, int, int], AbstractContextManager[Callable[[int], None]]]
"""(what is done, how many tensors, how many of them are done already) -> to call with each further number"""

VIRTUAL = "PREFIX_TUNING PROMPT_TUNING P_TUNING MULTITASK_PROMPT_TUNING CPT CARTRIDGE ADAPTION_PROMPT".split()
"""Kinds of adapters that change no weight."""


class MergeRecord(TypedDict):
    """What ``extsub.json`` beside a merged model holds (docs/files.md)."""

    format: int
    base: dict[str, Any]
    """Name, and commit on the hub; or the fingerprint of a local folder."""
    adapter: dict[str, Any]
    """Kind, name, commit and hashes."""
    template: str | None
    """The prompt template that the adapter was trained with; None where nothing says so."""
    tensors: int
    changed: int
    """Tensors that are not the base's."""
    parameters: int
    dtypes: list[str]
    bytes: int
    """Of all files of weights."""
    untied: bool
    """Whether embedding and output layer are one weight in the base, and two here."""
    files: list[str]
    verification: dict[str, Any]
    """Rows compared with the dense formula, and the largest relative error."""
    notes: list[str]
    """What a user should know, in sentences."""
    versions: dict[str, str]


def merge(
    base: str | PathLike[str],
    adapter: Adapter | str | PathLike[str],
    output: str | PathLike[str],
    *,
    dtype: Dtype = "auto",
    max_shard_size: str = "5GB",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> MergeRecord:
    """Write ``base`` with ``adapter`` merged in: a full model that transformers and every server load without PEFT.

    A weight W becomes W + B @ A (LoRA, AdaLoRA), or its rows or columns are multiplied (IA3); tensors that the adapter
    stores whole take the place of the base's. Each is computed in float32 or better, a few rows at a time, and rounded
    once, so memory does not grow with the model. All or nothing: the folder appears only after sampled rows of every
    tensor were read again and compared with the dense formula in float64.

    Args:
        base: a folder, or ``owner/name[@revision]`` on the hub, with safetensors files.
        adapter: what `load_adapter` takes or gives.
        output: the folder to write.
        dtype: of all floating-point tensors; auto leaves each as it is in the base.
        max_shard_size: of one file of weights, ``5GB`` (10^9 bytes).
        overwrite: replace an output that extsub wrote.
        progress: shows how far it is.

    Raises:
        ExtSubError: base and adapter do not belong together, the base is quantised or no safetensors, the adapter is of
            a kind that is not merged, a number does not fit the dtype, or the output cannot be written.
    """
    check_choice("dtype", dtype, get_args(Dtype))
    largest = parse_size(max_shard_size)
    adapter, source = _mergeable(adapter)
    place = located(str(base))
    inputs = [source.folder, *([place] if place.is_dir() else [])]
    output = checked_output(output, inputs, overwrite, is_ours)
    files = find_base(str(base))
    outputs, untied = _plan(files, adapter, None if dtype == "auto" else NAMES[BY_NAME[dtype]])
    shards = shards_of(outputs, largest)
    check_room(
        output, sum(tensor.size for tensor in outputs) + sum(path.stat().st_size for path in files.carried.values())
    )
    with staged(output, names=is_ours) as folder:
        with progress("merging", len(outputs), 0) if progress else nullcontext(lambda _: None) as advance:
            write_shards(shards, folder, advance)
        carry(files, folder)
        write_config(files, folder, None if dtype == "auto" else dtype, untied)
        record = _record(files, adapter, source, outputs, untied, folder)
        (folder / PROVENANCE).write_text(to_json(record) + "\n", encoding="utf-8")
        licence = stated_in(files.folder).licence
        card = merged_card(record, files.label, adapter.settings.get("task_type"), licence, output.name)
        (folder / CARD).write_text(card, encoding="utf-8")
    return record


def _mergeable(adapter: Adapter | str | PathLike[str]) -> tuple[Adapter, Source]:
    """The adapter and where it is, of a kind that changes weights."""
    if not isinstance(adapter, Adapter):
        source = find_adapter(str(adapter))
        _refuse_virtual(str(read_config(source.config, source.name).get("peft_type")), source.name)
        adapter = decode(source)
    _refuse_virtual(adapter.kind, adapter.name)
    if adapter.source is None:
        raise ExtSubError("the adapter is not on the disk yet: save_adapter it first, so that its hash can be recorded")
    if adapter.settings.get("layer_replication"):
        raise ExtSubError(
            f"{adapter.name}: layer_replication is set in adapter_config.json: it is for a stack of layers that no "
            "checkpoint holds, and is not merged"
        )
    if attention := next((name for name in adapter.modules if name.endswith(".base_layer.out_proj")), None):
        raise ExtSubError(
            f"{adapter.name}: {brief(attention)} belongs to torch's MultiheadAttention, where PEFT 0.21 adds the "
            "change of the output projection twice: merge it with the PEFT that it was trained with"
        )
    return adapter, adapter.source


def _refuse_virtual(kind: str, name: str) -> None:
    if kind in VIRTUAL:
        raise ExtSubError(
            f"{name}: {kind} adapters change no weight of the base, so there is nothing to merge: use it with PEFT"
        )


def _plan(files: BaseFiles, adapter: Adapter, dtype: str | None) -> tuple[list[Output], bool]:
    """(every tensor of the merged model, whether embedding and output layer come apart)"""
    tensors = open_checkpoint(files)
    pair = tied(adapter, tensors, files.config, files.name)
    both = tensors | dict([pair.head] if pair.head else [])
    changes = changes_of(adapter, both, files.config, files.name)
    untied = come_apart(pair, changes, adapter.name)

    def stored(tensor: Tensor) -> str:
        return dtype if dtype and tensor.dtype in DTYPES else tensor.dtype

    kept = both if untied else tensors
    return [Output(key, tensor, stored(tensor), changes.get(key)) for key, tensor in kept.items()], untied


def _record(
    files: BaseFiles, adapter: Adapter, source: Source, outputs: Sequence[Output], untied: bool, folder: Path
) -> MergeRecord:
    """How the model was made, once what is in ``folder`` was found to be right."""
    numbers = [output for output in outputs if output.dtype in DTYPES]
    template, notes = template_in(source.folder)
    return {
        "format": FORMAT,
        "base": files.provenance(),
        "adapter": {"kind": adapter.kind, **source.provenance()},
        "template": template,
        "tensors": len(outputs),
        "changed": sum(output.change is not None for output in outputs),
        "parameters": sum(output.tensor.count for output in numbers),
        "dtypes": sorted({DTYPES[output.dtype].name for output in numbers}),
        "bytes": sum(output.size for output in outputs),
        "untied": untied,
        "files": sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()),
        "verification": verify(outputs, open_checkpoint(find_base(str(folder)))),
        "notes": [*files.notes, *adapter.notes, *notes, *_notes(files, adapter, untied)],
        "versions": versions("extsub", "numpy", "safetensors"),
    }


def _notes(files: BaseFiles, adapter: Adapter, untied: bool) -> list[str]:
    notes = []
    ours, theirs = files.hub_id, hub_id(adapter.base)
    if ours and theirs and normalised(ours) != normalised(theirs):
        notes.append(f"the adapter names another base, {brief(theirs)}")
    if adapter.base and is_quantised(adapter.base):
        notes.append(
            f"the adapter names a quantised base, {brief(adapter.base)}: it was trained on weights that differ a "
            "little from these"
        )
    if untied:
        notes.append(
            "embedding and output layer are one weight in the base and two here (tie_word_embeddings is false), as "
            "they are with the adapter; what ties them whatever config.json says would lose one of the two"
        )
    return notes
