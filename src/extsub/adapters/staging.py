"""All or nothing: fill a hidden folder beside the output, then rename it. Whatever happens before, the output is
untouched; a run that was killed leaves a hidden folder that the next run clears.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Generator, Iterable
from pathlib import Path

from extsub.errors import ExtSubError

try:
    import fcntl
except ImportError:  # Windows: no lock, so two runs into one folder are not told apart
    fcntl = None

MARK = "extsub.json"
OUR_FILES = frozenset({MARK, "adapter_config.json", "adapter_model.safetensors", "README.md"})
TRAINING_FILES = frozenset({"training.json", "loss.png", "runs"})
"""what lies beside a trained adapter, too"""


def check_output(output: Path, inputs: Iterable[Path], overwrite: bool) -> None:
    """Refuse an output that would destroy something. Called before any work.

    Raises:
        ExtSubError: the output exists (and may not be replaced), is a link, or overlaps an input.
    """
    for folder in inputs:
        ours, theirs = output.resolve(), folder.resolve()
        if ours == theirs:
            raise ExtSubError(f"{output} is also an input: choose another output")
        if theirs in ours.parents or ours in theirs.parents:
            raise ExtSubError(f"{output} and the input {folder} lie inside one another: choose another output")
    check_place(output)
    existing = {path.name for path in output.iterdir()} if output.exists() else set()
    if existing and not overwrite:
        raise ExtSubError(f"{output} already exists: choose another output, or pass --overwrite to replace it")
    if existing and MARK not in existing:
        raise ExtSubError(f"{output} was not written by extsub (it has no {MARK}): choose another output")
    if foreign := sorted(existing - OUR_FILES):
        raise ExtSubError(f"{output} holds files that extsub did not write, first {foreign[0]}: choose another output")


def check_place(output: Path) -> None:
    """Refuse what is no folder; undo the first of the two renames if a run was killed between them.

    Raises:
        ExtSubError: the output is a link or a file, or has no name.
    """
    if not output.name:
        raise ExtSubError(f"output {str(output)!r}: give the name of a folder to make")
    if output.is_symlink():
        raise ExtSubError(f"{output} is a symbolic link: give the folder itself")
    if output.exists() and not output.is_dir():
        raise ExtSubError(f"{output} is a file: choose another output")
    if (replaced := _replaced(output)).is_dir() and not output.exists():
        replaced.rename(output)


def check_writable(output: Path) -> None:
    """Refuse a place where nothing can be made: asked before any work, as soon as the output is known.

    Raises:
        ExtSubError: a file stands where a folder must be, or the folder that is there is read-only.
    """
    place = output.expanduser().absolute()
    try:
        folder = next(one for one in (place, *place.parents) if one.is_dir() or (one.exists() and one != place))
    except OSError as error:  # a name too long
        raise ExtSubError(f"{str(output)[:80]}: {(error.strerror or 'no such place').lower()}") from error
    if not folder.is_dir():
        raise ExtSubError(f"{output} cannot be made: {folder} is a file: choose another output")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ExtSubError(f"{output} cannot be made: {folder} is read-only: choose another output")


@contextlib.contextmanager
def staged(output: Path) -> Generator[Path]:
    """A folder to fill, which becomes ``output`` if the block ends without an error and vanishes otherwise.

    Raises:
        ExtSubError: the disk refuses (full, read-only, no permission), or another run is filling it.
    """
    created: list[Path] = []
    folder = output.with_name(f".{output.name}.partial")
    try:
        created = make_parents(output)
        _make_folder(folder)
        with locked(folder, output):
            _clear(folder)
            try:
                yield folder
                _sync(folder)
                _publish(folder, output)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
    except BaseException as error:
        remove_empty(created)
        if isinstance(error, OSError):
            raise ExtSubError(f"{output} could not be written: {error.strerror or error}; nothing was kept") from error
        raise


def make_parents(output: Path) -> list[Path]:
    """The folders above ``output``. Returns those that were not there, outermost first."""
    missing = [parent for parent in output.parents if not parent.exists()]
    output.parent.mkdir(parents=True, exist_ok=True)
    return missing[::-1]


def remove_empty(folders: Iterable[Path]) -> None:
    """Undo ``make_parents``, as far as nothing is in them."""
    for folder in reversed([*folders]):
        with contextlib.suppress(OSError):
            folder.rmdir()


def _make_folder(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ExtSubError(f"{folder} is in the way: remove it")
    folder.mkdir(exist_ok=True)


@contextlib.contextmanager
def locked(folder: Path, output: Path) -> Generator[None]:
    """Hold ``folder``, in which ``output`` is made, alone. A lock dies with its process, so a killed run leaves none.

    Raises:
        ExtSubError: another run holds it.
    """
    if not fcntl:
        yield
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ExtSubError(f"{output} is being written by another run: wait for it") from error
        yield
    finally:
        os.close(handle)


def _clear(folder: Path) -> None:
    """Remove what a killed run left, and nothing of anybody else's."""
    left_over = sorted(folder.iterdir())
    if foreign := [path.name for path in left_over if path.name not in OUR_FILES | TRAINING_FILES]:
        raise ExtSubError(f"{folder} holds files that extsub did not write, first {foreign[0]}: move it away")
    for path in left_over:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _sync(folder: Path) -> None:
    """Wait until the files are on the disk, so that a power cut after the rename cannot leave empty ones."""
    for path in (*folder.iterdir(), folder):
        _fsync(path)


def _fsync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot sync a folder
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _replaced(output: Path) -> Path:
    """Where the old output is between the two renames of an overwrite."""
    return output.with_name(f".{output.name}.replaced")


def _publish(folder: Path, output: Path) -> None:
    if output.exists():
        replaced = _replaced(output)
        shutil.rmtree(replaced, ignore_errors=True)
        output.rename(replaced)
        try:
            folder.rename(output)
        except BaseException:
            replaced.rename(output)
            raise
        shutil.rmtree(replaced)
    else:
        folder.rename(output)
    _fsync(output.parent)
