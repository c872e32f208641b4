"""The benchmarks, one file each; and those that others add."""

from __future__ import annotations

import re
from collections.abc import Iterable

from extsub.algebra import OPERATIONS
from extsub.errors import ExtSubError
from extsub.escaping import brief
from extsub.evaluation.task import Task
from extsub.evaluation.tasks import ability, drift, flattery, halueval, perplexity, repetition, toxicity
from extsub.evaluation.tasks import truthfulqa_choice as choice
from extsub.evaluation.tasks import truthfulqa_generation as generation
from extsub.plugins import entry_points_of, run_files

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
        ExtSubError: another task has this name, or it is none that a file can be called by.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", task.name):
        raise ExtSubError(f"a task cannot be called {brief(task.name)}: take letters, digits, - and _")
    if TASKS.setdefault(task.name, task) is not task:
        raise ExtSubError(f"there is a task called {brief(task.name)} already: give yours another name")


def load_task_files(files: tuple[str, ...]) -> None:
    """Run Python files of the user's own, which register tasks (or operations); each once.

    Raises:
        ExtSubError: one is not there, or registers nothing.
    """
    run_files("--task-file", files, (TASKS, OPERATIONS), "extsub.tasks.register_task")


def check_known(names: Iterable[str], where: str) -> None:
    """Whether tasks that a file names are known in this process.

    Raises:
        ExtSubError: one is not; the message says how to make it known.
    """
    if unknown := [name for name in names if name not in TASKS]:
        raise ExtSubError(
            f"{where}: {brief(unknown[0])} is not a known task: say --task-file and the file that registers it"
        )


for task in entry_points_of("extsub.tasks"):
    register_task(task)
