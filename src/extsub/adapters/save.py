"""Write an adapter: the one exit to the disk. Tensors go out one module at a time, so memory does not grow with the
adapter; what was written is read again and checked before it appears under its name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict, cast

from extsub.adapters.adapter import Adapter, Copy, Source
from extsub.adapters.card import combined_card
from extsub.adapters.codecs import CODECS
from extsub.adapters.load import decode
from extsub.adapters.number_range import RangeError, check_range, factors_in_range
from extsub.adapters.scores import Scores
from extsub.adapters.source import CONFIG, SAFETENSORS
from extsub.adapters.stated import CARD, FORMAT, PROVENANCE, common_template
from extsub.adapters.writing import Part, PartProgress, write_safetensors
from extsub.arrays import Array, DType, rounded, without_numbers
from extsub.escaping import to_json
from extsub.extras import versions
from extsub.files.reading import read_json
from extsub.files.staging import checked_output, staged, strength_folder
from extsub.files.writing import write_together


class CombinedRecord(TypedDict, total=False):
    """What ``extsub.json`` holds (docs/files.md); from ``operation`` to ``verification`` of combinations alone."""

    format: int
    kind: str
    """The ``peft_type``."""
    base_model: str | None
    template: str | None
    """The prompt template that the inputs were trained with; None where they differ, or none says so."""
    modules: int
    rank: int | None
    """None for kinds without a rank."""
    dtype: str
    bytes: int
    """Of the file of weights."""
    operation: str
    formula: str
    deficiency: bool
    profile: dict[str, Any]
    inputs: list[dict[str, Any]]
    """For each adapter its role, alpha, name, commit and hashes, and the licence and data that it states."""
    rows: int
    zero_rows: dict[str, Any]
    """Rows without a direction in the expert, and in each anti-expert."""
    largest_amplification: dict[str, Any]
    """The largest factor on a row of the expert, and its module."""
    truncation: dict[str, Any] | None
    """The relative errors where a rank was asked for."""
    serve: dict[str, str]
    """vLLM's flags, or the problem."""
    verification: dict[str, Any]
    """Rows compared with the dense formula, and the largest relative error."""
    notes: list[str]
    """What a user should know, in sentences."""
    versions: dict[str, str]
    scores: Scores
    """What was measured of it, where a recipe made it."""


def save_adapter(
    adapter: Adapter, output: str | PathLike[str], *, overwrite: bool = False, progress: PartProgress = iter
) -> CombinedRecord:
    """Write ``adapter`` as a folder that PEFT, transformers, vLLM, SGLang and llama.cpp load with the same meaning.

    All or nothing: the folder appears only after it was written, read again and verified. Writes
    ``adapter_model.safetensors``, ``adapter_config.json``, a model card (``README.md``) and the provenance
    (``extsub.json``), whose content is returned. The same inputs, written
    under the same name, give the same bytes.

    Raises:
        ExtSubError: the output exists, the disk refuses, or a number does not fit the dtype.
    """
    output = _checked(output, [adapter], overwrite)
    with staged(output) as folder:
        return _write(adapter, folder, output, progress)


def save_strengths(
    results: Mapping[float, Adapter],
    output: str | PathLike[str],
    *,
    overwrite: bool = False,
    progress: Callable[[str], PartProgress] = lambda _: iter,
) -> dict[str, CombinedRecord]:
    """Write results that differ in their strength alone, each into a folder of its own in ``output``: all or nothing.

    Args:
        results: by strength. Each folder, ``alpha-0.5`` say, holds what `save_adapter` writes under this name.
        progress: makes the ``progress`` of `save_adapter` for a folder of what is done: ``combining alpha-0.5``.

    Returns:
        what ``extsub.json`` of each folder holds, by its name

    Raises:
        ExtSubError: as `save_adapter`; nothing is there then.
    """
    output = _checked(output, results.values(), overwrite)
    records = {}
    with staged(output) as folder:
        for alpha, adapter in results.items():
            name = strength_folder(alpha)
            (folder / name).mkdir()
            records[name] = _write(adapter, folder / name, output / name, progress(f"combining {name}"))
    return records


def _checked(output: str | PathLike[str], adapters: Iterable[Adapter], overwrite: bool) -> Path:
    return checked_output(output, [source.folder for adapter in adapters for source in _sources(adapter)], overwrite)


def _sources(adapter: Adapter) -> list[Source]:
    own = [adapter.source] if adapter.source else []
    return [*own, *(adapter.origin.sources() if adapter.origin else ())]


