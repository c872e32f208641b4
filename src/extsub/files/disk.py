"""What the disk allows: asked before any work where it can be, and told in one sentence where it refuses."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Generator
from pathlib import Path

from extsub.errors import ExtSubError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LOCKED = (errno.EROFS, errno.EACCES, errno.EPERM)
DISGUISED = {os.strerror(code): code for code in (*FULL, *LOCKED, errno.EIO)}
"""What the errors of Rust and C++ quote, which are not OSError."""
TORCH = ("inline_container.cc", "PytorchStreamWriter", "iostream error")
"""What torch.save says, without a reason, where the disk takes only a part of a file."""


@contextlib.contextmanager
def writing(what: Path, then: str = "try again", kept: str = "") -> Generator[None]:
    """Explain a disk that is full, read-only or broken, in whichever form a library tells it.

    Args:
        what: is written in this block.
        then: what to do when the disk is mended.
        kept: what remains if it fails, as a clause.

    Raises:
        ExtSubError: the disk refuses. Every other error stays as it is.
    """
    try:
        yield
    except BaseException as error:
        if (said := refusal(error)) is None:
            raise
        reason, advice = said
        do = f"{kept}: {advice}" if kept else advice
        raise ExtSubError(f"{what} could not be written: {reason}; {do}, then {then}") from error


def refusal(error: BaseException) -> tuple[str, str] | None:
    """What the disk says, and what to do first; None for an error of another kind."""
    text = str(error)
    if isinstance(error, OSError):
        code, reason = error.errno, error.strerror or text
    elif isinstance(error, Exception) and not isinstance(error, ExtSubError):
        code = next((code for said, code in DISGUISED.items() if said in text), None)
        if code is None and not any(phrase in text for phrase in TORCH):
            return None
        reason = os.strerror(code) if code else "only a part of it, is the disk full?"
        code = code or errno.ENOSPC
    else:
        return None
    if code in FULL:
        return reason, "make room"
    return reason, "allow writing there or choose another place" if code in LOCKED else "choose another place"


@contextlib.contextmanager
def full_disk_explained() -> Generator[None]:
    """Explain a full or read-only disk where libraries write on their own account: downloads, caches, logs.

    Raises:
        ExtSubError: a disk is full or read-only.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (*FULL, errno.EROFS):
            raise
        with writing(Path(os.fsdecode(error.filename or "a file"))):
            raise


def check_writable(path: Path) -> None:
    """Before any work: is this a place where files can be made?

    Args:
        path: a folder that need not be there yet, or a file that may be replaced.

    Raises:
        ExtSubError: the folder in which it lies, or would, is read-only or no folder.
    """
    places = (path.expanduser(), *path.expanduser().parents)
    try:
        # the last is / or .
        there = next(place for place in places if place.is_dir() or (place.exists() and place != places[0]))
    except OSError as error:  # a name too long
        raise ExtSubError(f"{str(path)[:80]}: {(error.strerror or 'no such place').lower()}") from error
    if not there.is_dir():
        raise ExtSubError(f"{path} cannot be written: {there} is a file; choose another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ExtSubError(f"{path} cannot be written: {there} is read-only; choose another place")


def check_room(output: Path, size: int) -> None:
    """Before any work: does the disk have room for so many bytes?

    Raises:
        ExtSubError: it has not.
    """
    there = next(place for place in output.absolute().parents if place.exists())
    free = shutil.disk_usage(there).free
    if free < size:
        raise ExtSubError(f"{output} needs {size / 1e6:,.0f} MB and the disk has {free / 1e6:,.0f} MB: make room first")


def check_can_appear(output: Path) -> None:
    """Before any work: can a folder be renamed to this?

    Raises:
        ExtSubError: its parent is read-only, or it is a disk of its own.
    """
    check_writable(output.parent)
    if output.is_mount():
        raise ExtSubError(f"{output} is a mount point, which nothing can be renamed to: give a folder inside it")
