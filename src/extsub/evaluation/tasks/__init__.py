"""The benchmarks, one file each; and those that others add."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path

from extsub.errors import ExtSubError
from extsub.escaping import brief
from extsub.evaluation.task import Task
from extsub.evaluation.tasks import ability, drift, flattery, halueval, perplexity, repetition, toxicity
from extsub.evaluation.tasks import truthfulqa_choice as choice
from extsub.evaluation.tasks import truthfulqa_generation as generation

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        choice.MULTIPLE,
        choice.BINARY,
        generation.TASK,
        *halueval.TASKS,
        flattery.TASK,
        toxicity.TASK,
        repetition.TASK,
        perplexity.TASK,
        drift.TASK,
        ability.TASK,
    )
}


def register_task(task: Task) -> None:
    """Make a benchmark known under its name, to `evaluate`, `sweep` and every other command of this process.

    Call it in a file that ``--task-file`` names, or in a package with an entry point of the group ``extsub.tasks``
    that names a `Task`.

    Raises:
        ExtSubError: another task has this name.
    """
    if TASKS.setdefault(task.name, task) is not task:
        raise ExtSubError(f"there is a task called {brief(task.name)} already: give yours another name")


def load_task_files(files: tuple[str, ...]) -> None:
    """Run Python files of the user's own, which register tasks; each once.

    Raises:
        ExtSubError: one is not there, or registers nothing.
    """
    for name in files:
        path = Path(name).expanduser().resolve()
        module = f"extsub_task_file_{path.stem}_{abs(hash(path))}"
        if module in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(module, path) if path.suffix == ".py" else None
        if spec is None or spec.loader is None or not path.is_file():
            raise ExtSubError(f"--task-file {name}: expected a Python file (.py) that calls register_task")
        known = set(TASKS)
        sys.modules[module] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[module])
        except BaseException:
            del sys.modules[module]
            raise
        if known == set(TASKS):
            raise ExtSubError(f"--task-file {name} registers no task: call extsub.tasks.register_task in it")


def check_known(names: Iterable[str], where: str) -> None:
    """Whether tasks that a file names are known in this process.

    Raises:
        ExtSubError: one is not; the message says how to make it known.
    """
    if unknown := [name for name in names if name not in TASKS]:
        raise ExtSubError(
            f"{where}: {brief(unknown[0])} is not a known task: say --task-file and the file that registers it"
        )


for entry in entry_points(group="extsub.tasks"):
    register_task(entry.load())
