"""What can be typed in a conversation beside questions: a slash, a name, perhaps a value."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import NamedTuple

from extsub.chat.conversation import Conversation
from extsub.combination.operations import operation_of
from extsub.errors import ExtSubError
from extsub.escaping import brief
from extsub.models.position import STARTS

QUIT = ("/quit", "/exit")
SAME = {"/reset": "/clear"}
"""Other names of commands."""


class Command(NamedTuple):
    """A command of the conversation."""

    value: str
    """What it takes, as help shows it; empty where that is nothing."""
    help: str
    needs_dial: bool
    run: Callable[[Conversation, str], str]
    """(conversation, value) to what is said of it, in lines."""


def carry_out(conversation: Conversation, line: str) -> str:
    """Do what a line says that begins with a slash.

    Returns:
        what to say of it, in lines; empty where the position says it all

    Raises:
        ExtSubError: there is no such command, or its value is not right.
    """
    name, _, value = line.strip().partition(" ")
    value, command = value.strip(), COMMANDS.get(SAME.get(name, name))
    if command is None:
        raise ExtSubError(f"{brief(name)} is not a command: /help lists them; a question may begin with a space")
    if bool(value) != bool(command.value):
        wanted = f"type {name} {command.value}" if command.value else "it takes nothing"
        raise ExtSubError(f"{name}{f' {brief(value)}' if value else ''}: {wanted}")
    return command.run(conversation, value)


def _alpha(conversation: Conversation, value: str) -> str:
    try:
        alphas = [float(word) for word in value.split()]
    except ValueError:
        raise ExtSubError(f"/alpha {brief(value)}: expected a number, or one for each anti-expert") from None
    operation = conversation.dialled.operation
    return _dial(conversation, "ext-sub" if operation in STARTS else operation, alphas)


def _operation(conversation: Conversation, value: str) -> str:
    alpha = conversation.dialled.alpha
    return _dial(conversation, operation_of(value).name, alpha)


def _dial(conversation: Conversation, operation: str, alpha: float | list[float] | tuple[float, ...] | None) -> str:
    conversation.session.set(operation, alpha)
    conversation.dialled = conversation.session.position
    return ""


def _to_and_fro(start: str) -> Callable[[Conversation, str], str]:
    """A command that goes to a model to start from, and back when it is there."""

    def run(conversation: Conversation, _: str) -> str:
        is_there = conversation.session.position.operation == start
        back = conversation.dialled
        conversation.session.set(*((back.operation, back.alpha) if is_there else (start,)))
        return ""

    return run


def _compare(conversation: Conversation, _: str) -> str:
    if not conversation.session.adapters:
        raise ExtSubError("there is only the base: nothing to compare with")
    conversation.compares = not conversation.compares
    other = "expert" if conversation.session.is_dial else "base"
    return f"{other} answers beside from now on" if conversation.compares else f"{other} answers beside no more"


def _save(conversation: Conversation, value: str) -> str:
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise ExtSubError(f"/save {brief(value)}: {error}") from error
    overwrite = "--overwrite" in words
    names = [word for word in words if word != "--overwrite"]
    if len(names) != 1:
        raise ExtSubError(f"/save {brief(value)}: expected one folder; put a name with spaces in quotes")
    record = conversation.session.save(names[0], overwrite)
    notes = [f"  note: {note}" for note in record["notes"]]
    return "\n".join([f"written: {names[0]}/ ({conversation.name()})", *notes])


def _clear(conversation: Conversation, _: str) -> str:
    conversation.turns = []
    return "what was said is forgotten"


def _help(conversation: Conversation, _: str) -> str:
    shown = {
        f"{name} {command.value}": command.help
        for name, command in COMMANDS.items()
        if conversation.session.is_dial or not command.needs_dial
    }
    shown["/quit"] = "leave, as Ctrl-D does; Ctrl-C stops an answer"
    width = max(map(len, shown))
    return "\n".join(f"{name:{width}}  {help}" for name, help in shown.items())


COMMANDS = {
    "/alpha": Command("A ...", "the strength: one for all anti-experts, or one for each", True, _alpha),
    "/operation": Command("NAME", "ext-sub, contrast, ..., at the same strength", True, _operation),
    "/expert": Command("", "to the expert, and back", True, _to_and_fro("expert")),
    "/base": Command("", "to the base without an adapter, and back", False, _to_and_fro("base")),
    "/compare": Command(
        "", "the expert answers beside (the base beside an adapter alone), or no more", False, _compare
    ),
    "/save": Command("DIR", "write the adapter at this position (DIR --overwrite replaces one)", True, _save),
    "/clear": Command("", "forget what was said (/reset does the same)", False, _clear),
    "/help": Command("", "this list", False, _help),
}
