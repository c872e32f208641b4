"""Answers to a file of prompts, saved one by one; an interrupted run goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

from extsub.data.instructions import load_prompts
from extsub.distributed import is_main_process, process_group
from extsub.errors import ExtSubError, kept_when_interrupted
from extsub.evaluation.answered_rows import answered, check_json, new_names
from extsub.evaluation.evaluated_model import evaluated_models_of
from extsub.evaluation.prompting import with_prompt
from extsub.evaluation.run import Progress, Run, ask_all, complete, saved_when_interrupted, silent
from extsub.evaluation.settings import GenerationSettings
from extsub.evaluation.store import Store, working_in
from extsub.evaluation.task import Item, ItemResult, Items, Task, answer_rows, conversation, items_of_prompts
from extsub.extras import require
from extsub.files.disk import check_writable, writing
from extsub.files.locks import locked
from extsub.files.writing import last_written, note_written, remove_empty
from extsub.inference.requests import Question

NEW_TOKENS = 256
SETTINGS = ("prompt", "max_new_tokens", "dtype", "backend", "url", "field")
"""Settings that change an answer."""
ANSWERS, PUBLISHING = "answers", ".publishing"
"""In the folder of a run: its answers as they come, and a mark while they become the output."""


class GenerationRecord(TypedDict):
    """What `generate` did."""

    model: dict[str, Any]
    """The base and the adapter, with their hashes."""
    prompt: str
    """The prompt template that was asked with."""
    prompts: int
    unfinished: int
    """Answers that reached the limit of new tokens."""
    shortened: int
    """Prompts that were too long and lost their beginning."""
    renamed: dict[str, str]
    """Fields of the prompts that are called otherwise in the output."""
    notes: list[str]
    """What a user should know, in sentences."""
    seconds: float


def generate(settings: GenerationSettings, progress: Progress | None = None) -> GenerationRecord:
    """Answer every prompt greedily and write ``settings.output``: the prompts' rows, each with prompt and answer.

    Under ``accelerate launch`` every process calls this; the prompts are shared out. An interrupted run goes on from
    its saved answers when it is started again. A field of theirs that is called like one of ours (``answer``, say) is
    kept as ``given_answer``.

    Raises:
        ExtSubError: prompts, model or output are at fault, or memory or disk is too small.
    """
    if settings.prompts is None or settings.output is None:
        raise ExtSubError("generate answers a file of prompts: give prompts and output (one question: Session.stream)")
    source, output = settings.prompts, settings.output.expanduser()
    partial = output.with_name(f".{output.name}.partial")
    if is_main_process() and partial.is_dir():
        with locked(partial, output), writing(output):
            _clear(partial, output)
    if output.exists() and not settings.overwrite:
        raise ExtSubError(f"{output} already exists: choose another output, or pass --overwrite to replace it")
    _check_file(output)
    prompts = load_prompts(source, settings.field)
    names = new_names(prompts.rows)
    check_json(prompts)
    items = items_of_prompts(prompts, source)
    task = _task(output.name, items)
    require("peft", "evaluate")
    group, shown = process_group(), progress or silent
    models = evaluated_models_of(settings, partial)
    settings, (evaluated,) = with_prompt([task], {task.name: items}, settings, models)
    values = settings.to_dict()
    identity = {"data": items.sha256, "model": evaluated.record, **{name: values[name] for name in SETTINGS}}
    with contextlib.ExitStack() as stack, kept_when_interrupted(lambda: _written(output)):
        group.run_on_main(lambda: stack.enter_context(working_in(partial)))
        store = Store(partial, ANSWERS, group.rank, final=partial / output.name)
        rows = group.run_on_main(lambda: store.begin(identity, settings.overwrite))
        run = Run(task, items, evaluated, store, identity, rows, items.items)
        with saved_when_interrupted([run]):
            complete([run], lambda runs: ask_all(runs, [evaluated], settings, group, shown), settings, group, shown)
            answers = [run.rows[index] for index in sorted(items.items)]
            if group.is_main:
                store.finish(answered(prompts.rows, answers, names))
                _publish(partial, output)
    return {
        "model": evaluated.record,
        "prompt": settings.asked_with,
        "prompts": len(answers),
        "unfinished": sum(not row["finished"] for row in answers),
        "shortened": sum(row["shortened"] for row in answers),
        "renamed": names,
        "notes": [*evaluated.notes, *evaluated.asked, *run.notes],
        "seconds": run.seconds,
    }


def _task(name: str, items: Items) -> Task:
    """A benchmark without scores: its questions are the prompts."""
    return Task(
        name=name,
        read=lambda *_: items,
        ask=_ask,
        measures={},
        needs="answers",
        questions=lambda item: [Question(conversation(item))],
    )


def _publish(partial: Path, output: Path) -> None:
    """What is finished becomes the output, and the folder goes."""
    with writing(output, "the same command goes on", "the answers are saved"):
        (partial / PUBLISHING).touch()
        (partial / output.name).replace(output)
        note_written(output)
        _clear(partial, output)


def _clear(partial: Path, output: Path) -> None:
    """Remove the answers of a run whose output is there, also if it was killed before it could. Without the mark they
    are those of an interrupted run, which may be about to replace that output.
    """
    mark = partial / PUBLISHING
    if mark.exists():
        if not (partial / output.name).exists():
            Store(partial, ANSWERS, 0).forget()
        mark.unlink()
    remove_empty([partial])


def _written(output: Path) -> str:
    return f"{output} is written" if last_written() == output else ""


def _check_file(output: Path) -> None:
    """Refuse what cannot become a file.

    Raises:
        ExtSubError: it is a folder or a link, or its folder is read-only.
    """
    check_writable(output.parent)
    if output.is_symlink() or output.is_dir():
        raise ExtSubError(
            f"{output} is a {'link' if output.is_symlink() else 'folder'}: give the name of a .jsonl file"
        )


def _ask(respondent: Any, items: Mapping[int, Item], settings: GenerationSettings) -> Iterator[tuple[int, ItemResult]]:
    questions = {index: conversation(item) for index, item in items.items()}
    return answer_rows(respondent, questions, settings, NEW_TOKENS)
