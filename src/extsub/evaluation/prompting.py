"""The text around every question of one command: ``--prompt auto`` follows the adapter, then the tokenizer.

Everybody in one command is asked with the same prompt, or their figures could not be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from extsub.data.rows import refusal
from extsub.errors import ExtSubError, RowError
from extsub.evaluation.evaluated_model import EvaluatedModel
from extsub.evaluation.settings import Asking
from extsub.evaluation.task import Items, Task, limited
from extsub.inference.requests import request
from extsub.models.adapter_handle import AdapterHandle, base_of
from extsub.models.base import load_config, load_tokenizer
from extsub.models.prompts import Prompt, PromptOption, has_chat_template, usual_template
from extsub.models.source import ModelName

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Settings = TypeVar("Settings", bound=Asking)


def settled(
    tasks: Sequence[Task],
    items: Mapping[str, Items],
    settings: Settings,
    adapters: Sequence[AdapterHandle],
    base: ModelName | None,
) -> Settings:
    """The settings with the prompt that they mean: ``auto`` is the template that the first adapter was trained with
    that says so, else the tokenizer's chat template, else ours.

    Args:
        tasks: whose questions go into it; that is tried here, before weights are loaded.
        base: the model, for its tokenizer; None where it is on a server, which says nothing of it.

    Raises:
        ExtSubError: a question does not go into it, the adapter's template is not there, or the tokenizer cannot be
            loaded.
    """
    knows = next((adapter for adapter in adapters if adapter.template), None) if settings.prompt == "auto" else None
    prompt = knows.template if knows else settings.prompt
    tokenizer = load_tokenizer(base, load_config(base)) if base and prompt in ("auto", "chat") else None
    if prompt == "auto":
        prompt = usual_template(tokenizer) if tokenizer else "extsub"
    if knows and base and tokenizer and prompt == "chat" and not has_chat_template(tokenizer):
        raise ExtSubError(
            f"{knows.given} was trained with --template chat, and the tokenizer of {base.given} has no chat template: "
            "say which --model it was trained on, or which --prompt to ask with"
        )
    settings = replace(settings, prompt=prompt)
    if prompt != "extsub":  # which takes everything
        for task in tasks:
            _check_questions(task, items[task.name], settings, tokenizer)
    return settings


def with_prompt(
    tasks: Sequence[Task], items: Mapping[str, Items], settings: Settings, evaluated_models: Sequence[EvaluatedModel]
) -> tuple[Settings, list[EvaluatedModel]]:
    """``settled`` for models that are asked one after the other, and the models with what a user should know of it.

    Raises:
        ExtSubError: as ``settled``.
    """
    adapters = [evaluated.adapter for evaluated in evaluated_models if evaluated.adapter]
    base = None if settings.backend == "openai" else base_of(settings.model, adapters)
    asked = settled(tasks, items, settings, adapters, base)
    return asked, [
        replace(evaluated, asked=_notes(evaluated, settings.prompt, asked.asked_with)) for evaluated in evaluated_models
    ]


def _notes(evaluated: EvaluatedModel, given: PromptOption, taken: Prompt) -> tuple[str, ...]:
    if evaluated.adapter:
        return notes_on(evaluated.adapter, given, taken)
    if given == "auto" and "server" in evaluated.record:
        return (f"a server does not say how its model was trained: asked with --prompt {taken}",)
    return ()


def notes_on(adapter: AdapterHandle, given: PromptOption, taken: Prompt) -> tuple[str, ...]:
    """What a user should know of an adapter that is asked with a prompt, in sentences."""
    if adapter.template is None:
        unknown = f"nothing says which template it was trained with: asked with --prompt {taken}"
        return (unknown,) if given == "auto" else ()
    if adapter.template == taken:
        return ()
    return (f"trained with --template {adapter.template}, asked with --prompt {taken}",)


def _check_questions(task: Task, items: Items, settings: Asking, tokenizer: PreTrainedTokenizerBase | None) -> None:
    """Check that every question that will be asked goes into the prompt's text, before the model's weights are loaded.

    Args:
        tokenizer: of the model; None on a server, which writes a chat prompt itself.

    Raises:
        ExtSubError: one does not; the message says where it stands, and how many others do not.
    """
    if settings.asked_with == "chat" and tokenizer is None:
        return
    wrong = []
    for index, item in limited(task, items.items, settings).items():
        try:
            for question in task.questions(item):
                request(question, settings.asked_with, tokenizer)
        except RowError as error:
            wrong.append((items.place(index), error))
    if wrong:
        raise refusal(wrong)
