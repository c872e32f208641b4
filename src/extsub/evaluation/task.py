"""What a benchmark is: where its items come from, how a model is asked, what its figures mean."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from extsub.data.instructions import Prompts, load_data, load_prompts
from extsub.data.rows import has, reach
from extsub.errors import ExtSubError
from extsub.escaping import shown
from extsub.evaluation.metrics import Measure, Scores
from extsub.evaluation.settings import Asking, EvaluationSettings
from extsub.files.reading import located
from extsub.inference.requests import Question, answer
from extsub.models.prompts import Message
from extsub.settings import json_values

if TYPE_CHECKING:
    from extsub.evaluation.evaluated_model import EvaluatedModel
    from extsub.inference.language_model import LanguageModel
    from extsub.inference.log_likelihood import Scored
    from extsub.inference.server import Server

Item = dict[str, Any]
"""One question with what is needed to score it, as JSON values."""
ItemResult = dict[str, Any]
"""An item with what the model made of it; figures are made of its ``scores``."""


@dataclass(frozen=True)
class Items:
    """The items of a task, each under its number in the data."""

    items: dict[int, Item]
    data: str
    sha256: str
    notes: tuple[str, ...] = ()
    places: Mapping[int, str] = field(default_factory=dict)
    """Where each item stands (file and line), as far as it stands in a file."""

    def place(self, index: int) -> str:
        """Where an item stands, for errors."""
        return self.places.get(index, f"{self.data}, item {index}")


@dataclass(frozen=True)
class Task:
    """A benchmark: how its items are read, asked and scored, and what its scores mean."""

    name: str
    read: Callable[[EvaluationSettings, str | None], Items]
    """(settings, data) -> items; ``data`` is None where the user gave none"""
    ask: Callable[[Any, Mapping[int, Item], Any], Iterator[tuple[int, ItemResult]]]
    """(LanguageModel, Server or tokenizer, as it ``needs``; items; settings) -> rows as they are ready; one that needs
    a judge has no ``scores`` yet"""
    measures: Mapping[str, Measure]
    """What its scores mean; a strength is chosen by the first that can be better or worse, unless another is named."""
    needs: Literal["likelihoods", "answers", "tokenizer"]
    questions: Callable[[Item], Sequence[Question]] = lambda _: ()
    """From an item to what the model is asked, so that it can be checked before the model is loaded."""
    judge: Callable[[Mapping[int, ItemResult], Any], Iterator[tuple[int, ItemResult]]] | None = None
    """Scores rows after the model was put away: (rows, settings) -> rows with ``scores``."""
    check: Callable[[Any], tuple[str, ...]] | None = None
    """(settings) -> refuses if what judges is not there; asked before answers are made for it"""
    others: Measure = field(default_factory=Measure)
    """What scores mean whose names are known only once they are there."""
    libraries: Mapping[str, str] = field(default_factory=dict)
    """Libraries that it needs beside those of every evaluation: the name of each, and of the extra that brings it."""
    files: tuple[str, ...] = ()
    """Names under which its data lies in a folder that ``--data`` gives."""
    folder_with: str = ""
    """A pattern of files by which a folder as a whole is known as its data."""
    settings: tuple[str, ...] = ()
    """Settings that change its figures, beside those that change all tasks' and its own options."""
    options: type[Any] | None = None
    """Its own options: a frozen dataclass whose fields have defaults and, each under it, a line of help. Its functions
    get them with ``settings.of(...)``; a value that cannot be is refused in ``__post_init__``."""
    not_swept: tuple[str, ...] = ()
    """Options that a sweep does not have."""
    for_others: str = ""
    """A hint where somebody names a task that there is not, with {name} in it: where else it may be known."""
    check_models: Callable[[Sequence[EvaluatedModel], Any], None] | None = None
    """(models, settings) -> refuses models that it cannot be asked of, before anything is loaded"""
    generates: bool = False
    """Whether it lets the model generate, though it ``needs`` likelihoods."""
    is_whole: bool = False
    """Whether it limits its items itself and cannot share them: each is a benchmark of its own."""
    asks_module: bool = False
    """Whether it asks the module of the model itself, not through ``choose`` or ``answer``: a sweep's references, which
    are several models at once or are told something first, cannot be asked so."""
    system: str = ""
    """A message that tells a model to leave out the deficiency that the task shows, for the reference ``prompt`` of a
    sweep; empty where it shows none."""
    has_long_items: bool = False
    """Whether a single item can be enough to choose by, as the windows of one long text are."""

    def measure(self, name: str) -> Measure:
        """What a score means."""
        return self.measures.get(name, self.others)

    def values(self, settings: EvaluationSettings) -> dict[str, Any]:
        """The settings and options that change its figures, as JSON values, apart from the settings of all tasks."""
        general = settings.to_dict()
        options = json_values(settings.of(self.options)) if self.options else {}
        return {name: general[name] for name in self.settings} | options


