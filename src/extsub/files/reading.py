"""Files that somebody else wrote: only regular ones of a sane size are read, and JSON that is text throughout."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

from extsub.errors import ExtSubError
from extsub.escaping import brief, shown

LARGEST = 32 * 2**20
"""The most bytes of a config or record; those of the largest adapters have 5 million."""


def located(name: str) -> Path:
    """The path that somebody wrote, with ``~`` as the home folder. Nothing need be there.

    Raises:
        ExtSubError: the system takes no such name, or does not say what is there.
    """
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:  # a name too long, ~nobody, a null byte
        raise ExtSubError(f"{brief(name)}: no such folder or file ({brief(error)})") from error
    return path


def elsewhere(folder: Path, file: str) -> str:
    """Where to look for a file that ``folder`` lacks, as the end of a sentence; empty where no folder in it has one."""
    inside = sorted(path.parent.name for path in folder.glob(f"*/{file}"))
    return f"; there is one in {brief(' and in '.join(inside))}: give that subfolder" if inside else ""


def check_regular(path: Path) -> int:
    """The size of a regular file in bytes. A pipe may never answer, and a device never end.

    Raises:
        OSError: it is not there, or something else; ``strerror`` says what.
    """
    try:
        status = path.stat()
    except ValueError as error:  # a null byte in the name
        raise OSError(errno.EINVAL, "no name that a file can have") from error
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "a pipe or device, not a regular file", str(path))
    return status.st_size


def read_bytes(path: Path, largest: int | None = LARGEST) -> bytes:
    """All of a regular file.

    Args:
        largest: how many bytes it may have; None for any number.

    Raises:
        OSError: it is not there, no regular file, or larger; ``strerror`` says what.
    """
    check_regular(path)
    with path.open("rb") as file:  # sizes in /proc are 0, so the size is not believed
        content = file.read() if largest is None else file.read(largest + 1)
    if largest is not None and len(content) > largest:
        raise OSError(errno.EFBIG, f"larger than {largest // 2**20} MiB", str(path))
    return content


def read_json(path: Path, shape: Any = object, largest: int | None = LARGEST, format: int | None = None) -> Any:
    """What a JSON file holds.

    Args:
        shape: what it must look like, as `fits` has it.
        format: the number of the format that is read (docs/files.md); a file without one is older than the numbers,
            and is taken to be of format 1.

    Raises:
        ExtSubError: it has another format.
        OSError: as `read_bytes`.
        ValueError: as `parse_json`, or it has another shape.
    """
    value = parse_json(read_bytes(path, largest))
    if format is not None and isinstance(value, dict) and (given := value.get("format", 1)) != format:
        raise ExtSubError(
            f"{path} has format {shown(given)}, and this extsub reads format {format}: use the extsub that wrote it, "
            "or make it anew"
        )
    return fitting(value, shape)


def fitting(value: Any, shape: Any) -> Any:
    """The JSON value itself.

    Raises:
        ValueError: it has another shape than `fits` asks for.
    """
    if not fits(value, shape):
        raise ValueError("other values than expected")
    return value


def fits(value: Any, shape: Any) -> bool:
    """Whether a JSON value has a shape: a type, ``[shape]`` for a list, ``[shape, shape]`` for one of two, or
    ``{name: shape}`` for an object that has these names; ``...`` stands for every other name."""
    if isinstance(shape, list):
        shapes = shape * len(value) if isinstance(value, list) and len(shape) == 1 else shape
        return isinstance(value, list) and len(value) == len(shapes) and all(map(fits, value, shapes))
    if isinstance(shape, dict):
        if not isinstance(value, dict) or shape.keys() - value.keys() - {...}:
            return False
        named = {name: shape.get(name, shape.get(..., object)) for name in value}
        return all(fits(value[name], expected) for name, expected in named.items())
    return isinstance(value, shape)


def parse_json(content: bytes, **hooks: Any) -> Any:
    """A JSON value, with the hooks of ``json.loads``.

    Raises:
        ValueError: it is not JSON: bad UTF-8, thousands of levels, a number of thousands of digits, or half of a
            surrogate pair, which Python could neither print nor write.
    """
    try:
        value = json.loads(content.decode("utf-8"), **hooks)
        if rb"\ud" in content.lower():
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return value
