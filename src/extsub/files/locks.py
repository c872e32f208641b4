"""One run at a time makes an output. A lock dies with its process, so a killed run leaves none."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator
from pathlib import Path

from extsub.errors import ExtSubError
from extsub.files.disk import writing

try:
    import fcntl
except ImportError:  # Windows: no lock, so two runs that write the same are not told apart
    fcntl = None


@contextlib.contextmanager
def locked(folder: Path, output: Path) -> Generator[Callable[[], bool]]:
    """Hold ``folder``, in which ``output`` is made, alone.

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
        with held(handle, folder, output) as ours:
            yield ours
    finally:
        os.close(handle)


@contextlib.contextmanager
def held(handle: int, path: Path, output: Path) -> Generator[Callable[[], bool]]:
    """As `locked`, by the handle of an open file or folder that ``path`` leads to."""
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