def data_of(task: Task, settings: EvaluationSettings, names: tuple[str, ...]) -> str | None:
    """Which data ``--data`` gives a task.

    Args:
        names: all tasks, so that a slip in TASK=PATH is noticed.

    Raises:
        ExtSubError: TASK=PATH names no task, or a folder lacks the task's file.
    """
    common = own = None
    for given in settings.data:
        name, equals, path = given.partition("=")
        if equals and not Path(given).exists():
            if name not in names:
                raise ExtSubError(f"--data {given}: {name} is not a task; there are {', '.join(names)}")
            if name == task.name and own is not None:
                raise ExtSubError(f"--data {given}: {name} has --data {name}={own} already; give one")
            own = path if name == task.name else own
        elif common is None:
            common = given
        else:
            raise ExtSubError(f"--data {common} {given}: say which task has which, --data {task.name}={given}")
    given = own if own is not None else common
    folder = located(given or "")
    if given is None or not folder.is_dir():
        return given
    if task.folder_with:
        return given if own or any(folder.glob(task.folder_with)) else None
    paths = [folder / name for name in task.files if (folder / name).is_file()]
    if not paths:
        expected = " or ".join(task.files) or "no file that this task knows by name"
        raise ExtSubError(f"--data {given}: {task.name} expects {expected} in it; or say --data {task.name}=FILE")
    return str(paths[0])


def limited(task: Task, items: dict[int, Item], settings: Asking) -> dict[int, Item]:
    """So many items as ``--limit`` allows, drawn with the seed; all of them where the task limits its own."""
    if not isinstance(settings, EvaluationSettings) or settings.limit is None or task.is_whole:
        return items
    if settings.limit >= len(items):
        return items
    chosen = sorted(random.Random(settings.seed).sample(sorted(items), settings.limit))
    return {index: items[index] for index in chosen}


def questions_of(data: str, fields: Mapping[str, str]) -> Items:
    """Prompts without answers, from a file or hub dataset.

    Args:
        fields: what the data calls our fields.

    Raises:
        ExtSubError: as ``load_prompts``.
    """
    return items_of_prompts(load_prompts(data, fields), data)


def items_of_prompts(prompts: Prompts, data: str) -> Items:
    """``questions_of`` for what is read already."""
    items: list[Item] = [{"messages": [list(message) for message in messages]} for messages in prompts.messages]
    return Items(dict(enumerate(items)), data, prompts.sha256, places=dict(enumerate(prompts.places)))


def examples_of(data: str, settings: EvaluationSettings) -> Items:
    """Questions with answers, from instruction data.

    Raises:
        ExtSubError: as ``load_data``.
    """
    loaded = load_data(data, settings.field)
    items: list[Item] = [
        {"messages": [list(message) for message in example.messages], "answer": example.answer}
        for example in loaded.examples
    ]
    return Items(dict(enumerate(items)), data, loaded.sha256, loaded.notes, dict(enumerate(loaded.places)))


def answer_rows(
    respondent: LanguageModel | Server, questions: Mapping[int, Sequence[Message]], settings: Asking, new_tokens: int
) -> Iterator[tuple[int, ItemResult]]:
    """Greedy answers to conversations, as rows of results without their items, and without scores.

    Args:
        new_tokens: the longest answer, unless the settings say another.
    """
    most = settings.max_new_tokens or new_tokens
    for prompt, said in answer(respondent, questions, settings.asked_with, settings.rows_at_once, most):
        row = {"prompt": prompt, "answer": said.text, "finished": said.finished, "shortened": said.shortened}
        yield said.index, row


def choice_row(item: Item, choices: Sequence[str], scored: Scored, scores: Scores) -> ItemResult:
    """An item whose question had choices, with what the model made of them."""
    return {
        **item,
        "prompt": scored.prompt,
        "choices": choices,
        "log_likelihoods": scored.totals,
        "tokens": scored.tokens,
        "shortened": scored.shortened,
        "scores": scores,
    }


def conversation(item: Item) -> list[Message]:
    """The messages of an item, which JSON keeps as lists."""
    return [Message(*message) for message in item["messages"]]


def scores_of(row: ItemResult) -> list[Scores]:
    """The scores of an item; of each of its samples where it holds several."""
    return [sample["scores"] for sample in row["samples"]] if "samples" in row else [row["scores"]]


def text_of(where: str, row: Mapping[str, Any], name: str) -> str:
    """A field that must be a text.

    Raises:
        ExtSubError: it is missing, not a text, or blank; the message says where.
    """
    value = reach(row, name) if has(row, name) else None
    if not isinstance(value, str) or not value.strip():
        problem = f"found {shown(value)}" if has(row, name) else "it is missing"
        raise ExtSubError(f"{where}: expected a text in {name!r}, {problem}; correct or remove the row")
    return value
