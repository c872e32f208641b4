"""Conversations as people write them become messages of one form: OpenAI's, ShareGPT's, with content in parts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from extsub.data.formats import describe
from extsub.errors import RowError
from extsub.models.prompts import ROLES, Message

NAMES = {
    "developer": "system",
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
}
"""Roles by the names that others give them."""
TOOLS = ("tool", "function", "function_call", "observation", "tool_call", "tool_response", "ipython")
"""Roles of messages that no person and no model said."""
CALLS = ("tool_calls", "function_call")
REASONING = ("reasoning_content", "reasoning", "thinking")
"""Fields in which some APIs put what a model thought, beside its answer."""


def is_conversation(value: object) -> bool:
    """Whether a value looks like messages: each with a role and what was said."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(message, Mapping) and message.keys() & {"role", "from"} for message in value)
    )


def conversation(value: Any, name: str) -> list[Message]:
    """The messages of a list, each ``role`` and ``content`` or ``from`` and ``value``; a JSON text will do.

    Args:
        value: what a row holds.
        name: its field, for errors.

    Raises:
        RowError: it is not such a list, or a message is a tool's, holds an image, or has no text.
    """
    return [_message(number, message) for number, message in enumerate(_listed(value, name), start=1)]


def split_answer(value: Any, name: str) -> tuple[list[Message], str]:
    """(the conversation so far, the answer to learn), which is the last message.

    Raises:
        RowError: as ``conversation``; or the last two messages are not a question and its answer, or the answer is not
            to be learnt, or more was thought than ``content`` holds.
    """
    *messages, answer = conversation(value, name)
    if len(messages) < 1 or answer.role != "assistant" or not is_question(messages[-1]):
        raise RowError("the last two messages must be a question of the user and the assistant's answer")
    last = _listed(value, name)[-1]
    if last.get("weight") == 0:
        raise RowError("the last answer has weight 0, so it is not to be learnt")
    if beside := [field for field in REASONING if last.get(field)]:
        raise RowError(f"the answer has {beside[0]} beside its content, which is not read", "write it into the content")
    return messages, answer.content


def is_question(message: Message) -> bool:
    """Whether the user says something."""
    return message.role == "user" and bool(message.content.strip())


def whole(value: str, name: str) -> str:
    """A text, as it is.

    Raises:
        RowError: it could not be written as UTF-8.
    """
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RowError(f"{name} holds half a character (a lone surrogate)") from error
    return value


def _listed(value: Any, name: str) -> Sequence[Any]:
    if isinstance(value, str) and value.lstrip().startswith("["):  # in a CSV, say
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise RowError(f"{name} is a text that begins like a list and is not JSON") from error
    if isinstance(value, Mapping) and value and all(isinstance(column, list) for column in value.values()):
        # as datasets has it
        columns = {field: values for field, values in value.items() if isinstance(values, list)}
        value = [dict(zip(columns, fields, strict=False)) for fields in zip(*columns.values(), strict=False)]
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise RowError(f"{name} is not a list of messages")
    return value


def _message(number: int, given: Any) -> Message:
    if not isinstance(given, Mapping):
        raise RowError(f"message {number} is {describe(given)}, expected a role and its content")
    said_role = given.get("role", given.get("from"))
    role = NAMES.get(str(said_role).lower(), str(said_role).lower())
    if role in TOOLS:
        raise RowError(f"message {number} has role {said_role}: tool calls are not read", "leave such rows out")
    if calls := [name for name in CALLS if given.get(name)]:
        raise RowError(f"message {number} has {calls[0]}: tool calls are not read", "leave such rows out")
    if role not in ROLES:
        raise RowError(f"message {number} has role {said_role!r:.40}, expected {', '.join(ROLES)}")
    return Message(role, whole(_text(number, given.get("content", given.get("value"))), "a message"))


def _text(number: int, content: Any) -> str:
    """What a message says; its parts follow one another, as chat templates write them."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        problem = "no content" if content is None else f"{describe(content)} as its content, expected text"
        raise RowError(f"message {number} has {problem}")
    texts = []
    for part in content:
        text = part.get("text") if isinstance(part, Mapping) else part
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        if kind not in ("text", "input_text", "output_text") or not isinstance(text, str):
            raise RowError(f"message {number} holds a part that is not text ({kind!s:.40}): only text is read")
        texts.append(text)
    return "".join(texts)
