"""An OpenAI-compatible server (vLLM, SGLang, llama.cpp) that has the model, perhaps with the adapter."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from extsub.errors import ExtSubError
from extsub.escaping import line
from extsub.extras import require
from extsub.inference.requests import Answer
from extsub.models.prompts import Message, Prompt, render_prompt

AT_ONCE = 16
"""Requests that wait for the server at once; it batches them itself."""
RETRIES = 5
PATIENCE = 600.0
"""Seconds to wait for one answer."""


class Server:
    """Asks for greedy answers. Rendered prompts go to ``/completions``, conversations to ``/chat/completions``."""

    def __init__(self, url: str, model: str, at_once: int | None = None, retries: int | None = None) -> None:
        openai = require("openai", "openai")
        key = os.environ.get("OPENAI_API_KEY", "none")
        self._client = openai.OpenAI(
            base_url=url, api_key=key, max_retries=RETRIES if retries is None else retries, timeout=PATIENCE
        )
        self._errors = openai.OpenAIError
        self.url, self.model, self._at_once = url, model, at_once or AT_ONCE

    def answers(
        self, questions: Mapping[int, Sequence[Message]], prompt: Prompt, max_new_tokens: int
    ) -> Iterator[tuple[str | None, Answer]]:
        """(prompt, answer) as they come; the prompt is None where the server renders it.

        Raises:
            ExtSubError: the server cannot be reached, does not know the model, or refuses.
        """

        def ask(index: int) -> tuple[str | None, Answer]:
            text = None if prompt == "chat" else render_prompt(questions[index], prompt, None, "--prompt")
            choice = self._ask(text, questions[index], max_new_tokens)
            said = choice.message.content if text is None else choice.text
            if prompt == "qa":
                said = (said or "").partition("\nQ:")[0]
            return text, Answer(index, (said or "").strip(), choice.finish_reason != "length")

        with ThreadPoolExecutor(self._at_once) as pool:
            waiting = [pool.submit(ask, index) for index in questions]
            try:
                for one in as_completed(waiting):
                    yield one.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def complete(self, texts: Sequence[str], max_new_tokens: int) -> list[str]:
        """What follows each text, in order."""
        with ThreadPoolExecutor(self._at_once) as pool:
            return [one.text for one in pool.map(lambda text: self._ask(text, (), max_new_tokens), texts)]

    def _ask(self, text: str | None, messages: Sequence[Message], max_new_tokens: int) -> Any:
        common = {"model": self.model, "max_tokens": max_new_tokens, "temperature": 0.0}
        try:
            if text is None:
                conversation: Any = [message._asdict() for message in messages]
                answer = self._client.chat.completions.create(messages=conversation, **common)
            else:
                answer = self._client.completions.create(prompt=text, **common)
        except self._errors as error:
            said = line(" ".join(str(error).split())[:200])
            raise ExtSubError(
                f"{self.url}, model {self.model}: {said}; is the server up, and is that its name?"
            ) from error
        if not answer.choices:
            raise ExtSubError(f"{self.url}: the server gave no answer")
        return answer.choices[0]
