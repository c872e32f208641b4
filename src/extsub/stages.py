"""The stages of a demo in one folder: one that is finished, and was made from the same inputs, is not repeated."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from extsub.errors import ExtSubError
from extsub.evaluation.store import write_whole

RECORD = "stages.json"


class Stages:
    """What was made in a folder, from which inputs, and how long it took."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        """Say the name of every stage that begins. Raises ExtSubError where the folder holds what no demo wrote."""
        self._folder, self._say = folder, say
        path = folder / RECORD
        if folder.exists() and any(folder.iterdir()) and not path.exists():
            raise ExtSubError(f"{folder} was not written by extsub demo (it has no {RECORD}): choose another output")
        self.done: dict[str, dict[str, Any]] = {}
        if path.exists():
            self.done = json.loads(path.read_text(encoding="utf-8"))
        else:
            folder.mkdir(parents=True, exist_ok=True)
            self._write()

    def make(self, name: str, files: tuple[str, ...], inputs: Any, work: Callable[[], Any]) -> str:
        """Do a stage unless it was done from the same inputs.

        Args:
            files: what it makes in the folder; removed before if they were made from other inputs.
            inputs: JSON values; what an earlier stage made is named by what this returned for it.
            work: makes the files; goes on by itself where it was interrupted. What it returns is kept.

        Returns:
            what names the inputs
        """
        key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]
        before = self.done.get(name, {})
        same, finished = before.get("inputs") == key, before.get("finished", False)
        if same and finished and all((self._folder / file).exists() for file in files):
            return key
        if not same or finished:
            for file in files:
                self._remove(file)
            before = {}
        self._say(name)
        note = {
            "inputs": key,
            "finished": False,
            "seconds": before.get("seconds", 0.0),
            "cpu_seconds": before.get("cpu_seconds", 0.0),
            "found": None,
        }
        self._note(name, note)
        begun = time.perf_counter(), time.process_time()
        try:
            note["found"] = work()
            note["finished"] = True
        finally:
            note["seconds"] = round(note["seconds"] + time.perf_counter() - begun[0], 1)
            note["cpu_seconds"] = round(note["cpu_seconds"] + time.process_time() - begun[1], 1)
            self._note(name, note)
        return key

    def found(self, name: str) -> Any:
        """What a finished stage's work returned."""
        return self.done[name]["found"]

    def seconds(self) -> dict[str, dict[str, float]]:
        """What every stage took, interrupted runs included."""
        return {name: {"wall": one["seconds"], "cpu": one["cpu_seconds"]} for name, one in self.done.items()}

    def _note(self, name: str, note: dict[str, Any]) -> None:
        self.done[name] = note
        self._write()

    def _write(self) -> None:
        write_whole(self._folder / RECORD, json.dumps(self.done, indent=2) + "\n")

    def _remove(self, file: str) -> None:
        for path in (self._folder / file, self._folder / f"{file}-unfinished"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
