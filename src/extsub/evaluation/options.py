"""Options of tasks. Each task declares its own, and all share their names: on a command line, in a recipe and in Python
nobody need say whose an option is."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, get_type_hints

from extsub.errors import ExtSubError
from extsub.escaping import brief
from extsub.evaluation.settings import EvaluationSettings
from extsub.evaluation.task import Task
from extsub.settings import option

RESERVED = {"json", "quiet", "help", "version", *(field.name for field in fields(EvaluationSettings))}
"""Names that the command line has for every evaluation."""


@dataclass(frozen=True)
class Option:
    """An option of tasks, and which tasks have it."""

    field: Field[Any]
    declared: type[Any]
    """The dataclass that has the field."""
    tasks: tuple[str, ...]
    """The names of the tasks that have the dataclass."""

    @property
    def kind(self) -> Any:
        """The type of its values."""
        return get_type_hints(self.declared, include_extras=True)[self.field.name]

    @property
    def default(self) -> Any:
        """Its value unless it is given; ``MISSING`` where it must be."""
        factory = self.field.default_factory
        return self.field.default if factory is MISSING else factory()


def known_options(tasks: Iterable[Task]) -> dict[str, Option]:
    """All options of these tasks, each by its name."""
    known: dict[str, Option] = {}
    for task in tasks:
        if task.options is not None:
            for field in fields(task.options):
                others = known[field.name].tasks if field.name in known else ()
                known[field.name] = Option(field, task.options, (*others, task.name))
    return known


def check_declared(task: Task, others: Iterable[Task]) -> None:
    """Check that the options of a task can stand beside all others.

    Raises:
        ExtSubError: one has no default, or its name is taken.
    """
    known = known_options(others)
    for name, own in known_options([task]).items():
        if name in RESERVED or (name in known and known[name].declared is not own.declared):
            whose = "every evaluation" if name in RESERVED else ", ".join(known[name].tasks)
            raise ExtSubError(f"{brief(task.name)} has an option {brief(name)}, and so has {whose}: rename it")
        if own.default is MISSING:
            raise ExtSubError(f"{brief(task.name)} has an option {brief(name)} without a default: give it one")


def check_options(chosen: Sequence[Task], tasks: Iterable[Task], settings: EvaluationSettings) -> None:
    """Check that every option that is given belongs to a chosen task, which takes its value.

    Args:
        tasks: all that are known, for the message.

    Raises:
        ExtSubError: one does not; the message says whose it is, or what it may have been meant to be.
    """
    theirs, known = known_options(chosen), known_options(tasks)
    general = [field.name for field in fields(settings)]
    for name in settings.options:
        if name in general:
            raise ExtSubError(f"{option(name)} is not an option of a task: give it beside options, not in them")
        if name not in known:
            close = difflib.get_close_matches(name, [*known, *general], n=1)
            meant = f"did you mean {option(close[0])}?" if close else f"there are {', '.join(map(option, known))}"
            raise ExtSubError(f"{option(brief(name))}: no task has such an option; {meant}")
        if name not in theirs:
            whose = ", ".join(known[name].tasks)
            raise ExtSubError(f"{option(name)} is for {whose}, which is not asked: leave it out, or ask that too")
    for task in chosen:
        if task.options:
            settings.of(task.options)
