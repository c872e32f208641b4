"""How well a model predicts a text, or the answers of instruction data: exp of the mean loss of all tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from extsub.data.rows import has, read_rows, read_text
from extsub.errors import ExtSubError
from extsub.evaluation.metrics import Measure
from extsub.evaluation.settings import EvaluationSettings
from extsub.evaluation.task import Item, ItemResult, Items, Task, conversation, examples_of, text_of
from extsub.inference.requests import Question, choose
from extsub.models.tokenization import start_token

if TYPE_CHECKING:
    from extsub.inference.encoding import Continuation
    from extsub.inference.language_model import LanguageModel

WINDOW = 2048
"""Tokens of a text that are read together, or as many as the model takes if those are fewer."""


def _read(settings: EvaluationSettings, data: str | None) -> Items:
    if data is None:
        raise ExtSubError("perplexity needs a text or instruction file: give it with --data")
    if data.endswith(".txt"):
        text, sha256 = read_text(data)
        parts = [part.strip() for part in text.split("\n\n")]
        return Items(dict(enumerate({"text": part} for part in parts if part)), data, sha256)
    rows, sha256 = read_rows(data)
    name = settings.field.get("text", "text")
    if set(settings.field) <= {"text"} and (settings.field or has(rows[0][1], name)):
        return Items(
            {index: {"text": text_of(*located_row, name)} for index, located_row in enumerate(rows)}, data, sha256
        )
    return examples_of(data, settings)


def _ask(
    model: LanguageModel, items: Mapping[int, Item], settings: EvaluationSettings
) -> Iterator[tuple[int, ItemResult]]:
    from extsub.inference.encoding import EncodedRequest
    from extsub.inference.log_likelihood import score_rows

    texts = {index: item["text"] for index, item in items.items() if "text" in item}
    encoded = [EncodedRequest(index, tuple(_windows(model, index, text)), False) for index, text in texts.items()]
    for scored in score_rows(model, encoded, settings.rows_at_once):
        total = sum(part.total for part in scored.likelihoods)
        yield scored.index, _row(items[scored.index], total, sum(part.tokens for part in scored.likelihoods))
    questions = {index: question for index, item in items.items() for question in _questions(item)}
    for index, choice in choose(model, questions, settings.asked_with, settings.rows_at_once, end_token=True):
        row = _row(items[index], choice.totals[0], choice.tokens[0])
        yield index, {**row, "prompt": choice.prompt, "shortened": choice.shortened}


def _questions(item: Item) -> list[Question]:
    return [Question(conversation(item), (item["answer"],))] if "messages" in item else []


def _row(item: Item, log_likelihood: float, tokens: int) -> ItemResult:
    scores = {"perplexity": [-log_likelihood, tokens]}
    return {**item, "log_likelihood": log_likelihood, "tokens": tokens, "scores": scores}


def _windows(model: LanguageModel, index: int, text: str) -> Iterator[Continuation]:
    """Every token once: after the start token or, in later windows, after the last token of the window before."""
    from extsub.inference.encoding import Continuation

    tokens = model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    tokens, step = [start_token(model.tokenizer), *tokens], min(WINDOW, model.longest or WINDOW) - 1
    model.check_tokens(index, tokens)
    for start in range(0, len(tokens) - 1, step):
        yield Continuation(tokens[start : start + step + 1], 1)


TASK = Task(
    name="perplexity",
    read=_read,
    ask=_ask,
    measures={"perplexity": Measure(better="lower", perplexity=True)},
    needs="likelihoods",
    questions=_questions,
    settings=("field",),
    has_long_items=True,
)
