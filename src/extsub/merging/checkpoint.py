"""A checkpoint: where the numbers of each tensor lie. They are read when somebody asks for a part of them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from extsub.adapters.reading import read_header, read_numbers
from extsub.adapters.tensors import DTYPES
from extsub.arrays import Array
from extsub.errors import ExtSubError
from extsub.escaping import brief
from extsub.merging.source import INDEX, BaseFiles, quantised

CODES = ("F8_", "F6_", "F4")
"""Beginnings of dtypes, as safetensors calls them, whose numbers mean nothing without their scales."""
SCALES = re.compile(r"\.(qweight|qzeros|weight_packed|weight\.absmax|SCB|weight_scale(_inv)?)$")
"""How tensors end that quantisation puts beside weights or in their place."""


@dataclass(frozen=True)
class Tensor:
    """A tensor in a file."""

    path: Path
    start: int
    """Where in the file its numbers begin, in bytes."""
    size: int
    """Bytes."""
    dtype: str
    """As safetensors calls it; also one that is only copied, ``I64``."""
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return self.size // max(1, self.count)

    def numbers(self, first: int, count: int) -> Array:
        """So many numbers from one on, as stored."""
        return read_numbers(self.path, DTYPES[self.dtype], count, self.start + first * self.itemsize, str(self.path))

    def bytes(self, first: int, count: int) -> Array:
        """So many bytes from one on."""
        return read_numbers(self.path, np.dtype(np.uint8), count, self.start + first, str(self.path))


def open_checkpoint(files: BaseFiles) -> dict[str, Tensor]:
    """The tensors by key, in the order of the files.

    Raises:
        ExtSubError: a file is damaged, lacks what the index says, or holds quantised weights.
    """
    tensors: dict[str, Tensor] = {}
    for path in files.shards:
        of_shard = _tensors(path, files.name)
        if twice := of_shard.keys() & tensors.keys():
            raise ExtSubError(f"{files.name}: {brief(min(twice))} is in two shards: download it again")
        tensors |= of_shard
    if not tensors:
        raise ExtSubError(f"{files.name}: its files hold no tensors: download it again")
    for key, file in files.weight_map.items():
        if key not in tensors or tensors[key].path.name != file:
            raise ExtSubError(
                f"{files.name}: {INDEX} says that {brief(key)} is in {file}, and it is not: download it again"
            )
    for key, tensor in tensors.items():
        if tensor.dtype.startswith(CODES) or SCALES.search(key):
            raise quantised(files.name, f"it has {brief(key)}, stored as {tensor.dtype}")
    return tensors


def _tensors(path: Path, where: str) -> dict[str, Tensor]:
    header, begin = read_header(path, where)
    entries = sorted(header.items(), key=lambda entry: entry[1]["data_offsets"])
    return {
        key: Tensor(path, begin + start, end - start, entry["dtype"], tuple(entry["shape"]))
        for key, entry in entries
        for start, end in [entry["data_offsets"]]
    }
