"""Questions to whoever answers: the model in this process, or one on a server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from extsub.models.prompts import Message, Prompt, ending, render_answer, render_prompt, with_system

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from extsub.inference.encoding import Request
    from extsub.inference.language_model import LanguageModel
    from extsub.inference.log_likelihood import Scored
    from extsub.inference.server import Server

OPTION = "--prompt"
NEXT_QUESTION = "\nQ:"
"""What a base model goes on with after an answer to ``qa``."""


class Question(NamedTuple):
    """A conversation that ends with the user, and answers to choose from."""

    messages: Sequence[Message]
    choices: tuple[str, ...] = ()


class Usage(NamedTuple):
    """The tokens of one answer and of its prompt."""

    prompt_tokens: int
    completion_tokens: int


class Answer(NamedTuple):
    """What was generated after one prompt."""

    index: int
    """The number of the prompt."""
    text: str
    finished: bool
    """Whether it ended by itself."""
    shortened: bool = False
    """Whether the prompt, too long, lost its beginning."""
    usage: Usage | None = None
    """None where a server does not say."""


def request(question: Question, prompt: Prompt, tokenizer: PreTrainedTokenizerBase | None, system: str = "") -> Request:
    """A question as the model reads it, the same as in training.

    Args:
        system: what the model is told before the conversation, if anything.

    Raises:
        RowError: the template does not fit the question or one of its answers.
    """
    from extsub.inference.encoding import Request

    messages = with_system(question.messages, system)
    asked = render_prompt(messages, prompt, tokenizer, OPTION)
    said = [render_answer(asked, messages, choice, prompt, tokenizer, OPTION) for choice in question.choices]
    return Request(asked, tuple(rendered.text for rendered in said))


def choose(
    model: LanguageModel,
    questions: Mapping[int, Question],
    prompt: Prompt,
    batch_size: int | None,
    end_token: bool = False,
) -> Iterator[tuple[int, Scored]]:
    """The log-likelihood of every choice of every question.

    Args:
        batch_size: rows at once; None finds out how many fit.
        end_token: score the end token after each choice too.
    """
    from extsub.inference.log_likelihood import score

    tokenizer = model.tokenizer
    requests = {index: request(question, prompt, tokenizer, model.system) for index, question in questions.items()}
    for scored in score(
        model,
        requests,
        end_token=end_token,
        special_tokens=prompt != "chat",
        batch_size=batch_size,
        mark=ending(prompt, tokenizer).text,
    ):
        yield scored.index, scored._replace(prompt=requests[scored.index].prompt)


def answer(
    respondent: LanguageModel | Server,
    questions: Mapping[int, Sequence[Message]],
    prompt: Prompt,
    batch_size: int | None,
    max_new_tokens: int,
) -> Iterator[tuple[str | None, Answer]]:
    """(prompt as the model read it, greedy answer) of every question; a server renders chat prompts itself.

    Args:
        batch_size: rows at once; None finds out how many fit. A server batches by itself.
    """
    from extsub.inference.generation import generate_answers
    from extsub.inference.server import Server

    if isinstance(respondent, Server):
        yield from respondent.answers(questions, prompt, max_new_tokens)
        return
    tokenizer = respondent.tokenizer
    end = ending(prompt, tokenizer)
    told = {index: with_system(messages, respondent.system) for index, messages in questions.items()}
    prompts = {index: render_prompt(messages, prompt, tokenizer, OPTION) for index, messages in told.items()}
    for reply in generate_answers(
        respondent,
        prompts,
        max_new_tokens=max_new_tokens,
        special_tokens=prompt != "chat",
        batch_size=batch_size,
        end=end.token,
    ):
        text, is_ended = reply.text, reply.finished
        if end.text and end.token is None:  # a mark of several tokens, which generation goes beyond
            text, mark, _ = text.partition(end.text.strip())
            is_ended = is_ended or bool(mark)
        yield prompts[reply.index], reply._replace(text=tidy(text, prompt), finished=is_ended)


def tidy(text: str, prompt: Prompt) -> str:
    """An answer without what a base model goes on to say after it: with ``qa``, the next question."""
    return (text.partition(NEXT_QUESTION)[0] if prompt == "qa" else text).strip()
