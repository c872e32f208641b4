"""Read JSON and tensors from the disk, and believe neither. Nothing here knows what the tensors mean."""

from __future__ import annotations

import functools
import json
import math
import struct
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from safetensors import SafetensorError, safe_open

from extsub.adapters.pickles import open_pickle
from extsub.adapters.tensors import DTYPES, TensorFile, TensorInfo, check_file, check_names, refuse_lfs_pointer
from extsub.arrays import Array, DType
from extsub.errors import ExtSubError
from extsub.escaping import brief, shown
from extsub.files.reading import parse_json, read_bytes

MOST_DIMENSIONS = 8
"""The most dimensions of a tensor; the kernels of convolutions have 5."""


def read_config(path: Path, where: str) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ExtSubError: it is not strict JSON (a Git LFS pointer, NaN, a key given twice, ...) or not an object.
    """

    def refuse_constant(constant: str) -> NoReturn:
        raise ExtSubError(f"{where}: {path.name} holds {constant}, which is not JSON: put a number there")

    def refuse_infinite(text: str) -> float:
        number = float(text)
        return number if math.isfinite(number) else refuse_constant(brief(text))

    try:
        content = read_bytes(path)
    except OSError as error:
        raise ExtSubError(f"{where}: {path.name} cannot be read: {error.strerror}") from error
    refuse_lfs_pointer(content, path, where)
    try:
        config = parse_json(
            content,
            object_pairs_hook=functools.partial(_unique, where=where, file=path.name),
            parse_constant=refuse_constant,
            parse_float=refuse_infinite,
        )
    except ValueError as error:
        raise ExtSubError(f"{where}: {path.name} is not valid JSON ({brief(error)}): save the adapter again") from error
    if not isinstance(config, dict):
        raise ExtSubError(f"{where}: {path.name} holds a JSON {type(config).__name__}, expected an object")
    return config


def open_tensors(path: Path, where: str) -> TensorFile:
    """The tensors of a safetensors file, or of a PyTorch file read with ``weights_only=True``.

    Raises:
        ExtSubError: the file is damaged, holds code, or holds anything but floating-point tensors.
    """
    file = _open_safetensors(path, where) if path.suffix == ".safetensors" else open_pickle(path, where)
    if not file.info:
        raise ExtSubError(f"{where}: {path.name} holds no tensors: the training saved an empty adapter")
    for key, info in file.info.items():
        if len(info.shape) > MOST_DIMENSIONS:
            raise ExtSubError(f"{where}: {brief(key)} has {len(info.shape)} dimensions: the file is damaged")
    return file


def _open_safetensors(path: Path, where: str) -> TensorFile:
    info, starts = {}, {}
    header, begin = read_header(path, where)
    for key, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise ExtSubError(
                f"{where}: {brief(key)} is stored as {entry['dtype']}, expected one of {', '.join(DTYPES)}"
            )
        info[key] = TensorInfo(DTYPES[entry["dtype"]], tuple(entry["shape"]))
        starts[key] = begin + entry["data_offsets"][0]

    def load(key: str) -> Array:
        """Not mapped: pages of every module ever read would count as this process's memory."""
        dtype, shape = info[key].dtype, info[key].shape
        return read_numbers(path, dtype, math.prod(shape), starts[key], where).reshape(shape)

    return TensorFile(info, load, where)


def read_numbers(path: Path, dtype: DType, count: int, start: int, where: str) -> Array:
    """So many numbers of a file from a byte on.

    Raises:
        ExtSubError: the file has fewer.
    """
    numbers = np.fromfile(path, dtype, count, offset=start)
    if len(numbers) != count:
        raise ExtSubError(f"{where}: {path.name} became shorter while it was read: is somebody writing it?")
    return numbers


def read_header(path: Path, where: str) -> tuple[dict[str, dict[str, Any]], int]:
    """(entry of each tensor, where the numbers begin) of a safetensors file.

    Raises:
        ExtSubError: it cannot be read, is not complete, or gives a key twice. The library checks all but the last.
    """
    check_file(path, where)
    try:
        with safe_open(path, framework="np"):  # checks the header against the file
            pass
    except (SafetensorError, OSError) as error:
        raise ExtSubError(
            f"{where}: {path.name} is not a complete safetensors file ({brief(error)}): download or save it again"
        ) from error
    unique = functools.partial(_unique, where=where, file=path.name)
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length), object_pairs_hook=unique)
    header.pop("__metadata__", None)
    check_names(header, path, where)
    return header, 8 + length


def _unique(pairs: list[tuple[str, Any]], where: str, file: str) -> dict[str, Any]:
    """A JSON object, refusing a key given twice: readers differ in which one they take."""
    result = dict(pairs)
    if len(result) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ExtSubError(f"{where}: {file} gives {shown(twice)} twice: keep one")
    return result
