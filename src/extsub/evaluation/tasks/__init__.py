"""The benchmarks, one file each; those that others add; and those that a user names."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable, Sequence

from extsub.algebra import OPERATIONS
from extsub.errors import ExtSubError
from extsub.escaping import brief
from extsub.evaluation.options import check_declared, check_options
from extsub.evaluation.settings import EvaluationSettings
from extsub.evaluation.task import Task
from extsub.evaluation.tasks import ability, drift, flattery, halueval, perplexity, repetition, toxicity
from extsub.evaluation.tasks import truthfulqa_choice as choice
from extsub.evaluation.tasks import truthfulqa_generation as generation
from extsub.extras import check_installed
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
        ExtSubError: another task has this name, no file can be called by it, or an option of the task cannot stand
            beside the others.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", task.name):
        raise ExtSubError(f"a task cannot be called {brief(task.name)}: take letters, digits, - and _")
    if TASKS.get(task.name, task) is not task:
        raise ExtSubError(f"there is a task called {brief(task.name)} already: give yours another name")
    check_declared(task, TASKS.values())
    TASKS[task.name] = task


def load_task_files(files: tuple[str, ...]) -> None:
    """Run Python files of the user's own, which register tasks (or operations); each once.

    Raises:
        ExtSubError: one is not there, or registers nothing.
    """
    run_files("--task-file", files, (TASKS, OPERATIONS), "extsub.tasks.register_task")


def tasks_named(names: Sequence[str], settings: EvaluationSettings) -> list[Task]:
    """The tasks of these names.

    Raises:
        ExtSubError: one is unknown, or cannot be asked so; an option belongs to none of them, or its value cannot be.
    """
    load_task_files(settings.task_file)
    if not names:
        several = (value for value in settings.options.values() if isinstance(value, tuple))
        given = itertools.chain(settings.adapter, settings.data, *several)
        if taken := next((value for value in given if value in TASKS), None):
            raise ExtSubError(f"no task: {taken} was taken for a value of the option before it; write tasks first")
        raise ExtSubError(f"no task: name one or more of {', '.join(TASKS)}")
    for name in names:
        if name not in TASKS:
            raise ExtSubError(f"{brief(name)}: no such task; {_meant(name)} There are {', '.join(TASKS)}")
    chosen = [TASKS[name] for name in dict.fromkeys(names)]
    for task in chosen:
        if settings.backend == "openai" and task.needs != "answers":
            possible = ", ".join(name for name, known in TASKS.items() if known.needs == "answers")
            raise ExtSubError(
                f"--backend openai gives answers, and {task.name} needs likelihoods or a tokenizer: over a server one "
                f"can ask {possible}"
            )
    check_options(chosen, TASKS.values(), settings)
    _check_libraries(chosen, settings)
    return chosen


def _meant(name: str) -> str:
    """What an unknown name may stand for."""
    if close := difflib.get_close_matches(name, TASKS, n=1):
        return f"did you mean {close[0]}?"
    return " ".join(task.for_others.format(name=brief(name)) for task in TASKS.values() if task.for_others)


def _check_libraries(tasks: Sequence[Task], settings: EvaluationSettings) -> None:
    """What will be imported is installed."""
    needed = {"peft": "evaluate", **({"openai": "openai"} if settings.url else {})}
    for task in tasks:
        needed |= task.libraries
    for library, extra in needed.items():
        check_installed(library, extra)


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
