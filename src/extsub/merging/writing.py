"""Write a merged checkpoint, some rows of a tensor at a time: memory does not grow with the model, nor with its largest
tensor. The next rows are computed while some are written.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from extsub.adapters.tensors import DTYPES
from extsub.adapters.writing import make_header
from extsub.arrays import FLOAT32, FLOAT64, Array, DType, is_finite
from extsub.errors import ExtSubError
from extsub.escaping import brief, shown, to_json
from extsub.files.writing import write_all
from extsub.merging.changes import Change, Matrices
from extsub.merging.checkpoint import Tensor
from extsub.merging.source import INDEX, SINGLE
from extsub.parallel import in_order

BLOCK, CACHED = 1 << 19, 1 << 16
"""Numbers that are read and written at once, and that are computed at once: as many as a processor's cache holds."""
SHARD = re.compile(r"model(-\d{5,}-of-\d{5,})?\.safetensors")
"""Names of files of weights."""
UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


class Piece(NamedTuple):
    """Some rows of one matrix of a tensor."""

    matrix: int
    rows: slice


@dataclass(frozen=True, eq=False)
class Output:
    """A tensor of the merged model."""

    key: str
    tensor: Tensor
    """The base's."""
    dtype: str
    """As safetensors calls it."""
    change: Change | None

    @property
    def itemsize(self) -> int:
        """Bytes of a number."""
        return DTYPES[self.dtype].itemsize if self.dtype in DTYPES else self.tensor.itemsize

    @property
    def size(self) -> int:
        """Its size in the file, in bytes."""
        return self.tensor.count * self.itemsize

    @property
    def is_copied(self) -> bool:
        """Whether its bytes are the base's."""
        return self.change is None and self.dtype == self.tensor.dtype

    @property
    def matrices(self) -> Matrices:
        """How it is taken apart; what is not changed, number by number."""
        return self.change.matrices if self.change else Matrices(1, self.tensor.count, 1)

    def pieces(self) -> Iterator[Piece]:
        """All of it, in the order of the file."""
        count, rows, columns = self.matrices
        step = max(1, BLOCK // max(1, columns))
        for matrix in range(count):
            for start in range(0, rows, step):
                yield Piece(matrix, slice(start, min(start + step, rows)))

    def stored(self, piece: Piece) -> Array:
        """The base's numbers, (rows, columns) as stored."""
        _, height, columns = self.matrices
        rows = piece.rows.stop - piece.rows.start
        first = (piece.matrix * height + piece.rows.start) * columns
        return self.tensor.numbers(first, rows * columns).reshape(rows, columns)

    def compute(self, piece: Piece) -> Array:
        """The numbers to write: computed in float32 at least, and rounded once.

        Raises:
            ExtSubError: one of them does not fit the dtype.
        """
        if self.is_copied:
            start, stop = (end * self.itemsize for end in (piece.rows.start, piece.rows.stop))
            return self.tensor.bytes(start, stop - start)
        dtype = DTYPES[self.dtype]
        before = self.stored(piece)
        after = np.empty(before.shape, dtype)
        wide = FLOAT64 if FLOAT64 in (dtype, before.dtype) else FLOAT32
        step = max(1, CACHED // max(1, before.shape[1]))
        for start in range(0, len(before), step):
            some = slice(start, min(start + step, len(before)))
            numbers = before[some].astype(wide)
            if self.change:
                rows = slice(piece.rows.start + some.start, piece.rows.start + some.stop)
                numbers = self.change.apply(numbers, piece.matrix, rows)
            with np.errstate(over="ignore"):
                after[some] = numbers
            if not is_finite(after[some]):
                self._check_range(before[some], dtype)
        return after

    def _check_range(self, before: Array, dtype: DType) -> None:
        """Infinity that was in the base is kept where nothing is changed: it masks attention."""
        if is_finite(before):
            advice = "choose --dtype float32" if dtype != FLOAT32 else "check the adapter"
            raise ExtSubError(f"{brief(self.key)} has numbers too large for {dtype.name}: {advice}")
        if self.change:
            raise ExtSubError(f"{brief(self.key)} of the base holds NaN or infinity: the file is damaged")


def parse_size(text: str) -> int:
    """The number of bytes that a size like ``5GB`` means.

    Raises:
        ExtSubError: the text is not a size above 0.
    """
    said = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]B)", text.strip(), re.IGNORECASE | re.ASCII)
    size = int(float(said[1]) * UNITS[said[2].upper()]) if said else 0
    if not size:
        raise ExtSubError(f"max_shard_size must be a size above 0 in KB, MB, GB or TB, as 5GB, found {shown(text)}")
    return size


def shards_of(outputs: Sequence[Output], largest: int) -> dict[str, list[Output]]:
    """Which tensors go into which file, in their order; a larger tensor has a file to itself."""
    shards: list[list[Output]] = [[]]
    room = largest
    for output in outputs:
        if shards[-1] and output.size > room:
            shards.append([])
            room = largest
        shards[-1].append(output)
        room -= output.size
    if len(shards) == 1:
        return {SINGLE: shards[0]}
    return {
        f"model-{number:05d}-of-{len(shards):05d}.safetensors": shard for number, shard in enumerate(shards, start=1)
    }


def write_shards(shards: Mapping[str, list[Output]], folder: Path, advance: Callable[[int], None]) -> None:
    """Write the files of weights, and their index where there are several.

    Args:
        advance: is called with 1 when a tensor is written.
    """
    for name, outputs in shards.items():
        _write_shard(folder / name, outputs, advance)
    if len(shards) > 1:
        (folder / INDEX).write_text(to_json(_index(shards)) + "\n", encoding="utf-8")


def _index(shards: Mapping[str, list[Output]]) -> dict[str, object]:
    everything = [output for outputs in shards.values() for output in outputs]
    return {
        "metadata": {
            "total_parameters": sum(output.tensor.count for output in everything),
            "total_size": sum(output.size for output in everything),
        },
        "weight_map": {output.key: name for name, outputs in shards.items() for output in outputs},
    }


def _write_shard(path: Path, outputs: Sequence[Output], advance: Callable[[int], None]) -> None:
    # Wide dtypes first keeps every tensor aligned; within that, the order of the base.
    outputs = sorted(outputs, key=lambda output: -output.itemsize)
    header, _ = make_header({output.key: (output.dtype, output.tensor.shape, output.itemsize) for output in outputs})
    computed = in_order(_computed, ((output, piece) for output in outputs for piece in output.pieces()))
    with path.open("wb", buffering=0) as file:
        write_all(file, header)
        for output in outputs:
            for _ in output.pieces():
                write_all(file, next(computed))
            if hasattr(os, "posix_fadvise"):  # the disk begins to write now, and not when all is computed
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            advance(1)


def _computed(asked: tuple[Output, Piece]) -> memoryview:
    """The bytes to write."""
    output, piece = asked
    return np.ascontiguousarray(output.compute(piece)).reshape(-1).view(np.uint8).data
