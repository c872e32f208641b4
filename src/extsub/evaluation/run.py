"""One task for one model: asks what is not yet asked, and saves each item as it is done."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from extsub.distributed import ProcessGroup
from extsub.errors import ExtSubError, counted, kept_when_interrupted
from extsub.evaluation.evaluated_model import EvaluatedModel
from extsub.evaluation.settings import Asking
from extsub.evaluation.store import Store
from extsub.evaluation.task import ItemResult, Items, Task
from extsub.inference import language_model
from extsub.inference.batching import free_memory
from extsub.inference.language_model import Base, LanguageModel
from extsub.inference.server import Server
from extsub.models import adapter_handle
from extsub.models.base import load_config, load_tokenizer


class Advance(Protocol):
    """A function to call with each further number of items, and perhaps with what to say beside their rate."""

    def __call__(self, number: int, beside: str = "", /) -> None: ...


Progress = Callable[[str, int, int], contextlib.AbstractContextManager[Advance]]
"""(what is done, how many items, how many of them are done already) -> a function to call with each further number"""


@dataclass
class Run:
    """What is known of the items of one task for one model."""

    task: Task
    items: Items
    evaluated: EvaluatedModel
    store: Store
    identity: dict[str, Any]
    rows: dict[int, ItemResult]
    chosen: dict[int, dict[str, Any]]
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    """Sentences on how the model was asked."""

    @property
    def unasked(self) -> dict[int, dict[str, Any]]:
        """Items that the model has not been asked."""
        return {index: item for index, item in self.chosen.items() if index not in self.rows}

    @property
    def unjudged(self) -> dict[int, ItemResult]:
        """Rows that have no scores yet."""
        return {index: row for index, row in self.rows.items() if "scores" not in row and "samples" not in row}


@contextlib.contextmanager
def saved_when_interrupted(runs: Sequence[Run]) -> Generator[None]:
    """Say what was saved when somebody stops the work; let go of the files in any case."""

    def saved() -> str:
        done = sum(len(run.rows) for run in runs if run.evaluated.folder is not None)
        verb = "is" if done == 1 else "are"
        return f"{counted(done, 'item')} {verb} saved: the same command goes on from there" if done else ""

    try:
        with kept_when_interrupted(saved):
            yield
    finally:
        for run in runs:
            run.store.close()


def complete(
    runs: Sequence[Run],
    ask_them: Callable[[Sequence[Run]], None],
    settings: Asking,
    group: ProcessGroup,
    progress: Progress,
) -> None:
    """Ask what was not asked before, then judge it; afterwards every process knows all rows.

    Args:
        ask_them: asks the models (``ask_all``, or positions of a dial).

    Raises:
        ExtSubError: a judge is not there, a model fails, or memory or disk is too small.
    """
    undone = {run.task.name: run.task for run in runs if run.unasked or run.unjudged}
    notes = group.run_on_main(lambda: check_judges(list(undone.values()), settings))
    ask_them(runs)
    for run in runs:
        run.notes += notes.get(run.task.name, ())
        judge(run, settings, group, progress)
    group.barrier()


def check_judges(tasks: Sequence[Task], settings: Asking) -> dict[str, tuple[str, ...]]:
    """Check that what judges the answers of these tasks is there, before they are made.

    Returns:
        for each task that is judged, what a user should know of its judges, in sentences

    Raises:
        ExtSubError: a judge is not there.
    """
    return {task.name: task.check(settings) for task in tasks if task.check}


def ask_all(
    runs: Sequence[Run],
    evaluated_models: Sequence[EvaluatedModel],
    settings: Asking,
    group: ProcessGroup,
    progress: Progress,
) -> None:
    """Ask everyone what was not asked before; the base model is loaded once, and only if it is needed."""
    if not any(run.unasked for run in runs):
        return
    if settings.backend == "openai":
        assert settings.url  # settings see to that
        server = Server(settings.url, str(settings.model), settings.rows_at_once)
        for run in runs:
            ask(run, server, settings, group, progress)
        return
    name = adapter_handle.base_of(settings.model, [model.adapter for model in evaluated_models if model.adapter])
    if all(run.task.needs == "tokenizer" for run in runs if run.unasked):
        tokenizer = load_tokenizer(name, load_config(name))
        for run in runs:
            ask(run, tokenizer, settings, group, progress)
        return
    base = language_model.load_base(name, settings.dtype)
    for evaluated in evaluated_models:
        theirs = [run for run in runs if run.evaluated is evaluated and run.unasked]
        if theirs:
            _ask_model(base, evaluated, theirs, settings, group, progress)
    del base
    free_memory()  # for judges


def _ask_model(
    base: Base,
    evaluated: EvaluatedModel,
    runs: list[Run],
    settings: Asking,
    group: ProcessGroup,
    progress: Progress,
) -> None:
    with base.with_adapter(evaluated.adapter) as model:
        for run in runs:
            ask(run, base.tokenizer if run.task.needs == "tokenizer" else model, settings, group, progress)


def ask(run: Run, respondent: Any, settings: Asking, group: ProcessGroup, progress: Progress) -> None:
    """Ask one respondent what this run still needs, this process's part of it."""
    if run.task.is_whole and group.world_size > 1:
        raise ExtSubError(f"{run.task.name} would not share its items: start it on one process")
    if isinstance(respondent, LanguageModel):
        answers = run.task.needs == "answers" or run.task.generates
        run.notes = respondent.soundness.notes(run.task.needs == "likelihoods", answers)
    _collect(run, run.task.ask(respondent, group.split(run.unasked), settings), "", group, progress)


def judge(run: Run, settings: Asking, group: ProcessGroup, progress: Progress) -> None:
    """Score answers that have no scores yet; the model that gave them is put away by now."""
    if run.task.judge and run.unjudged:
        _collect(run, run.task.judge(group.split(run.unjudged), settings), " judged", group, progress)


def _collect(
    run: Run, rows: Iterator[tuple[int, ItemResult]], doing: str, group: ProcessGroup, progress: Progress
) -> None:
    """Save rows as they come, and learn those of the other processes."""
    begun, ours, refused = time.perf_counter(), {}, None
    waiting = len(run.unjudged) if doing else len(run.unasked)
    name = f"{run.evaluated.label}: {run.task.name}{doing}"
    with progress(name, len(run.chosen), len(run.chosen) - waiting) as advance:
        try:
            for index, row in rows:
                ours[index] = {"index": index, **row}
                run.store.add(run.identity, ours[index])
                run.rows[index] = ours[index]  # after that: what counts as saved is
                advance(group.world_size)
        except ExtSubError as error:
            if group.world_size == 1:
                raise
            refused = error
    run.store.close()  # of many positions not all can be open at once
    group.raise_if_any_failed(refused)
    for theirs in group.gather(ours):
        run.rows.update(theirs)
    run.seconds += time.perf_counter() - begun


@contextlib.contextmanager
def silent(_name: str, _total: int, _done: int) -> Generator[Advance]:
    """The progress of work that shows none."""
    yield lambda _number, _beside="": None
