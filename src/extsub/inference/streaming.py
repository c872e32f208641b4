"""One answer, piece by piece as it comes: the same text that ``requests.answer`` gives when it is whole."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Generator, Iterator, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING

from torch import Tensor

from extsub.errors import ExtSubError
from extsub.inference.batching import free_memory
from extsub.inference.generation import EncodedPrompt, Finite, continued, encode_prompt, ends_of, soundly
from extsub.inference.requests import NEXT_QUESTION, OPTION, tidy
from extsub.models.forward import is_out_of_memory
from extsub.models.prompts import Message, Prompt, ending, render_prompt

if TYPE_CHECKING:
    from extsub.inference.language_model import LanguageModel

UNFINISHED = "\ufffd"
"""What stands for a character of which some bytes are still to come."""


class Reply(Iterator[str]):
    """An answer as it comes: iterate over its pieces; what it was is known when they end."""

    finished: bool = False
    """Whether it ended by itself, and not at the limit of new tokens."""
    shortened: bool
    """Whether the prompt, too long, lost its beginning."""

    def __init__(self, model: LanguageModel, messages: Sequence[Message], prompt: Prompt, max_new_tokens: int) -> None:
        """Nothing is generated before the first piece is asked for.

        Raises:
            ExtSubError: the messages do not go into the prompt, or the model cannot generate or has no room for so many
                new tokens.
        """
        self._tokenizer, self._prompt = model.tokenizer, prompt
        end = ending(prompt, model.tokenizer)
        self._stop = NEXT_QUESTION if prompt == "qa" else end.text.strip() if end.token is None else ""
        self._ends = ends_of(model, end.token)
        encoded = encode_messages(model, messages, prompt, max_new_tokens)
        self.shortened = encoded.shortened
        ((sound, _),) = soundly(model, [encoded], max_new_tokens)
        self._pieces = self._text(_tokens(model, encoded, max_new_tokens, sorted(self._ends), sound.cache))

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Ask for no more of the answer."""
        self._pieces.close()

    def _text(self, new: Generator[int]) -> Generator[str]:
        tokens: list[int] = []
        said = text = ""
        with contextlib.closing(new):
            for token in new:
                self.finished = token in self._ends
                if self.finished:
                    break
                tokens.append(token)
                text = str(self._tokenizer.decode(tokens, skip_special_tokens=True))
                if self._stop and self._stop in text:
                    text, self.finished = text.partition(self._stop)[0], True
                    break
                settled = _settled(text, self._stop)
                if settled.startswith(said) and settled != said:
                    yield settled[len(said) :]
                    said = settled
        if rest := tidy(text, self._prompt)[len(said) :]:
            yield rest


def encode_messages(
    model: LanguageModel, messages: Sequence[Message], prompt: Prompt, max_new_tokens: int
) -> EncodedPrompt:
    """A conversation as the model reads it, as tokens.

    Raises:
        ExtSubError: the messages do not go into the prompt, or the model has no room for so many new tokens.
    """
    text = render_prompt(messages, prompt, model.tokenizer, OPTION)
    return encode_prompt(model, 0, text, max_new_tokens, special_tokens=prompt != "chat")


def _settled(text: str, stop: str) -> str:
    """What stays as it is whatever comes: no half of a character, no beginning of ``stop``, no white space that might
    be the last.
    """
    text = text.rstrip(UNFINISHED)
    begun = next((size for size in range(len(stop) - 1, 0, -1) if text.endswith(stop[:size])), 0)
    return text[: len(text) - begun].strip()


class _UnheardError(Exception):
    """Nobody listens any more."""


def _tokens(model: LanguageModel, prompt: EncodedPrompt, most: int, ends: Sequence[int], cache: bool) -> Generator[int]:
    """The most likely tokens, each as soon as it is known.

    transformers returns when the last one is, so it works in a thread, which stops before the next token when the
    generator is closed.
    """
    ready: SimpleQueue[int | BaseException | None] = SimpleQueue()
    unheard, finite, begun = threading.Event(), Finite([prompt.index]), False

    def hand_over(ids: Tensor, scores: Tensor) -> Tensor:
        nonlocal begun
        if unheard.is_set():
            raise _UnheardError
        if begun:  # before that, the last token is the prompt's
            ready.put(int(ids[0, -1]))
        begun = True
        return finite(ids, scores)

    def work() -> None:
        try:
            new = continued(model, [prompt.tokens], most, ends, hand_over, cache)
            ready.put(int(new[0, -1]))
            ready.put(None)
        except BaseException as error:
            ready.put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (token := ready.get()) is not None:
            if isinstance(token, BaseException):
                raise _explained(token, len(prompt.tokens) + most)
            yield token
    finally:
        unheard.set()
        thread.join()


def _explained(error: BaseException, tokens: int) -> BaseException:
    if not is_out_of_memory(error):
        return error
    free_memory()
    return ExtSubError(f"out of memory with {tokens:,} tokens: use --dtype bfloat16, or a larger machine")
