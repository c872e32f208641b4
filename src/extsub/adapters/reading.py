"""Read JSON and tensors from the disk, and believe neither. Nothing here knows what the tensors mean."""

from __future__ import annotations

import json
import math
import pickle
import struct
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from safetensors import SafetensorError, safe_open

from extsub.adapters.adapter import Copy
from extsub.arrays import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Array, DType, as_array, is_finite
from extsub.arrays import DTYPES as KNOWN
from extsub.errors import ExtSubError
from extsub.escaping import brief, shown
from extsub.extras import pip_command
from extsub.files.reading import check_regular, parse_json, read_bytes

DTYPES = {"F64": FLOAT64, "F32": FLOAT32, "F16": FLOAT16, "BF16": BFLOAT16}
"""The dtypes, as safetensors calls them."""
LFS_POINTER = b"version https://git-lfs"

BROKEN = (
    *(RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError),
    *(EOFError, OSError, MemoryError, struct.error, zipfile.BadZipFile),
)
"""What unpickling a broken file may raise: a pickle is a program."""

LONGEST_KEY = 400
"""The most characters of a key; with every wrapper that there is, keys have 350."""

MOST_DIMENSIONS = 8
"""The most dimensions of a tensor; the kernels of convolutions have 5."""


@dataclass(frozen=True)
class TensorInfo:
    """What a file says of a tensor before it is read."""

    dtype: DType
    shape: tuple[int, ...]


@dataclass(frozen=True)
class TensorFile:
    """The tensors of one file, read one at a time."""

    info: dict[str, TensorInfo]
    load: Callable[[str], Array]
    where: str
    """The adapter, for messages."""

    def read(self, key: str) -> Array:
        """The tensor as stored.

        Raises:
            ExtSubError: it holds NaN or infinity. Such adapters load everywhere and answer as if nothing were wrong.
        """
        tensor = self.load(key)
        if not is_finite(tensor):
            raise ExtSubError(
                f"{self.where}: {brief(key)} holds NaN or infinity: the training diverged or the file is damaged"
            )
        return tensor

    def copies(self, keys: Mapping[str, str]) -> dict[str, Copy]:
        """Tensors to pass on whole, from {name in the result: key in this file}."""

        def reader(key: str) -> Callable[[], Array]:
            return lambda: self.read(key)

        return {name: Copy(self.info[key].dtype, self.info[key].shape, reader(key)) for name, key in keys.items()}


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

    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return _unique(pairs, where, path.name)

    try:
        content = read_bytes(path)
    except OSError as error:
        raise ExtSubError(f"{where}: {path.name} cannot be read: {error.strerror}") from error
    _refuse_lfs_pointer(content, path, where)
    try:
        config = parse_json(
            content,
            object_pairs_hook=refuse_duplicates,
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
    file = _open_safetensors(path, where) if path.suffix == ".safetensors" else _open_pickle(path, where)
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
    _check_file(path, where)
    try:
        with safe_open(path, framework="np"):  # checks the header against the file
            pass
    except (SafetensorError, OSError) as error:
        raise ExtSubError(
            f"{where}: {path.name} is not a complete safetensors file ({brief(error)}): download or save it again"
        ) from error

    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return _unique(pairs, where, path.name)

    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length), object_pairs_hook=refuse_duplicates)
    header.pop("__metadata__", None)
    _check_names(header, path, where)
    return header, 8 + length


def _check_file(path: Path, where: str) -> None:
    try:
        check_regular(path)
        with path.open("rb") as opened:
            start = opened.read(len(LFS_POINTER))
    except OSError as error:
        raise ExtSubError(f"{where}: {path.name} cannot be read: {error.strerror}") from error
    _refuse_lfs_pointer(start, path, where)


def _check_names(keys: Iterable[str], path: Path, where: str) -> None:
    for key in keys:
        if not key.isprintable() or len(key) > LONGEST_KEY:
            raise ExtSubError(f"{where}: {path.name} has a tensor called {shown(key)}: that is not a name of a module")


def _open_pickle(path: Path, where: str) -> TensorFile:
    _check_file(path, where)
    try:
        import torch
    except ModuleNotFoundError as error:
        raise ExtSubError(
            f"{where}: {path.name} is a pickle, which only PyTorch reads without running code from it: "
            f"{pip_command('train')}, or convert it to safetensors"
        ) from error
    content = _unpickle(path, where)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ExtSubError(f"{where}: {path.name} holds a {type(content).__name__}, expected tensors by name")
    for key, tensor in content.items():
        if not isinstance(tensor, torch.Tensor):
            raise ExtSubError(
                f"{where}: {path.name} holds a {type(tensor).__name__} under {shown(key)}, expected a flat set of "
                "tensors: save the adapter with save_pretrained"
            )
        dense = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_nested
        if str(tensor.dtype).removeprefix("torch.") not in KNOWN or not dense:
            form = f"{tensor.dtype} ({tensor.layout}, {tensor.device})"
            raise ExtSubError(f"{where}: {brief(key)} is stored as {form}, expected one of {', '.join(DTYPES)}, dense")
        if tensor.untyped_storage().nbytes() < tensor.nbytes:
            raise ExtSubError(f"{where}: {brief(key)} claims more numbers than {path.name} holds: the file is damaged")
    _check_names(content, path, where)
    arrays = {key: as_array(tensor) for key, tensor in content.items()}
    info = {key: TensorInfo(array.dtype, array.shape) for key, array in arrays.items()}
    return TensorFile(info, arrays.__getitem__, where)


def _unpickle(path: Path, where: str) -> Any:
    """What ``torch.load`` makes of a file without running code from it."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as parts:
                unpacked = sum(part.file_size for part in parts.infolist())
            if unpacked > path.stat().st_size:  # torch.save compresses nothing
                raise ExtSubError(
                    f"{where}: {path.name} unpacks to {unpacked:,} bytes, and torch.save compresses nothing: save the "
                    "adapter again"
                )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torch

            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ExtSubError(
            f"{where}: {path.name} holds more than tensors, so reading it could run code and it was not read: "
            "convert it to safetensors where you trust it"
        ) from error
    except BROKEN as error:
        raise ExtSubError(f"{where}: {path.name} is not a complete PyTorch file: download or save it again") from error


def _unique(pairs: list[tuple[str, Any]], where: str, file: str) -> dict[str, Any]:
    """A JSON object, refusing a key given twice: readers differ in which one they take."""
    result = dict(pairs)
    if len(result) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ExtSubError(f"{where}: {file} gives {shown(twice)} twice: keep one")
    return result


def _refuse_lfs_pointer(content: bytes, path: Path, where: str) -> None:
    if content.startswith(LFS_POINTER):
        raise ExtSubError(f"{where}: {path.name} is a Git LFS pointer, not the file itself: run 'git lfs pull' there")
