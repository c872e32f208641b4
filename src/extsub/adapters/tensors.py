"""The tensors of an adapter's file, whatever its format, and what every file must be."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from extsub.adapters.adapter import Copy
from extsub.arrays import BFLOAT16, FLOAT16, FLOAT32, FLOAT64, Array, DType, is_finite
from extsub.errors import ExtSubError
from extsub.escaping import brief, shown
from extsub.files.reading import check_regular

DTYPES = {"F64": FLOAT64, "F32": FLOAT32, "F16": FLOAT16, "BF16": BFLOAT16}
"""The dtypes, as safetensors calls them."""
LFS_POINTER = b"version https://git-lfs"

LONGEST_KEY = 400
"""The most characters of a key; with every wrapper that there is, keys have 350."""


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
        return {
            name: Copy(self.info[key].dtype, self.info[key].shape, functools.partial(self.read, key))
            for name, key in keys.items()
        }


def check_file(path: Path, where: str) -> None:
    """Raises ExtSubError where a file cannot be read, or is a Git LFS pointer."""
    try:
        check_regular(path)
        with path.open("rb") as opened:
            start = opened.read(len(LFS_POINTER))
    except OSError as error:
        raise ExtSubError(f"{where}: {path.name} cannot be read: {error.strerror}") from error
    refuse_lfs_pointer(start, path, where)


def check_names(keys: Iterable[str], path: Path, where: str) -> None:
    """Raises ExtSubError where one of the keys is not the name of a module."""
    for key in keys:
        if not key.isprintable() or len(key) > LONGEST_KEY:
            raise ExtSubError(f"{where}: {path.name} has a tensor called {shown(key)}: that is not a name of a module")


def refuse_lfs_pointer(content: bytes, path: Path, where: str) -> None:
    """Raises ExtSubError where ``content``, or its beginning, stands in for a file that git did not fetch."""
    if content.startswith(LFS_POINTER):
        raise ExtSubError(f"{where}: {path.name} is a Git LFS pointer, not the file itself: run 'git lfs pull' there")
