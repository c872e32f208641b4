"""All or nothing: fill a hidden folder beside the output, then rename it. Whatever happens before, the output is
untouched; a run that was killed leaves a hidden folder that the next run clears.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Generator, Iterable
from pathlib import Path

from extsub.errors import ExtSubError
from extsub.files.disk import check_can_appear, writing
from extsub.files.locks import locked
from extsub.files.writing import delete, make_parents, note_written, remove, remove_empty

MARK = "extsub.json"
OUR_FILES = frozenset({MARK, "adapter_config.json", "adapter_model.safetensors", "README.md"})
TRAINING_FILES = frozenset({"training.json", "loss.png", "runs"})
"""What lies beside a trained adapter, too."""
STRENGTH = "alpha-"
"""How the folder of each strength begins, in an output that has several."""


def strength_folder(alpha: float) -> str:
    """The name of the folder of one strength, ``alpha-0.5`` say."""
    return f"{STRENGTH}{alpha:.10g}"


def checked_output(
    output: str | os.PathLike[str],
    inputs: Iterable[Path],
    overwrite: bool,
    names: Callable[[str], bool] = OUR_FILES.__contains__,
) -> Path:
    """The folder to write, refused where it would destroy something. Called before any work.

    Args:
        names: whether extsub writes a file of this name into an output of this kind.

    Raises:
        ExtSubError: the output exists (and may not be replaced), is a link, or overlaps an input.
    """
    try:
        plain = _plain_path(output)
        _check_output(plain, inputs, overwrite, names)
    except (OSError, RuntimeError) as error:  # a name too long, ~nobody
        raise ExtSubError(f"the output cannot be written: {error}") from error
    return plain


def _plain_path(path: str | os.PathLike[str]) -> Path:
    """Without ~ and .., as short as it was given where that has a last name."""
    plain = Path(os.path.normpath(Path(path).expanduser()))
    return plain if plain.name not in ("", "..") else Path(os.path.normpath(Path.cwd() / plain))


def _check_output(output: Path, inputs: Iterable[Path], overwrite: bool, names: Callable[[str], bool]) -> None:
    for folder in inputs:
        ours, theirs = output.resolve(), folder.resolve()
        if ours == theirs:
            raise ExtSubError(f"{output} is also an input: choose another output")
        if theirs in ours.parents or ours in theirs.parents:
            raise ExtSubError(f"{output} and the input {folder} lie inside one another: choose another output")
    check_place(output)
    check_can_appear(output)
    if not output.exists() or not any(output.iterdir()):
        return
    if not overwrite:
        raise ExtSubError(f"{output} already exists: choose another output, or pass --overwrite to replace it")
    for folder in _folders(output):
        existing = {path.name for path in folder.iterdir()}
        if MARK not in existing:
            raise ExtSubError(f"{folder} was not written by extsub (it has no {MARK}): choose another output")
        if foreign := sorted(name for name in existing if not names(name)):
            said = f"{folder} holds files that extsub did not write, first {foreign[0]}"
            raise ExtSubError(f"{said}: choose another output")


def _folders(output: Path) -> list[Path]:
    """Where the adapters of an output lie: in it, or in a folder for each strength and nothing else."""
    inside = sorted(output.iterdir())
    several = all(path.name.startswith(STRENGTH) and path.is_dir() and not path.is_symlink() for path in inside)
    return inside if inside and several else [output]


def check_place(output: Path) -> None:
    """Refuse what is not a folder; undo the first of the two renames if a run was killed between them, and take away
    what was replaced if one was killed after both.

    Raises:
        ExtSubError: the output is a link or a file, has no name, or is just being written.
    """
    if not output.name:
        raise ExtSubError(f"output {str(output)!r}: give the name of a folder to make")
    if output.is_symlink():
        raise ExtSubError(f"{output} is a symbolic link: give the folder itself")
    if output.exists() and not output.is_dir():
        raise ExtSubError(f"{output} is a file: choose another output")
    partial, replaced = _partial(output), _replaced(output)
    # After both renames there is no partial folder, and what was replaced must not come back.
    if replaced.is_dir() and partial.is_dir() and not output.exists():
        with locked(partial, output):
            if not output.exists():
                replaced.rename(output)
    elif output.is_dir() and not partial.is_dir():  # a run that was killed while it took the old one away
        with contextlib.suppress(OSError):
            remove(replaced)


@contextlib.contextmanager
def staged(
    output: Path,
    then: str = "try again",
    kept: str = "nothing was kept",
    names: Callable[[str], bool] | None = (OUR_FILES | TRAINING_FILES).__contains__,
) -> Generator[Path]:
    """A folder to fill, which becomes ``output`` if the block ends without an error and vanishes otherwise.

    Args:
        then: what to do where the disk refused, when it is mended.
        kept: what remains there, as a clause.
        names: whether a killed run may have left a file of this name; None for any, where nobody but extsub writes.

    Raises:
        ExtSubError: the disk refuses (full, read-only, no permission), or another run is filling it.
    """
    created: list[Path] = []
    folder = _partial(output)
    try:
        with writing(output, then, kept):
            created = make_parents(output)
            _make_folder(folder)
            with locked(folder, output) as ours:
                _clear(folder, names)
                remove(_replaced(output))
                try:
                    yield folder
                    _sync(folder)
                    if not ours():
                        raise ExtSubError(f"{folder} was removed while {output} was written into it: begin anew")
                    _publish(folder, output)
                except BaseException:
                    if ours():
                        shutil.rmtree(folder, ignore_errors=True)
                    raise
    except BaseException:
        remove_empty(created)
        raise


def _partial(output: Path) -> Path:
    return output.with_name(f".{output.name}.partial")


def _replaced(output: Path) -> Path:
    """Where the old output is between the two renames of an overwrite."""
    return output.with_name(f".{output.name}.replaced")


def _make_folder(folder: Path) -> None:
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ExtSubError(f"{folder} is in the way: remove it")
    folder.mkdir(exist_ok=True)


def _clear(folder: Path, names: Callable[[str], bool] | None) -> None:
    """Remove what a killed run left, and nothing of anybody else's."""
    for inside in _folders(folder):
        existing = [path.name for path in sorted(inside.iterdir())]
        if names is not None and (foreign := [name for name in existing if not names(name)]):
            raise ExtSubError(f"{inside} holds files that extsub did not write, first {foreign[0]}: move it away")
    for path in sorted(folder.iterdir()):
        delete(path)


def _sync(folder: Path) -> None:
    """Wait until the files are on the disk, so that a power cut after the rename cannot leave empty ones."""
    for path in (*folder.rglob("*"), folder):
        _fsync(path)


def _fsync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot sync a folder
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _publish(folder: Path, output: Path) -> None:
    replaced = _replaced(output)
    try:
        if output.exists():
            output.rename(replaced)
        folder.rename(output)
    finally:  # a signal may come between the renames, or after them
        if not folder.exists():
            note_written(output)
            with contextlib.suppress(OSError):  # the output is there, all the same
                remove(replaced)
        elif replaced.is_dir() and not output.exists():
            replaced.rename(output)
    _fsync(output.parent)
