"""Files on the disk. A name leads to the old content or to the new one, whatever happens in between, also a kill; one
run at a time writes; and a disk that refuses is told in one sentence.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Mapping
from io import FileIO
from pathlib import Path

from extsub.errors import ExtSubError

try:
    import fcntl
except ImportError:  # Windows: no lock, so two runs that write the same are not told apart
    fcntl = None

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
LOCKED = (errno.EROFS, errno.EACCES, errno.EPERM)
DISGUISED = {os.strerror(code): code for code in (*FULL, *LOCKED, errno.EIO)}
"""What the errors of Rust and C++ quote, which are not OSError."""
TORCH = ("inline_container.cc", "PytorchStreamWriter", "iostream error")
"""What torch.save says, without a reason, where the disk takes only a part of a file."""

_written: list[Path] = []


# ---- what is said when the disk refuses ------------------------------------------------------------------------------


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
        if code is None and not any(one in text for one in TORCH):
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
    """The same for what libraries write on their own account: downloads, caches, logs.

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
        there = next(
            place for place in places if place.is_dir() or (place.exists() and place != places[0])
        )  # the last is / or .
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


# ---- whole files -----------------------------------------------------------------------------------------------------


def write_whole(path: Path, content: str | bytes) -> None:
    """Replace a file at once: whoever reads it sees the old one or the new one.

    Raises:
        ExtSubError: the disk refuses, or another run writes it just now.
    """
    write_together({path: content})


def write_together(contents: Mapping[Path, str | bytes]) -> None:
    """Replace files when all of them are on the disk: all are new, or none.

    Raises:
        ExtSubError: as ``write_whole``.
    """
    with contextlib.ExitStack() as stack:
        for path, content in contents.items():
            with writing(path):
                file = stack.enter_context(_partial(path))
                left = memoryview(content.encode() if isinstance(content, str) else content)
                while left:  # an unbuffered write may stop early
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
        if not fcntl:
            stack.close()  # Windows renames no open file
        try:
            for path in contents:
                with writing(path):
                    _name_of_partial(path).replace(path)
        except BaseException as error:
            if not isinstance(error, Exception):  # somebody stops us half-way
                for path in contents:
                    with contextlib.suppress(FileNotFoundError):
                        _name_of_partial(path).replace(path)
            raise
    _written.extend(contents)


@contextlib.contextmanager
def filled(path: Path) -> Generator[Path]:
    """A file beside ``path`` to fill, which takes its name if the block ends without an error and vanishes otherwise.

    Raises:
        ExtSubError: as ``write_whole``.
    """
    created: list[Path] = []
    partial = _name_of_partial(path)
    try:
        with writing(path):
            created = make_parents(path)
            with _partial(path) as file:
                yield partial
                os.fsync(file.fileno())
                if not fcntl:
                    file.close()  # Windows renames no open file
                partial.replace(path)
    except BaseException:
        remove_empty(created)
        raise
    note_written(path)


def _name_of_partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial-write")


@contextlib.contextmanager
def _partial(path: Path) -> Generator[FileIO]:
    """A file to fill, which nobody else fills; it vanishes if the block fails, unless it has got its name by then."""
    partial = _name_of_partial(path)
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    with (
        os.fdopen(os.open(partial, flags, 0o666), "wb", buffering=0) as file,
        _held(file.fileno(), partial, path) as ours,
    ):
        try:
            file.truncate(0)  # what a kill left
            yield file
        except BaseException:
            if ours():
                with contextlib.suppress(OSError):
                    partial.unlink()
            raise


def note_written(path: Path) -> None:
    """Remember an output that is complete."""
    _written.append(path)


def forget_written() -> None:
    """Another command begins in this process."""
    _written.clear()


def last_written() -> Path | None:
    """The last file or folder that this process has written for somebody to read, and that is still there."""
    return next((one for one in reversed(_written) if not _is_hidden(one) and one.exists()), None)


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.parent.name.startswith(".")


# ---- one run at a time -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def locked(folder: Path, output: Path) -> Generator[Callable[[], bool]]:
    """Hold ``folder``, in which ``output`` is made, alone. A lock dies with its process, so a killed run leaves none.

    Yields:
        whether the path still leads to the folder that is held: somebody may have removed it, and begun anew

    Raises:
        ExtSubError: another run holds it.
    """
    if not fcntl:
        yield lambda: True
        return
    with writing(output):
        try:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError as error:  # another run has just taken it away
            raise _busy(output) from error
    try:
        with _held(handle, folder, output) as ours:
            yield ours
    finally:
        os.close(handle)


@contextlib.contextmanager
def _held(handle: int, path: Path, output: Path) -> Generator[Callable[[], bool]]:
    if not fcntl:
        yield path.exists
        return

    def ours() -> bool:
        try:
            return os.path.samestat(os.fstat(handle), path.lstat())
        except OSError:
            return False

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _busy(output) from error
    except OSError:  # some network disks lock nothing, NFS no folders: better without than not at all
        pass
    if not ours():  # whoever held it has renamed or removed it since it was opened
        raise _busy(output)
    yield ours


def _busy(output: Path) -> ExtSubError:
    return ExtSubError(f"{output} is being written by another run: wait for it")


# ---- folders ---------------------------------------------------------------------------------------------------------


def make_parents(output: Path) -> list[Path]:
    """The folders above ``output``. Returns those that were not there, outermost first."""
    missing = [parent for parent in output.parents if not parent.exists()][::-1]
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except BaseException:
        remove_empty(missing)
        raise
    return missing


def remove_empty(folders: Iterable[Path]) -> None:
    """Undo ``make_parents``, as far as nothing is in them."""
    for folder in reversed([*folders]):
        with contextlib.suppress(OSError):
            folder.rmdir()


def remove(path: Path) -> None:
    """Take a file or a folder away at once, if it is there. A kill leaves no part of it under its name, but perhaps a
    hidden folder, which the next call clears.
    """
    doomed = path.with_name(f".{path.name.lstrip('.')}.removed")
    _delete(doomed)
    if path.is_dir() and not path.is_symlink():
        path.rename(doomed)
        _delete(doomed)
    else:
        path.unlink(missing_ok=True)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
