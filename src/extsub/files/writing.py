"""Files on the disk. A name leads to the old content or to the new one, whatever happens in between, also a kill."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Generator, Iterable, Mapping
from io import FileIO
from pathlib import Path

from extsub.files.disk import writing
from extsub.files.locks import fcntl, held

_written: list[Path] = []


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
                write_all(file, content.encode() if isinstance(content, str) else content)
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


def write_all(file: FileIO, content: bytes | memoryview) -> None:
    """Write all of ``content`` to an unbuffered file, which may take only some of it at a time."""
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


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
        held(file.fileno(), partial, path) as ours,
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
    """Forget what was written: another command begins in this process."""
    _written.clear()


def last_written() -> Path | None:
    """The last file or folder that this process has written for somebody to read, and that is still there."""
    return next((path for path in reversed(_written) if not _is_hidden(path) and path.exists()), None)


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.parent.name.startswith(".")


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
    delete(doomed)
    if path.is_dir() and not path.is_symlink():
        path.rename(doomed)
        delete(doomed)
    else:
        path.unlink(missing_ok=True)


def delete(path: Path) -> None:
    """Take a file or a folder away, if it is there; a kill may leave a part of it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
