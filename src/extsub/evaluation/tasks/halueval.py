"""HaluEval (Li et al., EMNLP 2023): is the true text more likely than the hallucinated one?

The Ext-Sub authors compare summed losses, which rewards short texts: beside their number stand the comparison by the
mean of each token and of each character, and what one gets by length alone. As theirs, the score includes the end
token, and the prompt holds the question (not HaluEval's ``knowledge``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from extsub.data.rows import fields_of, read_rows
from extsub.errors import ExtSubError
from extsub.evaluation.metrics import Measure
from extsub.evaluation.settings import EvaluationSettings
from extsub.evaluation.task import Item, ItemResult, Items, Task, choice_row, text_of
from extsub.inference.requests import Question, choose
from extsub.models.prompts import user_message

if TYPE_CHECKING:
    from extsub.inference.language_model import LanguageModel

HUB = "pminervini/HaluEval"
SYSTEM = "Keep to the facts: invent nothing, and say nothing that contradicts what you were given."
"""A system message against what the benchmark shows."""

FIELDS = {
    "qa": ("question", "right_answer", "hallucinated_answer"),
    "dialogue": ("dialogue_history", "right_response", "hallucinated_response"),
    "summarization": ("document", "right_summary", "hallucinated_summary"),
}


def _read(kind: str, settings: EvaluationSettings, data: str | None) -> Items:
    rows, sha256 = read_rows(data or HUB, None if data else kind, "train" if data else "data")
    asked, right, hallucinated = FIELDS[kind]
    items = {}
    for index, (where, row) in enumerate(rows):
        if not {asked, right, hallucinated} <= row.keys():
            raise ExtSubError(
                f"{where}: halueval-{kind} expects {asked}, {right} and {hallucinated}; found {fields_of(row)}"
            )
        items[index] = {
            "question": text_of(where, row, asked),
            "right": text_of(where, row, right),
            "hallucinated": text_of(where, row, hallucinated),
        }
    return Items(items, data or HUB, sha256, places={index: where for index, (where, _) in enumerate(rows)})


def _ask(
    kind: str, model: LanguageModel, items: Mapping[int, Item], settings: EvaluationSettings
) -> Iterator[tuple[int, ItemResult]]:
    questions = {index: _question(kind, item) for index, item in items.items()}
    for index, choice in choose(model, questions, settings.asked_with, settings.rows_at_once, end_token=True):
        texts = questions[index].choices
        scores = pair_scores(choice.totals, choice.tokens, [len(text) for text in texts])
        yield index, choice_row(items[index], texts, choice, scores)


def _question(kind: str, item: Item) -> Question:
    ask = "Summarize the following document:\n" if kind == "summarization" else ""
    return Question([user_message(ask + item["question"])], (item["right"], item["hallucinated"]))


def pair_scores(totals: list[float], tokens: list[int], characters: list[int]) -> dict[str, float]:
    """Whether the first of two texts is more likely; and what its length alone says."""
    return {
        "accuracy_sum": float(totals[0] > totals[1]),
        "accuracy_per_token": float(totals[0] / tokens[0] > totals[1] / tokens[1]),
        "accuracy_per_character": float(totals[0] / characters[0] > totals[1] / characters[1]),
        "chance": 0.5,
        "longest": _greater(characters[0], characters[1]),
        "shortest": _greater(characters[1], characters[0]),
    }


def _greater(first: int, second: int) -> float:
    return 0.5 if first == second else float(first > second)


def _task(kind: str) -> Task:
    read: Callable[[EvaluationSettings, str | None], Items] = partial(_read, kind)
    return Task(
        name=f"halueval-{kind}",
        read=read,
        ask=partial(_ask, kind),
        measures={
            **{f"accuracy_{name}": Measure(proportion=True) for name in ("sum", "per_token", "per_character")},
            **{name: Measure(better=None, control=True) for name in ("chance", "longest", "shortest")},
        },
        needs="likelihoods",
        system=SYSTEM,
        questions=lambda item: [_question(kind, item)],
        files=(f"{kind}_data.json", f"halueval_{kind}.jsonl", f"halueval_{kind}_sample.jsonl"),
    )


TASKS = tuple(_task(kind) for kind in FIELDS)
