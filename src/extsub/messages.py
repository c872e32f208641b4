"""Conversations as people write them become turns: OpenAI's messages, ShareGPT's conversations, content in parts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from extsub.errors import RowError
from extsub.formats import describe
from extsub.prompts import ROLES, Turn

NAMES = {
    "developer": "system",
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
}
"""what others call our roles"""
TOOLS = ("tool", "function", "function_call", "observation", "tool_call", "tool_response", "ipython")
"""roles of messages that no person and no model said"""
CALLS = ("tool_calls", "function_call")
REASONING = ("reasoning_content", "reasoning", "thinking")
"""where some APIs put what a model thought, beside its answer"""


def is_conversation(value: object) -> bool:
    """Whether a value looks like messages: each with a role and what was said."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, Mapping) and one.keys() & {"role", "from"} for one in value)
    )


def conversation(messages: Any, name: str = "messages") -> list[Turn]:
    """The turns of a list of messages, each ``role`` and ``content`` or ``from`` and ``value``; a JSON text will do.

    Args:
        messages: what a row holds.
        name: its field, for errors.

    Raises:
        RowError: it is no such list, or a message is a tool's, holds an image, or has no text.
    """
    return [_turn(number, one) for number, one in enumerate(_listed(messages, name), start=1)]


def learnt(messages: Any, name: str = "messages") -> tuple[list[Turn], str]:
    """(the conversation so far, the answer to learn), which is the last message.

    Raises:
        RowError: as ``conversation``; or the last two messages are no question and answer, or the answer is not to be
            learnt, or more was thought than ``content`` holds.
    """
    *turns, answer = conversation(messages, name)
    if len(turns) < 1 or answer.role != "assistant" or not is_question(turns[-1]):
        raise RowError("the last two messages must be a question of the user and the assistant's answer")
    last = _listed(messages, name)[-1]
    if last.get("weight") == 0:
        raise RowError("the last answer has weight 0, so it is not to be learnt")
    if beside := [field for field in REASONING if last.get(field)]:
        raise RowError(f"the answer has {beside[0]} beside its content, which is not read", "write it into the content")
    return turns, answer.content


def is_question(turn: Turn) -> bool:
    """Whether the user says something."""
    return turn.role == "user" and bool(turn.content.strip())


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


def _listed(messages: Any, name: str) -> Sequence[Any]:
    if isinstance(messages, str) and messages.lstrip().startswith("["):  # in a CSV, say
        try:
            messages = json.loads(messages)
        except (ValueError, RecursionError) as error:
            raise RowError(f"{name} is a text that begins like a list and is no JSON") from error
    if isinstance(messages, Mapping) and messages and all(isinstance(one, list) for one in messages.values()):
        columns = {
            field: values for field, values in messages.items() if isinstance(values, list)
        }  # as datasets has it
        messages = [dict(zip(columns, one, strict=False)) for one in zip(*columns.values(), strict=False)]
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise RowError(f"{name} is no list of messages")
    return messages


def _turn(number: int, message: Any) -> Turn:
    if not isinstance(message, Mapping):
        raise RowError(f"message {number} is {describe(message)}, expected a role and its content")
    given = message.get("role", message.get("from"))
    role = NAMES.get(str(given).lower(), str(given).lower())
    if role in TOOLS:
        raise RowError(f"message {number} has role {given}: tool calls are not read", "leave such rows out")
    if calls := [name for name in CALLS if message.get(name)]:
        raise RowError(f"message {number} has {calls[0]}: tool calls are not read", "leave such rows out")
    if role not in ROLES:
        raise RowError(f"message {number} has role {given!r:.40}, expected {', '.join(ROLES)}")
    return Turn(role, whole(_text(number, message.get("content", message.get("value"))), "a message"))


def _text(number: int, content: Any) -> str:
    """What a message says; its parts follow one another, as chat templates write them."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        found = "no content" if content is None else f"{describe(content)} as its content, expected text"
        raise RowError(f"message {number} has {found}")
    texts = []
    for part in content:
        text = part.get("text") if isinstance(part, Mapping) else part
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        if kind not in ("text", "input_text", "output_text") or not isinstance(text, str):
            raise RowError(f"message {number} holds a part that is no text ({kind!s:.40}): only text is read")
        texts.append(text)
    return "".join(texts)
