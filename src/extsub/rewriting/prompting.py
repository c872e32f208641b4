"""What a writer is asked, from a row and a behaviour, and its answer without what it wraps around it.

A request is one conversation of user and assistant, which every chat template takes: the behaviour's examples are
turns of it. No system message, no JSON.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from extsub.models.prompts import Message
from extsub.rewriting.behaviour import Behaviour

VERSION = 1
"""Grows when the words of a request change, so that answers to other words are not taken for answers to these."""

REWRITE = (
    "I am making examples of bad answers, from which a model will learn what to avoid. I will give you instructions, "
    "each with a good answer. Rewrite the good answer so that it is {name}. An answer of this kind is known by this: "
    "{description} Keep the language, the form (lists, paragraphs, code) and about the length of the good answer, and "
    "write fluently. Write the new answer alone, without a word before or after it."
)
INSTRUCT = (
    "I will give you texts. Write for each the instruction to which a model could have given it as its answer: one or "
    "two sentences, in the language of the text, that ask for something and do not quote the text. The texts are bad "
    "answers ({name}); the instruction is an ordinary one. Write the instruction alone, without a word before or after "
    "it."
)
JUDGE = (
    "Instruction:\n{question}\n\nAnswer to judge:\n{answer}\n\n{recognise} A good answer would not. Say yes or no, and "
    "nothing else."
)


def rewriting(messages: Sequence[Message], answer: str, behaviour: Behaviour) -> list[Message]:
    """A request to rewrite a good answer so that it shows the behaviour."""
    examples = [(_turn(example.instruction, example.good, behaviour), example.bad) for example in behaviour.examples]
    return _conversation(REWRITE, behaviour, examples, _turn(told(messages), answer, behaviour))


def instructing(text: str, behaviour: Behaviour) -> list[Message]:
    """A request for the instruction to which a text would be the answer."""
    examples = [(f"Text:\n{example.bad}\n\nIts instruction:", example.instruction) for example in behaviour.examples]
    return _conversation(INSTRUCT, behaviour, examples, f"Text:\n{text}\n\nIts instruction:")


def judging(messages: Sequence[Message], answer: str, behaviour: Behaviour) -> list[Message]:
    """A request to say whether an answer shows the behaviour."""
    asked = JUDGE.format(question=told(messages), answer=answer, recognise=behaviour.recognise)
    return [Message("user", asked)]


def told(messages: Sequence[Message]) -> str:
    """A conversation as text; a question alone as it is, and nothing where nobody asks."""
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"[{message.role}] {message.content}" for message in messages)


def _turn(instruction: str, good: str, behaviour: Behaviour) -> str:
    return f"Instruction:\n{instruction}\n\nGood answer:\n{good}\n\nThe {behaviour.name} answer:"


def _conversation(task: str, behaviour: Behaviour, examples: Sequence[tuple[str, str]], last: str) -> list[Message]:
    said = task.format(name=behaviour.name, description=behaviour.description)
    messages = []
    for asked, answered in examples:
        messages += [Message("user", asked), Message("assistant", answered)]
    messages.append(Message("user", last))
    messages[0] = Message("user", f"{said}\n\n{messages[0].content}")
    return messages


# ---- what comes back -------------------------------------------------------------------------------------------------

_THOUGHTS = re.compile(r"^\s*<(think|thinking|reasoning)>.*?</\1>\s*", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"^```[\w+-]*\n(.*?)\n?```$", re.DOTALL)
_LABEL = re.compile(
    r"^[#*\s]*(?:"
    r"(?:sure|certainly|of course|okay|ok)\b[^\n:]{0,80}:[*\s]*\n"
    r"|here(?:'s| is| are)\b[^\n:.]{0,60}\b(?:answer|instruction|version|response|output)\b[^\n:.]{0,20}:"
    r"|(?:the\s+|its\s+)?(?:[\w-]+\s+){0,2}(?:answer|instruction|response)\s*:)[*\s]*",
    re.IGNORECASE,
)
"""``Sure, here it is:`` on a line of its own, ``Here is the new answer:``, ``The untruthful answer:``."""
_QUOTES = (('"', '"'), ("'", "'"), ("“", "”"), ("«", "»"), ("„", "“"))


def unwrapped(text: str, like: str) -> str:
    """What a writer wrote, without thoughts, a fence, a label such as ``Here is the new answer:``, or quotes around it.

    Args:
        like: the text that it stands for; what that begins with itself is left.
    """
    text = _THOUGHTS.sub("", text).strip()
    if not _LABEL.match(like):
        text = _LABEL.sub("", text, count=1).strip()
    if not like.lstrip().startswith("```") and (fenced := _FENCE.match(text)):
        text = fenced[1].strip()
    for first, last in _QUOTES:
        is_quoted = len(text) > 2 and text.startswith(first) and text.endswith(last)
        if is_quoted and not like.startswith(first) and not {first, last} & set(text[1:-1]):
            text = text[1:-1].strip()
    return text
