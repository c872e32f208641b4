"""A safetensors file, written part by part: the library's own writer wants all tensors in memory at once."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from extsub.adapters.tensors import DTYPES
from extsub.arrays import Array, DType
from extsub.files.disk import check_room
from extsub.files.writing import write_all
from extsub.parallel import in_order

NAMES = {dtype: name for name, dtype in DTYPES.items()}
PartProgress = Callable[[Iterable[str]], Iterable[str]]
"""Wraps the names of the parts as they are written, to show how far it is."""


@dataclass(frozen=True)
class Part:
    """Some tensors of the file: what they will be, and how to make them."""

    name: str
    specs: dict[str, tuple[DType, tuple[int, ...]]]
    make: Callable[[], tuple[dict[str, Array], Any]]
    """(the tensors, what was seen while they were made)"""


def write_safetensors(
    path: Path, parts: list[Part], output: Path, progress: PartProgress
) -> tuple[int, dict[str, Any]]:
    """Write the parts; the next ones are computed while one is written.

    Args:
        output: where the file will lie in the end, for messages.

    Returns:
        (the size in bytes, what was seen while each part was made)

    Raises:
        ExtSubError: the disk has too little room.
    """
    # Wide dtypes first keeps every tensor aligned; within that, the order of the parts.
    parts = sorted(parts, key=lambda part: -max(dtype.itemsize for dtype, _ in part.specs.values()))
    specs = [(key, *spec) for part in parts for key, spec in part.specs.items()]
    header, size = make_header({key: (NAMES[dtype], shape, dtype.itemsize) for key, dtype, shape in specs})
    check_room(output, size)
    with path.open("wb", buffering=0) as file:
        write_all(file, header)
        seen = {}
        names = progress(part.name for part in parts)
        for name, (blocks, figures) in zip(names, in_order(_blocks, parts), strict=True):
            seen[name] = figures
            for block in blocks:
                write_all(file, block)
    return size, seen


def make_header(tensors: Mapping[str, tuple[str, tuple[int, ...], int]]) -> tuple[bytes, int]:
    """(the first bytes of a file, its size) for tensors in this order: by key the dtype as safetensors calls it, the
    shape, and the bytes of a number."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for key, (dtype, shape, itemsize) in tensors.items():
        start, end = end, end + math.prod(shape) * itemsize
        entries[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header, 8 + len(header) + end


def _blocks(part: Part) -> tuple[list[memoryview], Any]:
    """(the bytes of a part, as planned in the header; what was seen)"""
    tensors, seen = part.make()
    blocks = []
    for key, (dtype, shape) in part.specs.items():
        tensor = tensors[key]
        if (tensor.dtype, tensor.shape) != (dtype, shape):
            raise RuntimeError(f"{key} is {tensor.dtype} {tensor.shape}, planned {dtype} {shape}")
        blocks.append(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
    return blocks, seen
