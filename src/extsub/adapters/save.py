"""Write an adapter: the one exit to the disk. Tensors go out one module at a time, so memory does not grow with the
adapter; what was written is read again and checked before it appears under its name.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from io import FileIO
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from extsub.adapters import ia3, lora, prefix
from extsub.adapters.adapter import Adapter, Copy, Module, Source
from extsub.adapters.card import model_card
from extsub.adapters.load import decode
from extsub.adapters.reading import DTYPES
from extsub.adapters.source import CONFIG, SAFETENSORS
from extsub.adapters.staging import check_output, staged
from extsub.adapters.stated import CARD, PROVENANCE, common_template
from extsub.errors import ExtSubError
from extsub.escaping import brief, to_json
from extsub.parallel import in_order

ENCODERS: dict[str, Callable[[Adapter], dict[str, Any]]] = {
    "LORA": lora.encode,
    "IA3": ia3.encode,
    "PREFIX_TUNING": prefix.encode,
}

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

Progress = Callable[[Iterable[str]], Iterable[str]]
"""Wraps the names of the modules as they are written, to show how far it is."""


def save_adapter(
    adapter: Adapter, output: str | PathLike[str], *, overwrite: bool = False, progress: Progress = iter
) -> dict[str, Any]:
    """Write ``adapter`` as a folder that PEFT, transformers, vLLM, SGLang and llama.cpp load with the same meaning.

    All or nothing: the folder appears only after it was written, read again and verified. Writes
    ``adapter_model.safetensors``, ``adapter_config.json``, a model card (``README.md``) and the provenance
    (``extsub.json``), whose content is returned. The same inputs, written
    under the same name, give the same bytes.

    Raises:
        ExtSubError: the output exists, the disk refuses, or a number does not fit the dtype.
    """
    sources = [adapter.source] if adapter.source else []
    sources += adapter.origin.sources() if adapter.origin else []
    try:
        output = _plain_path(output)
        check_output(output, [source.folder for source in sources], overwrite)
    except (OSError, RuntimeError) as error:  # a name too long, ~nobody
        raise ExtSubError(f"the output cannot be written: {error}") from error
    template, notes = common_template([(source.label, source.folder) for source in sources])
    with staged(output) as folder:
        dtype, size = _write_tensors(adapter, folder / SAFETENSORS, output, progress)
        _write_json(folder / CONFIG, ENCODERS[adapter.kind](adapter))
        written = decode(Source(str(output), folder, folder / CONFIG, folder / SAFETENSORS))
        record = {
            "kind": adapter.kind,
            "base_model": adapter.base,
            "template": template,
            "modules": len(adapter.modules),
            "rank": adapter.rank if adapter.kind == "LORA" else None,
            "dtype": str(dtype).removeprefix("torch."),
            "bytes": size,
        }
        if adapter.origin:
            record |= adapter.origin.figures() | {"verification": adapter.origin.verify(written)}
        record["notes"] = [*adapter.notes, *notes, *(adapter.origin.notes(dtype) if adapter.origin else ())]
        record["versions"] = {name: version(name) for name in ("extsub", "torch", "safetensors")}
        _write_json(folder / PROVENANCE, record)
        (folder / CARD).write_text(model_card(adapter, record, output.name), encoding="utf-8")
    return record


def _plain_path(path: str | PathLike[str]) -> Path:
    """Without ~ and .., as short as it was given where that has a last name."""
    plain = Path(os.path.normpath(Path(path).expanduser()))
    return plain if plain.name not in ("", "..") else Path(os.path.normpath(Path.cwd() / plain))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(to_json(content) + "\n", encoding="utf-8")


class RangeError(ExtSubError):
    """A number is beyond the range of the storage dtype."""


@dataclass(frozen=True)
class _Part:
    """Some tensors of the file: what they will be, and how to make them."""

    name: str
    specs: dict[str, tuple[torch.dtype, torch.Size]]
    make: Callable[[], dict[str, Tensor]]


def _write_tensors(adapter: Adapter, path: Path, output: Path, progress: Progress) -> tuple[torch.dtype, int]:
    """Write in the first dtype that every number fits. Returns that dtype and the size in bytes."""
    rank = adapter.rank
    dtypes = list(adapter.origin.dtypes) if adapter.origin else [adapter.dtype]
    for dtype, more in zip(dtypes, [*dtypes[1:], None], strict=True):
        parts = [_module_part(name, module, rank, dtype) for name, module in adapter.modules.items()]
        parts += [_copy_part(key, copy) for key, copy in adapter.copies.items()]
        try:
            return dtype, _write_safetensors(path, parts, output, progress)
        except RangeError:
            if more is None:
                raise
    raise AssertionError("an adapter has at least one dtype")


def _copy_part(key: str, copy: Copy) -> _Part:
    return _Part(key, {key: (copy.dtype, torch.Size(copy.shape))}, lambda: {key: copy.read()})


def _module_part(name: str, module: Module, rank: int, dtype: torch.dtype) -> _Part:
    layout = module.layout
    *batch, rows, columns = module.shape
    # The layout says the shapes itself: it packs factors that have shapes but no numbers.
    empty_B, empty_A = (torch.empty(*batch, *size, device="meta") for size in ((rows, rank), (rank, columns)))
    specs = {key: (dtype, tensor.shape) for key, tensor in layout.pack(name, empty_B, empty_A).items()}

    def make() -> dict[str, Tensor]:
        delta = module.read()
        if layout.factored:
            B, A = delta.factors(dtype, rank)
            _check_range(B, lambda: delta.factors(rank=rank)[0], name)
            _check_range(A, lambda: delta.factors(rank=rank)[1], name)
            return layout.pack(name, B, A)
        exact = layout.pack(name, *delta.factors())
        tensors = {key: tensor.to(dtype) for key, tensor in exact.items()}
        for key, tensor in tensors.items():
            _check_range(tensor, lambda key=key: exact[key], name)
        return tensors

    return _Part(name, specs, make)


def _check_range(stored: Tensor, exact: Callable[[], Tensor], name: str) -> None:
    """Raises RangeError where rounding to the storage dtype made a number infinite, or left a row without digits."""
    if not stored.numel():
        return
    limits = torch.finfo(stored.dtype)
    dtype = str(stored.dtype).removeprefix("torch.")
    advice = "choose --dtype float32" if stored.dtype != torch.float32 else "lower alpha, or check the adapters"
    low, high = (bound.item() for bound in stored.aminmax())
    if not max(abs(low), abs(high)) <= limits.max:
        raise RangeError(f"{brief(name)} has numbers too large for {dtype}: {advice}")
    if stored.dtype == torch.float16:  # the only one whose smallest numbers adapters come near
        limit = limits.smallest_normal / 16  # below it, 6 of 11 bits are left
        candidates = stored[..., 0].abs() < limit  # the largest of a short row is slow to find: look at few rows
        small = candidates.clone()
        small[candidates] = stored[candidates].abs().amax(-1) < limit
        if small.any() and exact()[small].any():
            raise RangeError(f"{brief(name)} has rows too small for {dtype}: {advice}")


def _write_safetensors(path: Path, parts: list[_Part], output: Path, progress: Progress) -> int:
    """A safetensors file, written part by part; the library's own writer wants all tensors in memory at once.

    The next parts are computed while this one is written. Returns the size in bytes.
    """
    # Wide dtypes first keeps every tensor aligned; within that, the order of the modules.
    parts = sorted(parts, key=lambda part: -max(dtype.itemsize for dtype, _ in part.specs.values()))
    header, size = _header(parts)
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise ExtSubError(f"{output} needs {size / 1e6:,.0f} MB and the disk has {free / 1e6:,.0f} MB: make room first")
    with path.open("wb", buffering=0) as file:
        _write_all(file, header)
        for _, blocks in zip(progress(part.name for part in parts), in_order(_blocks, parts), strict=True):
            for block in blocks:
                _write_all(file, block)
    return size


def _header(parts: list[_Part]) -> tuple[bytes, int]:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for part in parts:
        for key, (dtype, shape) in part.specs.items():
            start, end = end, end + shape.numel() * dtype.itemsize
            entries[key] = {"dtype": DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header, 8 + len(header) + end


def _blocks(part: _Part) -> list[memoryview]:
    """The bytes of a part, as planned in the header."""
    tensors = part.make()
    blocks = []
    for key, (dtype, shape) in part.specs.items():
        tensor = tensors[key]
        if (tensor.dtype, tensor.shape) != (dtype, shape):
            raise RuntimeError(f"{key} is {tensor.dtype} {tuple(tensor.shape)}, planned {dtype} {tuple(shape)}")
        blocks.append(memoryview(tensor.contiguous().flatten().view(torch.uint8).numpy()))
    return blocks


def _write_all(file: FileIO, block: bytes | memoryview) -> None:
    view = memoryview(block)
    while view:  # an unbuffered write may stop early
        view = view[file.write(view) :]
