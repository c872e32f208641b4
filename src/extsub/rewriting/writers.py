"""Who writes and who judges: a model on a server, or one in this process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from extsub.evaluation.evaluated_model import identify
from extsub.evaluation.judges import probability_of_yes
from extsub.inference.batching import free_memory
from extsub.inference.requests import OPTION, Answer, Question, answer, choose
from extsub.inference.server import RefusedRequestError, Server
from extsub.models.base import load_config, load_tokenizer
from extsub.models.prompts import Message, render_prompt, usual_template
from extsub.models.source import find_model
from extsub.rewriting.settings import NegativesSettings
from extsub.settings import Dtype

if TYPE_CHECKING:
    from extsub.inference.language_model import LanguageModel

VERDICT_TOKENS = 16
"""Tokens of a judge's answer."""
Requests = Mapping[int, Sequence[Message]]


@dataclass(frozen=True)
class Respondent:
    """A model that is asked, wherever it is."""

    model: str
    url: str | None
    at_once: int
    """Requests that wait for a server."""
    rows_at_once: int | None
    dtype: Dtype

    @property
    def record(self) -> dict[str, Any]:
        """What tells this respondent from any other, as JSON values.

        Raises:
            ExtSubError: a local model is not there.
        """
        if self.url:
            return {"server": self.url, "served_name": self.model}
        return {**identify(find_model(self.model)), "dtype": self.dtype}

    def shown(self, requests: Requests, max_new_tokens: int) -> list[dict[str, Any]]:
        """Requests as they are sent, without sending them: address and body, or the text that a local model reads."""
        if self.url:
            server, address = Server(self.url, self.model), f"{self.url.rstrip('/')}/chat/completions"
            return [
                {"post": address, "body": server.body(None, messages, max_new_tokens)} for messages in requests.values()
            ]
        model = find_model(self.model)
        tokenizer = load_tokenizer(model, load_config(model))
        prompt = usual_template(tokenizer)
        texts = [render_prompt(messages, prompt, tokenizer, OPTION) for messages in requests.values()]
        return [{"prompt": text, "max_new_tokens": max_new_tokens} for text in texts]

    def write(
        self, requests: Requests, max_new_tokens: int, refused: Callable[[int, RefusedRequestError], None]
    ) -> Generator[Answer]:
        """Greedy answers to the requests, as they come.

        Args:
            refused: is told of each request that a server refuses by itself.

        Raises:
            ExtSubError: the model cannot be loaded or reached, or memory is too small.
        """
        with self._opened() as who:
            if isinstance(who, Server):
                answers = who.answers(requests, "chat", max_new_tokens, refused)
            else:
                prompt = usual_template(who.tokenizer)
                answers = answer(who, requests, prompt, self.rows_at_once, max_new_tokens)
            for _, reply in answers:
                yield reply

    def judge(self, requests: Requests) -> Iterator[tuple[int, float]]:
        """How probably each is answered with yes, of yes and no; a server, which need not tell that, says 1 or 0.

        Raises:
            ExtSubError: as ``write``.
        """
        with self._opened() as who:
            if isinstance(who, Server):
                for _, said in who.answers(requests, "chat", VERDICT_TOKENS):
                    yield said.index, float(said.text.lstrip(" *\"'").lower().startswith("yes"))
                return
            questions = {index: Question(messages, ("Yes", "No")) for index, messages in requests.items()}
            for index, choice in choose(who, questions, usual_template(who.tokenizer), self.rows_at_once):
                yield index, probability_of_yes(*choice.totals)

    @contextlib.contextmanager
    def _opened(self) -> Generator[LanguageModel | Server]:
        if self.url:
            yield Server(self.url, self.model, self.at_once)
            return
        from extsub.inference.language_model import load_base

        base = load_base(find_model(self.model), self.dtype)
        with base.with_adapter(None) as model:
            yield model
        del base, model
        free_memory()


def writer_of(settings: NegativesSettings) -> Respondent:
    """The model that writes, as the settings name it."""
    return Respondent(settings.model, settings.url, settings.concurrency, settings.rows_at_once, settings.dtype)


def judge_of(settings: NegativesSettings) -> Respondent | None:
    """The model that judges, as the settings name it; None where nobody does."""
    if settings.judge is None:
        return None
    return Respondent(settings.judge, settings.judge_url, settings.concurrency, settings.rows_at_once, settings.dtype)