def _write(adapter: Adapter, folder: Path, output: Path, progress: PartProgress) -> CombinedRecord:
    """Fill ``folder``, which is to become ``output``."""
    codec = CODECS[adapter.kind]
    template, notes = common_template([(source.label, source.folder) for source in _sources(adapter)])
    dtype, size, seen = _write_tensors(adapter, folder / SAFETENSORS, output, progress)
    config = codec.encode(adapter)
    (folder / CONFIG).write_text(_json(config), encoding="utf-8")
    written = decode(Source(str(output), folder, folder / CONFIG, folder / SAFETENSORS))
    record: dict[str, Any] = {
        "format": FORMAT,
        "kind": adapter.kind,
        "base_model": adapter.base,
        "template": template,
        "modules": len(adapter.modules),
        "rank": adapter.rank if codec.ranked else None,
        "dtype": dtype.name,
        "bytes": size,
    }
    if adapter.origin:
        record |= adapter.origin.figures(seen) | {"verification": adapter.origin.verify(written, seen)}
    record["notes"] = [*adapter.notes, *notes, *(adapter.origin.notes(dtype, seen) if adapter.origin else ())]
    record["versions"] = versions("extsub", "numpy", "safetensors")
    (folder / PROVENANCE).write_text(_json(record), encoding="utf-8")
    (folder / CARD).write_text(combined_card(config, record, output.name), encoding="utf-8")
    return cast("CombinedRecord", record)


def write_scores(folder: Path, scores: Scores) -> CombinedRecord:
    """Say on the card and in ``extsub.json`` of a combined adapter what was measured of it; both are new, or none.

    Returns:
        what ``extsub.json`` holds now

    Raises:
        ExtSubError: the disk refuses.
    """
    config, record = (read_json(folder / name) for name in (CONFIG, PROVENANCE))
    record["scores"] = scores
    write_together({folder / PROVENANCE: _json(record), folder / CARD: combined_card(config, record, folder.name)})
    return record


def _json(content: Any) -> str:
    return to_json(content) + "\n"


def _write_tensors(
    adapter: Adapter, path: Path, output: Path, progress: PartProgress
) -> tuple[DType, int, dict[str, Any]]:
    """Write in the first dtype that every number fits.

    Returns:
        (that dtype, the size in bytes, what was seen while each module was computed)
    """

    def write(dtype: DType) -> tuple[DType, int, dict[str, Any]]:
        size, seen = write_safetensors(path, _parts(adapter, dtype), output, progress)
        return dtype, size, {name: seen[name] for name in adapter.modules}

    *narrow, widest = adapter.origin.dtypes if adapter.origin else [adapter.dtype]
    for dtype in narrow:
        with contextlib.suppress(RangeError):
            return write(dtype)
    return write(widest)


def planned(adapter: Adapter) -> dict[str, tuple[DType, tuple[int, ...]]]:
    """The dtype and shape of every tensor that is written, by its key in the file."""
    return {key: spec for part in _parts(adapter, adapter.dtype) for key, spec in part.specs.items()}


def _parts(adapter: Adapter, dtype: DType) -> list[Part]:
    rank = adapter.rank
    modules = [_module_part(adapter, name, rank, dtype) for name in adapter.modules]
    return [*modules, *(_copy_part(key, copy) for key, copy in adapter.copies.items())]


def _copy_part(key: str, copy: Copy) -> Part:
    return Part(key, {key: (copy.dtype, copy.shape)}, lambda: ({key: copy.read()}, None))


def _module_part(adapter: Adapter, name: str, rank: int, dtype: DType) -> Part:
    module, origin = adapter.modules[name], adapter.origin
    layout = module.layout
    *batch, rows, columns = module.shape
    # The layout says the shapes itself: it packs factors that have shapes but no numbers.
    empty_B, empty_A = (without_numbers((*batch, *size)) for size in ((rows, rank), (rank, columns)))
    specs = {key: (dtype, tensor.shape) for key, tensor in layout.pack(name, empty_B, empty_A).items()}

    def make() -> tuple[dict[str, Array], Any]:
        delta, seen = origin.compute(name) if origin else (module.read(), None)
        if layout.factored:
            return layout.pack(name, *factors_in_range(delta, dtype, rank, name)), seen
        exact = layout.pack(name, *delta.factors())
        tensors = {key: rounded(tensor, dtype) for key, tensor in exact.items()}
        for key, tensor in tensors.items():
            check_range(tensor, lambda key=key: exact[key], name)
        return tensors, seen

    return Part(name, specs, make)
