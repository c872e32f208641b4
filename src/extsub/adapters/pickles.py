"""Read the tensors of a pickle, and run nothing of it: a pickle is a program."""

from __future__ import annotations

import pickle
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

from extsub.adapters.tensors import DTYPES, TensorFile, TensorInfo, check_file, check_names
from extsub.arrays import DTYPES as KNOWN
from extsub.arrays import as_array
from extsub.errors import ExtSubError
from extsub.escaping import brief, shown
from extsub.extras import pip_command

BROKEN = (
    *(RuntimeError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError),
    *(EOFError, OSError, MemoryError, struct.error, zipfile.BadZipFile),
)
"""What unpickling a broken file may raise."""


def open_pickle(path: Path, where: str) -> TensorFile:
    """The tensors of a PyTorch file; no code in it is run.

    Raises:
        ExtSubError: torch is missing, or the file is damaged or holds anything but dense floating-point tensors.
    """
    check_file(path, where)
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
    check_names(content, path, where)
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
