"""Options of tasks on the command line: ``evaluate`` and ``sweep`` take those of every task that is known, a user's
own included. Looking for them imports all tasks, so that is done only where one of the two is typed."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Set
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

from cyclopts import App, Group, Parameter

from extsub.cli.app import app
from extsub.console.arguments import as_typed
from extsub.evaluation.settings import EvaluationSettings
from extsub.sweeping.settings import SweepSettings

if TYPE_CHECKING:
    from extsub.evaluation.options import Option

COMMANDS = {"evaluate": EvaluationSettings, "sweep": SweepSettings}
TaskOptions = Annotated[dict[str, Any] | None, Parameter(parse=False)]
"""The options that are given, each by its name. ``offer_options`` puts what is known in the place of this type."""


def offer_options(tokens: list[str]) -> None:
    """Let the command that is typed take the options of all tasks, of those in ``--task-file`` too.

    Raises:
        ExtSubError: a file that ``--task-file`` names is not there, or registers nothing.
    """
    for command, settings in COMMANDS.items():
        if not tokens or tokens[0] not in (command, "--install-completion"):
            continue
        from extsub.evaluation.options import known_options
        from extsub.evaluation.tasks import TASKS, load_task_files

        load_task_files(tuple(_values(tokens, "--task-file")))
        hidden = {name for task in TASKS.values() for name in task.not_swept} if command == "sweep" else set()
        taken = {field.name for field in fields(settings)}
        known = {name: option for name, option in known_options(TASKS.values()).items() if name not in taken}
        signature = app[command].default_command.__annotations__
        signature["options"] = Annotated[_type_of(known, hidden), Parameter(name="*")]  # ty: ignore[invalid-type-form]
        if "tasks" in signature:
            signature["tasks"] = Annotated[str, Parameter(help=f"{', '.join(TASKS)}.")]


def _values(tokens: list[str], option: str) -> Iterator[str]:
    """What is given to an option, ``--option a b`` or ``--option=a``."""
    takes = False
    for token in tokens:
        name, equals, value = token.partition("=")
        if token.startswith("-"):
            takes = name.replace("_", "-") == option
            if takes and equals:
                yield value
        elif takes:
            yield token


def _type_of(options: Mapping[str, Option], hidden: Set[str]) -> Any:
    """What cyclopts reads as options, none of which must be given; some are left out of help."""
    arguments = {}
    for name, option in options.items():
        default = as_typed(option.default)
        help = _help(option.declared).get(name, "") + (f" [default: {default}]" if default else "")
        group = Group(f"Of {', '.join(option.tasks)}", sort_key=4)
        arguments[name] = Annotated[option.kind, Parameter(group=group, help=help, show=name not in hidden)]
    return TypedDict("TaskOptions", arguments, total=False)  # ty: ignore[invalid-argument-type]  names known only here


@functools.cache
def _help(declared: type[Any]) -> dict[str, str]:
    """The text under each field of a dataclass, as cyclopts finds it."""
    reader = App()
    reader.default(declared)
    arguments = reader.assemble_argument_collection(parse_docstring=True)
    return {argument.field_info.name: argument.parameter.help or "" for argument in arguments}
