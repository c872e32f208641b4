"""The folder in which an unfinished run keeps what it needs to go on: ``OUTPUT/checkpoints``."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

from extsub.errors import ExtSubError
from extsub.escaping import shown
from extsub.files.disk import check_can_appear, check_writable, writing
from extsub.files.reading import read_json
from extsub.files.staging import check_place
from extsub.files.writing import delete, write_whole

FOLDER = "checkpoints"
SETTINGS = "settings.json"
TRAINER_STATE = "trainer_state.json"
"""A file of a checkpoint that transformers writes."""
COMPLETE = "complete"
"""The last file of a checkpoint, once every process has written its own."""

MAY_DIFFER = {"output", "micro_batch_size", "gradient_checkpointing", "checkpoint_steps", "report_to"}
"""Settings that leave the result as it is, up to rounding."""


def last_checkpoint(output: Path) -> Path | None:
    """The newest checkpoint that was written to its end; None where there is none."""
    complete = [path for path in (output / FOLDER).glob("checkpoint-*") if step(path) is not None]
    return max(complete, key=lambda path: step(path) or 0, default=None)


def step(checkpoint: Path) -> int | None:
    """How many steps were done; None if the checkpoint is incomplete."""
    if not (checkpoint / COMPLETE).exists():
        return None
    try:
        return int(read_json(checkpoint / TRAINER_STATE, largest=None)["global_step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def mark_complete(checkpoint: Path) -> None:
    """Say that a run can be continued from this checkpoint."""
    (checkpoint / COMPLETE).touch()


def check_output(output: Path, resume: bool) -> None:
    """Refuse what another run left, unless it is to be continued.

    Raises:
        ExtSubError: the output exists, or holds what is not ours, or an unfinished run and ``resume`` is not set.
    """
    check_place(output)
    check_writable(output / FOLDER)
    check_writable(output)
    check_can_appear(output)
    if not output.exists():
        return
    inside = {path.name for path in output.iterdir()}
    if inside - {FOLDER}:
        raise ExtSubError(f"{output} already exists: choose another output, or remove it")
    left = {path.name for path in (output / FOLDER).glob("*")}
    if left and SETTINGS not in left:
        raise ExtSubError(f"{output / FOLDER} was not written by extsub (it has no {SETTINGS}): choose another output")
    checkpoint = last_checkpoint(output)
    if checkpoint and not resume:
        done = step(checkpoint)
        raise ExtSubError(f"{output} holds a run that stopped after step {done}: pass --resume, or remove the folder")


def begin(output: Path, identity: dict[str, Any]) -> Path | None:
    """Start a run, or find where to continue one. Called by the main process.

    Args:
        identity: settings and what they stand for (the data's hash), as JSON values.

    Returns:
        the checkpoint to continue from, if there is one

    Raises:
        ExtSubError: the checkpoint belongs to another run.
    """
    folder = output / FOLDER
    checkpoint = last_checkpoint(output)
    if checkpoint is None:
        with writing(folder):
            _empty(folder)  # not the folder itself: it is locked
        write_whole(folder / SETTINGS, json.dumps(identity, indent=2) + "\n")
        return None
    with writing(folder):
        _remove_incomplete(folder)  # what a kill left
    try:
        before = dict(read_json(folder / SETTINGS))
    except (OSError, ValueError, TypeError) as error:
        raise ExtSubError(f"--resume: {folder / SETTINGS} is broken: remove {output} and begin anew") from error
    for name in sorted(identity.keys() | before.keys()):
        if identity.get(name) != before.get(name) and name not in MAY_DIFFER:
            raise ExtSubError(
                f"--resume: {name} was {shown(before.get(name))} when the run in {output} began, and is now "
                f"{shown(identity.get(name))}: give the same settings and data, or remove the folder"
            )
    return checkpoint


def abandon(output: Path) -> None:
    """After a run ended early: keep what can be continued, and nothing else."""
    folder = output / FOLDER
    with contextlib.suppress(OSError):
        if last_checkpoint(output) is not None:
            _remove_incomplete(folder)  # it may fill the disk
            return
        _empty(folder)
        (folder / SETTINGS).unlink(missing_ok=True)
        folder.rmdir()
        output.rmdir()


def _remove_incomplete(folder: Path) -> None:
    for path in folder.glob("checkpoint-*"):
        if step(path) is None:
            shutil.rmtree(path)


def _empty(folder: Path) -> None:
    """But for the settings: by them a folder is known to be ours, also if a kill leaves half of this."""
    for path in folder.iterdir():
        if path.name != SETTINGS:
            delete(path)
