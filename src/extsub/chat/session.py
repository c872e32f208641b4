"""A base model in memory with nothing, one adapter, or an expert and its anti-experts on it, to talk to."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from extsub.adapters.adapter import Adapter
from extsub.adapters.load import load_adapter
from extsub.adapters.save import CombinedRecord, save_adapter
from extsub.adapters.writing import PartProgress
from extsub.combination.combine import combine
from extsub.data.messages import whole
from extsub.errors import ExtSubError
from extsub.escaping import brief
from extsub.evaluation.generate import NEW_TOKENS
from extsub.evaluation.prompting import notes_on, settled
from extsub.evaluation.settings import Asking
from extsub.inference import language_model
from extsub.inference.language_model import Base, LanguageModel
from extsub.inference.requests import OPTION
from extsub.inference.streaming import Reply, encode_messages
from extsub.models import adapter_handle
from extsub.models.adapter_handle import AdapterHandle
from extsub.models.attaching import attach
from extsub.models.base import load_config, load_tokenizer
from extsub.models.dial import Dial, joined
from extsub.models.position import STARTS, Position
from extsub.models.prompts import Message, Prompt, PromptOption, check_template
from extsub.models.source import ModelName
from extsub.settings import Dtype

WITHOUT_TURNS = ("qa", "none")
"""Prompts that hold one question and nothing before it."""


class Session:
    """A model in memory that answers, and a dial where there are an expert and anti-experts.

    ``session = Session.open(["expert", "anti-expert"])``, then ``session.set("ext-sub", 1.5)`` and
    ``for piece in session.stream("Who are you?")``. One answer at a time: a new one, or another position, ends an
    answer that is still coming. It starts at the base without an adapter, at the adapter where there is one, and at
    ``ext-sub`` with alpha 1 where there is a dial.
    """

    base: str
    """The base model, as it was named."""
    adapters: tuple[str, ...]
    """The adapters, as they were named: the expert first."""
    prompt: Prompt
    """The prompt template that is asked with."""
    notes: tuple[str, ...]
    """What a user should know, in sentences."""
    max_new_tokens: int
    """The longest answer, in tokens."""
    position: Position
    """Where the dial stands; with one adapter that is ``expert``."""

    def __init__(
        self,
        base: Base,
        handles: Sequence[AdapterHandle] = (),
        adapters: Sequence[Adapter] = (),
        *,
        prompt: Prompt,
        max_new_tokens: int = NEW_TOKENS,
        notes: Sequence[str] = (),
    ) -> None:
        """Put adapters on a base in memory; `open` finds and checks them first.

        Args:
            base: the base model.
            handles: the adapters, as PEFT finds them.
            adapters: the same, read, where there are several.
            prompt: the template to ask with.
            max_new_tokens: the longest answer.
            notes: what a user should know.

        Raises:
            ExtSubError: the adapters do not fit the base, or the base is not a causal language model.
        """
        self.base, self.adapters = base.name.given, tuple(handle.given for handle in handles)
        self.prompt, self.notes, self.max_new_tokens = prompt, tuple(notes), max_new_tokens
        self.position = Position("expert" if handles else "base")
        self._changes_base = any(handle.changes_base for handle in handles)
        self._read = tuple(adapters)
        self._dial = Dial(base.model, *adapters) if adapters else None
        model = LanguageModel(base.model, base.model, base.tokenizer)
        if handles:
            module: Any = self._dial.module if self._dial else attach(base.model, handles[0]).eval()
            model = LanguageModel.adapted(module, base.tokenizer)
        self._model = self._respondent = model.tried()
        self._without_adapter = contextlib.ExitStack()
        self._reply: Reply | None = None
        if self._dial:
            self.set()

    @classmethod
    def open(
        cls,
        adapters: str | PathLike[str] | Sequence[str | PathLike[str]] = (),
        model: str | None = None,
        *,
        prompt: PromptOption = "auto",
        dtype: Dtype = "auto",
        max_new_tokens: int | None = None,
    ) -> Session:
        """Find and check everything, then load the base model with its weights.

        Args:
            adapters: folders or hub ids: one adapter, or an expert and its anti-experts; none for the base alone.
            model: the base, a folder or hub id; unless given, what the adapters name.
            prompt: the text around a question, as `evaluate` takes it: ``auto`` is what the adapter was trained with,
                else the tokenizer's chat template, else ``extsub``.
            dtype: of the weights; ``auto`` is bfloat16 on a GPU that has it, else float32. Processors without
                instructions for bfloat16 only imitate it, many times slower.
            max_new_tokens: the longest answer, unless `stream` is told another; 256 unless given.

        Raises:
            ExtSubError: base or adapters are at fault or do not belong together, or there is no such prompt template.
        """
        asking = Asking(prompt=prompt, max_new_tokens=max_new_tokens)
        given = [adapters] if isinstance(adapters, (str, PathLike)) else adapters
        handles = [adapter_handle.find(str(adapter)) for adapter in given]
        read = [load_adapter(str(adapter)) for adapter in given] if len(handles) > 1 else []
        if read:
            joined(*read)
        name = adapter_handle.base_of(model, handles)
        template = settled((), {}, asking, handles, name).asked_with
        if prompt == "chat":  # of others that is known already
            check_template(template, load_tokenizer(name, load_config(name)), OPTION)
        return cls(
            language_model.load_base(name, dtype),
            handles,
            read,
            prompt=template,
            max_new_tokens=max_new_tokens or NEW_TOKENS,
            notes=_notes(name, handles, prompt, template),
        )

    @property
    def is_dial(self) -> bool:
        """Whether it can be set to an operation: there are an expert and anti-experts."""
        return self._dial is not None

    @property
    def has_turns(self) -> bool:
        """Whether the prompt template holds what was said before; if not, `stream` takes one question at a time."""
        return self.prompt not in WITHOUT_TURNS

    def set(self, operation: str = "ext-sub", alpha: float | Sequence[float] | None = 1.0) -> None:
        """Set the dial; an answer that is still coming ends.

        Args:
            operation: ``base``, ``expert``, ``anti-expert`` (all of them, added up), or what `combine` takes.
            alpha: strength, one for all anti-experts or one for each; ``base`` and the like have none.

        Raises:
            ExtSubError: there is no such position here; the dial stays where it was.
        """
        if operation in STARTS:
            position = Position(operation)
        else:
            alphas = (1.0,) if alpha is None else tuple(alpha) if isinstance(alpha, Sequence) else (alpha,)
            position = Position(operation, alphas[0] if len(alphas) == 1 else alphas)
        self._check(position)
        self.stop()
        if self._dial and position.operation != "base":
            position.set_on(self._dial, self._dial.anti_experts)
        self._without_adapter.close()
        self._respondent = self._model
        if position.operation == "base" and self.adapters:
            plain = self._without_adapter.enter_context(language_model.switched_to(self._model, None))
            self._respondent = replace(plain, soundness=self._model.soundness)
        self.position = position

    def stream(self, messages: str | Sequence[Message], max_new_tokens: int | None = None) -> Reply:
        """The greedy answer, in pieces as they come: together what ``extsub generate`` gives.

        Args:
            messages: a question, or the conversation so far that ends with one.
            max_new_tokens: the longest answer; unless given, the session's.

        Raises:
            ExtSubError: the conversation does not go into the prompt, or the model has no room for so many new tokens;
                while it comes also: memory is too small, or the model's numbers are not numbers.
        """
        self.stop()
        most = max_new_tokens or self.max_new_tokens
        self._reply = Reply(self._respondent, _conversation(messages), self.prompt, most)
        return self._reply

    def fitting(self, messages: Sequence[Message], max_new_tokens: int | None = None) -> list[Message]:
        """The conversation without its oldest turns where the model has no room for all of it; the last message stays.

        Raises:
            ExtSubError: as `stream`.
        """
        messages = _conversation(messages)
        first = sum(message.role == "system" for message in messages[:1])
        system, turns = messages[:first], messages[first:]
        most = max_new_tokens or self.max_new_tokens
        while len(turns) > 1 and encode_messages(self._respondent, system + turns, self.prompt, most).shortened:
            later = (place for place, message in enumerate(turns) if place and message.role == "user")
            turns = turns[next(later, len(turns) - 1) :]
        return system + turns

    def save(
        self, output: str | PathLike[str], overwrite: bool = False, progress: PartProgress = iter
    ) -> CombinedRecord:
        """Write the adapter at the present position, as `combine` and `save_adapter` do.

        Raises:
            ExtSubError: the position is not one of an operation, or the output cannot be written.
        """
        if self.position.operation in STARTS:
            raise ExtSubError(
                f"nothing to save at {self.position.operation}: set an operation and a strength first"
                if self.is_dial
                else "nothing to save: give an expert and an anti-expert, and their combination can be saved"
            )
        alpha = self.position.alpha
        assert alpha is not None
        combined = combine(*self._read, operation=self.position.operation, alpha=alpha)
        return save_adapter(combined, Path(output), overwrite=overwrite, progress=progress)

    def stop(self) -> None:
        """End an answer that is still coming."""
        if self._reply:
            self._reply.close()
            self._reply = None

    def _check(self, position: Position) -> None:
        if position.operation == "base":
            if self._changes_base:
                raise ExtSubError(f"{self.adapters[0]} changed the base when it was loaded: open the base alone")
        elif position.operation == "expert":
            if not self.adapters:
                raise ExtSubError("there is no adapter here, only the base")
        elif not self._dial:
            raise ExtSubError(f"{brief(position.operation)} needs a dial: give an expert and an anti-expert")


def _conversation(messages: str | Sequence[Message]) -> list[Message]:
    given = [Message("user", messages)] if isinstance(messages, str) else messages
    return [Message(role, whole(content, "a message")) for role, content in given]


def _notes(name: ModelName, handles: Sequence[AdapterHandle], given: PromptOption, taken: Prompt) -> tuple[str, ...]:
    """What a user should know of base, adapters and prompt."""
    together = any(handle.source.config.parent == Path(name.name) for handle in handles)
    notes = [] if together else list(name.notes)
    for handle in handles:
        theirs = (*(() if together else handle.source.notes), *handle.notes, *notes_on(handle, given, taken))
        notes += [f"{handle.source.label}: {note}" for note in theirs]
    return tuple(notes)
