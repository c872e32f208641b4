"""Answers to a file of prompts, saved one by one; an interrupted run goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from extsub.adapters.staging import remove_empty
from extsub.data import load_prompts
from extsub.errors import ExtSubError, require
from extsub.evaluation.asking import answer
from extsub.evaluation.run import Progress, Run, ask_all, kept_when_interrupted, silent
from extsub.evaluation.settings import GenerationSettings
from extsub.evaluation.sharing import processes
from extsub.evaluation.store import Store, working_in
from extsub.evaluation.subjects import subjects_of
from extsub.evaluation.task import Item, Items, Row, Task, conversation

NEW_TOKENS = 256
SETTINGS = ("prompt", "max_new_tokens", "dtype", "backend", "url", "field")
"""that change an answer"""


def generate(settings: GenerationSettings, progress: Progress | None = None) -> dict[str, Any]:
    """Answer every prompt greedily and write ``settings.output``: the prompts' rows, each with prompt and answer.

    Under ``accelerate launch`` every process calls this; the prompts are shared out. An interrupted run goes on from
    its saved answers when it is started again.

    Returns:
        how many prompts there were, how many answers reached ``max_new_tokens``, how many prompts lost their beginning

    Raises:
        ExtSubError: prompts, model or output are at fault, or memory or disk is too small.
    """
    require("peft", "evaluate")
    output = settings.output.expanduser()
    if output.exists() and not settings.overwrite:
        raise ExtSubError(f"{output} already exists: choose another output, or pass --overwrite to replace it")
    _check_file(output)
    prompts = load_prompts(settings.prompts, settings.field)
    items = Items(
        {index: {"turns": [list(turn) for turn in turns]} for index, turns in enumerate(prompts.turns)},
        settings.prompts,
        prompts.sha256,
    )
    task = Task(name=output.name, read=lambda *_: items, ask=_ask, measures={}, needs="answers")
    group = processes()
    partial = output.with_name(f".{output.name}.partial")
    (subject,) = subjects_of(settings, partial)
    values = settings.to_dict()
    identity = {"data": items.sha256, "model": subject.record, **{name: values[name] for name in SETTINGS}}
    with contextlib.ExitStack() as stack:
        group.told(lambda: stack.enter_context(working_in(partial)))
        store = Store(partial, "answers", group.rank, final=output)
        rows = group.told(lambda: store.begin(identity, settings.overwrite))
        run = Run(task, items, subject, store, identity, rows, items.items)
        with kept_when_interrupted([run]):
            ask_all([run], [subject], settings, group, progress or silent)
        group.wait()
        answers = [run.rows[index] for index in sorted(items.items)]
        if group.is_main:
            store.finish({**prompts.rows[row["index"]], **row} for row in answers)
            store.forget()
    if group.is_main:
        remove_empty([partial])  # which an interrupted run made
    return {
        "model": subject.record,
        "prompts": len(answers),
        "unfinished": sum(not row["finished"] for row in answers),
        "shortened": sum(row["shortened"] for row in answers),
        "seconds": run.seconds,
        "notes": list(subject.notes),
    }


def _check_file(output: Path) -> None:
    """Refuse what cannot become a file.

    Raises:
        ExtSubError: it is a folder or a link.
    """
    if output.is_symlink() or output.is_dir():
        raise ExtSubError(
            f"{output} is a {'link' if output.is_symlink() else 'folder'}: give the name of a .jsonl file"
        )


def _ask(respondent: Any, items: Mapping[int, Item], settings: GenerationSettings) -> Iterator[tuple[int, Row]]:
    questions = {index: conversation(item) for index, item in items.items()}
    for prompt, one in answer(respondent, questions, settings, settings.max_new_tokens or NEW_TOKENS):
        row = {"prompt": prompt, "answer": one.text, "finished": one.finished, "shortened": one.shortened}
        yield one.index, row
