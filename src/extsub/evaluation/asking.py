"""Questions to whoever answers: the model in this process, or one on a server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from extsub.errors import RowError
from extsub.prompts import Prompt, Turn, ending, render_answer, render_prompt
from extsub.rows import refusal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from extsub.evaluation.language_model import LanguageModel
    from extsub.evaluation.scoring import Scored
    from extsub.evaluation.sequences import Request
    from extsub.evaluation.server import Server
    from extsub.evaluation.settings import Asking
    from extsub.evaluation.task import Item, Items, Task

OPTION = "--prompt"


class Question(NamedTuple):
    """A conversation that ends with the user, and answers to choose from."""

    turns: Sequence[Turn]
    choices: tuple[str, ...] = ()


class Choice(NamedTuple):
    """How likely the answers to one question are."""

    prompt: str
    scored: Scored

    @property
    def totals(self) -> list[float]:
        """log-likelihoods, in nats"""
        return [one.total for one in self.scored.likelihoods]

    @property
    def tokens(self) -> list[int]:
        """that were scored in each answer"""
        return [one.tokens for one in self.scored.likelihoods]


class Answer(NamedTuple):
    """What was generated after one prompt."""

    index: int
    """of the prompt"""
    text: str
    finished: bool
    """whether it ended by itself"""
    shortened: bool = False
    """whether the prompt lost its beginning"""


def check_questions(
    task: Task, items: Items, chosen: Mapping[int, Item], prompt: Prompt, tokenizer: PreTrainedTokenizerBase | None
) -> None:
    """Whether every question of a task goes into the prompt's text, before the model's weights are loaded.

    Args:
        chosen: the items that will be asked.
        tokenizer: of the model; None on a server, which writes a chat prompt itself.

    Raises:
        ExtSubError: one does not; the message says where it stands, and how many others do not.
    """
    if prompt == "chat" and tokenizer is None:
        return
    wrong = []
    for index, item in chosen.items():
        try:
            for question in task.questions(item):
                request(question, prompt, tokenizer)
        except RowError as error:
            wrong.append((items.place(index), error))
    if wrong:
        raise refusal(wrong)


def request(question: Question, prompt: Prompt, tokenizer: PreTrainedTokenizerBase | None) -> Request:
    """A question as the model reads it, the same as in training.

    Raises:
        RowError: the template does not fit the question or one of its answers.
    """
    from extsub.evaluation.sequences import Request

    asked = render_prompt(question.turns, prompt, tokenizer, OPTION)
    said = [render_answer(asked, question.turns, one, prompt, tokenizer, OPTION) for one in question.choices]
    return Request(asked, tuple(one.text for one in said))


def choose(
    model: LanguageModel, questions: Mapping[int, Question], settings: Asking, end_token: bool = False
) -> Iterator[tuple[int, Choice]]:
    """The log-likelihood of every choice.

    Args:
        end_token: score the end token after each choice too.
    """
    from extsub.evaluation.scoring import score

    requests = {index: request(question, settings.asked_with, model.tokenizer) for index, question in questions.items()}
    for scored in score(
        model,
        requests,
        end_token=end_token,
        special_tokens=settings.asked_with != "chat",
        batch_size=settings.rows_at_once,
        mark=ending(settings.asked_with, model.tokenizer).text,
    ):
        yield scored.index, Choice(requests[scored.index].prompt, scored)


def answer(
    respondent: LanguageModel | Server,
    questions: Mapping[int, Sequence[Turn]],
    settings: Asking,
    max_new_tokens: int,
) -> Iterator[tuple[str | None, Answer]]:
    """(prompt as the model read it, greedy answer) of every question; a server renders chat prompts itself."""
    from extsub.evaluation.decoding import generate_answers
    from extsub.evaluation.server import Server

    if isinstance(respondent, Server):
        yield from respondent.answers(questions, settings.asked_with, max_new_tokens)
        return
    prompt, tokenizer = settings.asked_with, respondent.tokenizer
    end = ending(prompt, tokenizer)
    prompts = {index: render_prompt(turns, prompt, tokenizer, OPTION) for index, turns in questions.items()}
    for one in generate_answers(
        respondent,
        prompts,
        max_new_tokens=max_new_tokens,
        special_tokens=prompt != "chat",
        batch_size=settings.rows_at_once,
        end=end.token,
    ):
        text, is_ended = one.text, one.finished
        if end.text and end.token is None:  # a mark of several tokens, which generation goes beyond
            text, found, _ = text.partition(end.text.strip())
            is_ended = is_ended or bool(found)
        yield prompts[one.index], one._replace(text=tidy(text, settings), finished=is_ended)


def tidy(text: str, settings: Asking) -> str:
    """An answer without what a base model goes on to say after it: with ``qa``, the next question."""
    if settings.asked_with == "qa":
        text = text.partition("\n\nQ:")[0].partition("\nQ:")[0]
    return text.strip()
