"""An OpenAI-compatible server (vLLM, SGLang, llama.cpp, a hosted one) that has the model, perhaps with the adapter."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from typing import Any
from urllib.parse import urlsplit

from extsub.errors import ExtSubError
from extsub.escaping import brief, line
from extsub.extras import require
from extsub.inference.requests import OPTION, Answer, Usage, tidy
from extsub.inference.retrying import retried
from extsub.models.prompts import Message, Prompt, render_prompt

AT_ONCE = 16
"""Requests that wait for the server at once; it batches them itself."""
RETRIES = 7
"""Further attempts where a server is busy, broken or silent: a minute, or as long as it asks for with Retry-After."""
PATIENCE = 600.0
"""Seconds to wait for one answer."""
MAY_PASS = (408, 409, 425, 429)
"""HTTP statuses, beside those from 500 on, with which the same request may be answered later."""
OF_ONE_REQUEST = (400, 413, 422)
"""HTTP statuses with which one request may be refused (it is too long, say) and others answered."""
LIMITS = ("max_tokens", "max_completion_tokens")
"""How the most tokens of an answer are called: everywhere, and by OpenAI's own reasoning models."""
KEY = "OPENAI_API_KEY"
"""The environment variable that holds the key."""


class RefusedRequestError(ExtSubError):
    """The server refuses this one request, and may answer others."""


class _GarbledError(Exception):
    """The server answered with something that is not an answer."""


def check_url(url: str) -> None:
    """Check the address of a server, which will stand in files and messages.

    Raises:
        ExtSubError: it is not an http address, or holds a name, a password or a query, in which a key may stand.
    """
    try:
        parts = urlsplit(url)
        is_whole = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        is_whole = False
    if not is_whole:
        raise ExtSubError(f"--url {brief(url)}: expected an address such as http://localhost:8000/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ExtSubError(
            f"--url: expected an address without user, password or query, since it is written down; the key is in {KEY}"
        )


class Server:
    """A server of greedy answers: to rendered prompts at ``/completions``, to chats at ``/chat/completions``."""

    def __init__(self, url: str, model: str, at_once: int | None = None, retries: int | None = None) -> None:
        self._openai: Any = require("openai", "openai")
        self._key = os.environ.get(KEY) or "none"
        # no retries of the client's own: it knows neither garbage nor a long Retry-After
        self._client = self._openai.OpenAI(base_url=url, api_key=self._key, max_retries=0, timeout=PATIENCE)
        self._retries = RETRIES if retries is None else retries
        self.url, self.model, self._at_once = url, model, at_once or AT_ONCE
        self._stop = threading.Event()
        self._limit, self._greedy = LIMITS[0], {"temperature": 0.0}

    def answers(
        self,
        questions: Mapping[int, Sequence[Message]],
        prompt: Prompt,
        max_new_tokens: int,
        refused: Callable[[int, RefusedRequestError], None] | None = None,
    ) -> Iterator[tuple[str | None, Answer]]:
        """(prompt, answer) as they come; the prompt is None where the server renders it.

        Args:
            refused: is told of each question that the server refuses by itself; unless given, the first is an error.

        Raises:
            ExtSubError: the server cannot be reached, does not know the model, or refuses; what it answered by then
                comes first.
        """

        def ask(index: int) -> tuple[str | None, Answer]:
            text = None if prompt == "chat" else render_prompt(questions[index], prompt, None, OPTION)
            choice, usage = self._ask(text, questions[index], max_new_tokens)
            said = choice.message.content if text is None else choice.text
            said = (said or "").encode(errors="replace").decode()  # without halves of characters
            return text, Answer(index, tidy(said, prompt), choice.finish_reason != "length", usage=usage)

        failed: ExtSubError | None = None
        with ThreadPoolExecutor(self._at_once) as pool:
            waiting = {pool.submit(ask, index): index for index in questions}
            try:
                for request in as_completed(waiting):
                    try:
                        answered = request.result()
                    except CancelledError:
                        continue
                    except ExtSubError as error:
                        if refused and isinstance(error, RefusedRequestError):
                            refused(waiting[request], error)
                            continue
                        failed = failed or error
                        self._stop.set()
                        for other in waiting:
                            other.cancel()
                        continue
                    yield answered
            finally:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                self._stop.clear()
        if failed:
            raise failed

    def complete(self, texts: Sequence[str], max_new_tokens: int) -> list[str]:
        """What follows each text, in the order of the texts."""
        with ThreadPoolExecutor(self._at_once) as pool:
            asked = pool.map(lambda text: self._ask(text, (), max_new_tokens), texts)
            return [choice.text for choice, _ in asked]

    def body(self, text: str | None, messages: Sequence[Message], max_new_tokens: int) -> dict[str, Any]:
        """The JSON that is sent: a rendered prompt, or where there is none a conversation."""
        said: dict[str, Any] = (
            {"messages": [message._asdict() for message in messages]} if text is None else {"prompt": text}
        )
        return {"model": self.model, **said, self._limit: max_new_tokens, **self._greedy}

    def _ask(self, text: str | None, messages: Sequence[Message], max_new_tokens: int) -> tuple[Any, Usage | None]:
        """(the choice, what it took)"""
        asked = self._client.chat.completions if text is None else self._client.completions

        def ask() -> tuple[Any, Usage | None]:
            return _checked(asked.create(**self.body(text, messages, max_new_tokens)), text is None)

        try:
            return retried(ask, self._may_pass, self._retries, self._stop)
        except (self._openai.OpenAIError, _GarbledError, ValueError) as error:  # ValueError: not JSON
            raise self._explained(error) from error

    def _may_pass(self, error: Exception) -> bool:
        status = getattr(error, "status_code", None)
        if status is None:  # no answer, or nonsense
            return isinstance(error, (self._openai.APIError, _GarbledError, ValueError))
        return status in MAY_PASS or status >= 500 or self._adapted(error)

    def _adapted(self, error: Any) -> bool:
        """Whether it is said otherwise from now on: OpenAI's reasoning models refuse what all others understand."""
        if not str(getattr(error, "code", "")).startswith("unsupported"):
            return False
        if error.param == LIMITS[0]:
            self._limit = LIMITS[1]
        if error.param == "temperature":
            self._greedy = {}
        return error.param in (LIMITS[0], "temperature")

    def _explained(self, error: Exception) -> ExtSubError:
        said = line(" ".join(str(error).replace(self._key, "***").split())[:200])
        told = f"{self.url}, model {self.model}: {said}"
        if getattr(error, "status_code", None) in OF_ONE_REQUEST:
            return RefusedRequestError(told)
        return ExtSubError(f"{told}; is the server up, and is that its name?")


def _checked(answer: Any, is_chat: bool) -> tuple[Any, Usage | None]:
    """The first choice of an answer, whose text there is, and what it took, where the server says so."""
    choices = getattr(answer, "choices", None)
    if not isinstance(choices, list) or not choices:
        raise _GarbledError("the server gave no answer")
    choice = choices[0]
    said = getattr(getattr(choice, "message", None), "content", None) if is_chat else getattr(choice, "text", None)
    if not isinstance(said, str) and not (is_chat and said is None and getattr(choice, "message", None)):
        raise _GarbledError("the server gave an answer without text")
    used = getattr(answer, "usage", None)
    read, wrote = getattr(used, "prompt_tokens", None), getattr(used, "completion_tokens", None)
    return choice, Usage(read, wrote) if isinstance(read, int) and isinstance(wrote, int) else None
