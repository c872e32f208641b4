"""Items on disk as they are done, so that an interrupted run goes on where it stopped; results when all are.

DIR/results.json            figures of all tasks, and how they were made
DIR/TASK.jsonl              one row for each item
DIR/.TASK.RANK.partial      rows as they come, while the task runs; the first line says which run they belong to
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import IO, Any, TypedDict

from extsub.adapters.scores import FigureRecord
from extsub.errors import ExtSubError
from extsub.escaping import shown
from extsub.files.disk import check_writable, writing
from extsub.files.locks import locked
from extsub.files.reading import read_bytes, read_json
from extsub.files.staging import check_place
from extsub.files.writing import make_parents, remove_empty, write_whole

RESULTS = "results.json"
FORMAT = 1
"""The format number of ``results.json`` (docs/files.md)."""
NUMBER = (int, float)
FIGURES = {...: {...: {"value": NUMBER, "ci95": [NUMBER, NUMBER], "n": int}}}
"""The shape of a model's figures: task -> metric -> figure."""
SHAPE = {"model": dict, "tasks": FIGURES, "runs": {...: {"identity": {"data": object, "limit": object}}}}
"""The shape of ``results.json``, as far as it is read."""


class RunRecord(TypedDict):
    """How the figures of one task were made."""

    identity: dict[str, Any]
    """What must be the same for a run to go on: task, data, model, settings."""
    data: str
    items: int
    shortened: int
    """Prompts that were too long and lost their beginning."""
    unfinished: int
    """Answers that reached the limit of new tokens."""
    notes: list[str]
    """What a user should know, in sentences."""
    seconds: float
    processes: int
    device: str
    versions: dict[str, str]


class Results(TypedDict, total=False):
    """What ``results.json`` holds for one model (docs/files.md); nothing where there is no such file."""

    format: int
    model: dict[str, Any]
    """The base and the adapter, with their hashes."""
    tasks: dict[str, dict[str, FigureRecord]]
    """The figure of each score of each task."""
    runs: dict[str, RunRecord]
    """How each task was asked."""


class Store:
    """The rows of one task in one folder, made with the first; without one they are only in memory."""

    def __init__(self, folder: Path | None, task: str, rank: int, final: Path | None = None) -> None:
        self._folder, self._task, self._rank, self._final = folder, task, rank, final
        self._file: IO[str] | None = None

    def begin(self, identity: dict[str, Any], overwrite: bool) -> dict[int, dict[str, Any]]:
        """Read the rows that earlier runs of the same task left. Called by one process, before any other writes.

        Raises:
            ExtSubError: they left rows of another run, which are not to be replaced.
        """
        if self._folder is None:
            return {}
        rows: dict[int, dict[str, Any]] = {}
        for path in self._partial():
            lines = _complete_lines(path)
            if lines and lines[0] != identity:
                if not overwrite:
                    raise ExtSubError(
                        f"{self._folder} holds an interrupted run of {self._task} with {changed(lines[0], identity)}: "
                        "choose another output, or pass --overwrite to give it up"
                    )
                lines = []
            for row in lines[1:]:
                rows[row["index"]] = {**rows.get(row["index"], {}), **row}
        # One file again, under this process's name: their number may be another now.
        self._collect(identity, rows)
        return rows

    def _collect(self, identity: dict[str, Any], rows: dict[int, dict[str, Any]]) -> None:
        paths = self._partial()
        if not rows:
            for path in paths:
                path.unlink()
            return
        assert self._folder is not None
        whole = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in (identity, *rows.values()))
        write_whole(self._path(0), whole)
        for path in paths:
            if path != self._path(0):
                path.unlink()

    def add(self, identity: dict[str, Any], row: dict[str, Any]) -> None:
        """Save a row that is done (again, with its scores)."""
        if self._folder is None:
            return
        path = self._path(self._rank)
        with writing(path, "the same command goes on"):
            if self._file is None:
                path.parent.mkdir(parents=True, exist_ok=True)
                is_new = not path.exists()
                self._file = path.open("a", encoding="utf-8")
                if is_new:
                    self._file.write(json.dumps(identity, ensure_ascii=False) + "\n")
            self._file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def finish(self, rows: Iterable[dict[str, Any]]) -> None:
        """Write all rows in order, in place of the partial files. Called by one process, after all have closed."""
        if self._folder is None:
            return
        text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        write_whole(self._final or self._folder / f"{self._task}.jsonl", text)

    def forget(self) -> None:
        """Remove the partial files: the results are written."""
        for path in self._partial():
            path.unlink(missing_ok=True)

    def _partial(self) -> list[Path]:
        return [] if self._folder is None else sorted(self._folder.glob(f".{self._task}.*.partial"))

    def _path(self, rank: int) -> Path:
        assert self._folder is not None
        return self._folder / f".{self._task}.{rank}.partial"


def _complete_lines(path: Path) -> list[dict[str, Any]]:
    """All but a last line that a kill cut off."""
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            lines.append(json.loads(line))
        except (ValueError, RecursionError):
            break
    return lines


def changed(theirs: dict[str, Any], ours: dict[str, Any]) -> str:
    """The first setting that two runs do not have in common."""
    for name in ours:
        if theirs.get(name) != ours[name]:
            return f"another {name.replace('_', ' ')} ({shown(theirs.get(name))}, now {shown(ours[name])})"
    return "other settings"


def read_results(folder: Path) -> Results:
    """What ``results.json`` holds; nothing if there is none.

    Raises:
        ExtSubError: it was not written by extsub.
    """
    path = folder / RESULTS
    if not path.exists():
        return {}
    try:
        results = read_json(path, SHAPE, format=FORMAT)
        if results["tasks"].keys() - results["runs"].keys():
            raise ValueError("figures of no run")
    except (OSError, ValueError) as error:
        raise ExtSubError(f"{path} was not written by extsub evaluate: choose another folder") from error
    return results


def read_items(folder: Path, task: str) -> dict[int, dict[str, Any]]:
    """The rows of a finished task, each under its index.

    Raises:
        ExtSubError: they are not there, or broken.
    """
    path = folder / f"{task}.jsonl"
    try:
        lines = read_bytes(path, largest=None).decode("utf-8").split("\n")
        return {row["index"]: row for row in map(json.loads, filter(None, lines))}
    except OSError as error:
        raise ExtSubError(
            f"{path}: {(error.strerror or 'cannot be read').lower()}; it lies beside results.json"
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ExtSubError(f"{path} is broken: evaluate again, with --overwrite") from error


@contextlib.contextmanager
def working_in(folder: Path | None) -> Generator[None]:
    """Hold the folder alone; take it away again if nothing is in it.

    Raises:
        ExtSubError: it cannot be made or written in, or another run works in it.
    """
    if folder is None:
        yield
        return
    check_place(folder)
    check_writable(folder)
    with writing(folder):
        created = make_parents(folder / RESULTS)
    with locked(folder, folder) as ours:
        try:
            yield
        finally:
            if ours():  # and not another's, begun anew in its place
                remove_empty(created)
