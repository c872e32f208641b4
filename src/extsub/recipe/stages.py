"""The stages of a chain in one folder: one that is finished, and was made from the same inputs, is not repeated."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extsub.errors import ExtSubError
from extsub.files.disk import writing
from extsub.files.reading import read_json
from extsub.files.writing import make_parents, remove, write_whole

RECORD = "stages.json"
FORMAT = 1
"""The format number of ``stages.json`` (docs/files.md)."""
NOTE = {"inputs": str, "again": str, "finished": bool, "seconds": float, "cpu_seconds": float, "found": object}
"""The shape of what is noted of a stage."""


def key_of(inputs: Any) -> str:
    """A short hash of JSON values, by which they are known again."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Stage:
    """What one stage makes, and from what."""

    name: str
    files: tuple[str, ...]
    """What it makes in the folder; removed before it is made from other inputs."""
    inputs: dict[str, Any]
    """JSON values that decide what is made."""
    again: dict[str, Any] | None = None
    """JSON values; where they changed and the inputs did not, the work goes on with what is there."""


class Stages:
    """What was made in a folder, from which inputs, and how long it took. Nothing is written before a stage begins."""

    def __init__(self, folder: Path, command: str, say: Callable[[str], None]) -> None:
        """Look at what is there.

        Args:
            command: whose folder it is.
            say: is told the name of every stage that begins.

        Raises:
            ExtSubError: the folder holds what the command did not write.
        """
        self._folder, self._command, self._say = folder, command, say
        path = folder / RECORD
        record: dict[str, Any] = {"command": command, "stages": {}}
        if path.exists():
            record = _read(path)
        elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ExtSubError(f"{folder} was not written by {command} (it has no {RECORD}): choose another output")
        if record.get("command") != command:
            raise ExtSubError(f"{folder} was not written by {command}, says its {RECORD}: choose another output")
        self.done: dict[str, dict[str, Any]] = record["stages"]

    def why(self, stage: Stage) -> str | None:
        """Why a stage is to be done; None where it is done."""
        note = self.done.get(stage.name)
        if note is None:
            return "not done yet"
        if note["inputs"] != key_of(stage.inputs):
            return "made from other inputs"
        if not note["finished"]:
            return "interrupted"
        if missing := [file for file in stage.files if not (self._folder / file).exists()]:
            return f"{missing[0]} is missing"
        return None if note["again"] == key_of(stage.again) else "asked for something else"

    def make(self, stage: Stage, work: Callable[[], Any]) -> None:
        """Do a stage unless it was done from the same inputs.

        Args:
            work: makes the files; goes on by itself where it was interrupted. What it returns is kept.

        Raises:
            ExtSubError: a file is there that no stage made.
        """
        if self.why(stage) is None:
            return
        key, paths = key_of(stage.inputs), [self._folder / file for file in stage.files]
        before = self.done.get(stage.name, {})
        if not before and (theirs := [path for path in paths if path.exists()]):
            raise ExtSubError(f"{theirs[0]} is in the way, and {self._command} did not write it: move it away")
        if before.get("inputs") != key or (before["finished"] and not all(path.exists() for path in paths)):
            for file in stage.files:
                self._remove(file)
            before = {}
        self._say(stage.name)
        note = {
            "inputs": key,
            "again": key_of(stage.again),
            "finished": False,
            "seconds": before.get("seconds", 0.0),
            "cpu_seconds": before.get("cpu_seconds", 0.0),
            "found": None,
        }
        self._note(stage.name, note)
        begun = time.perf_counter(), time.process_time()
        try:
            note["found"] = work()
            note["finished"] = True
        finally:
            note["seconds"] = round(note["seconds"] + time.perf_counter() - begun[0], 1)
            note["cpu_seconds"] = round(note["cpu_seconds"] + time.process_time() - begun[1], 1)
            self._note(stage.name, note)

    def drop(self, name: str, files: tuple[str, ...]) -> None:
        """Take away what a stage made, which is true no more."""
        if self.done.pop(name, None) is not None:
            for file in files:
                self._remove(file)
            self._write()

    def found(self, name: str) -> Any:
        """What the work of a finished stage returned."""
        return self.done[name]["found"]

    def seconds(self) -> dict[str, dict[str, float]]:
        """The seconds that every stage took, on the clock and of the processor, interrupted runs included."""
        return {name: {"wall": stage["seconds"], "cpu": stage["cpu_seconds"]} for name, stage in self.done.items()}

    def _note(self, name: str, note: dict[str, Any]) -> None:
        self.done[name] = note
        self._write()

    def _write(self) -> None:
        with writing(self._folder):
            make_parents(self._folder / RECORD)
        record = {"format": FORMAT, "command": self._command, "stages": self.done}
        write_whole(self._folder / RECORD, json.dumps(record, indent=2) + "\n")

    def _remove(self, file: str) -> None:
        """At once: half of it would count as done, should somebody kill us and want its old inputs again."""
        for path in (self._folder / file, self._folder / f"{file}-unfinished"):
            with writing(path):
                remove(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        return read_json(path, {"stages": {...: NOTE}}, format=FORMAT)
    except (OSError, ValueError) as error:
        raise ExtSubError(
            f"{path} is broken, so nobody knows what was made from what: choose another output"
        ) from error
