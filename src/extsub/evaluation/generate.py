"""Answers to a file of prompts, saved one by one; an interrupted run goes on."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypedDict

from extsub.data.instructions import Prompts, load_prompts
from extsub.data.rows import Row
from extsub.distributed import is_main_process, process_group
from extsub.errors import ExtSubError, kept_when_interrupted
from extsub.evaluation.evaluated_model import base_of, evaluated_models_of
from extsub.evaluation.prompting import settled, with_notes
from extsub.evaluation.run import Progress, Run, ask_all, saved_when_interrupted, silent
from extsub.evaluation.settings import GenerationSettings
from extsub.evaluation.store import Store, working_in
from extsub.evaluation.task import Item, ItemResult, Items, Task, conversation
from extsub.extras import require
from extsub.files.disk import check_writable, writing
from extsub.files.locks import locked
from extsub.files.writing import last_written, note_written, remove_empty
from extsub.inference.requests import Question, answer

NEW_TOKENS = 256
SETTINGS = ("prompt", "max_new_tokens", "dtype", "backend", "url", "field")
"""Settings that change an answer."""
ANSWERS, PUBLISHING = "answers", ".publishing"
"""In the folder of a run: its answers as they come, and a mark while they become the output."""
OURS = ("index", "prompt", "answer", "finished", "shortened")
"""Fields that are added to a row of the prompts."""


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
    names = _names(prompts.rows)
    _check_rows(prompts)
    items = Items(
        {
            index: {"messages": [list(message) for message in messages]}
            for index, messages in enumerate(prompts.messages)
        },
        source,
        prompts.sha256,
        places=dict(enumerate(prompts.places)),
    )
    task = Task(
        name=output.name,
        read=lambda *_: items,
        ask=_ask,
        measures={},
        needs="answers",
        questions=lambda item: [Question(conversation(item))],
    )
    require("peft", "evaluate")
    group = process_group()
    (evaluated,) = evaluated_models_of(settings, partial)
    given, adapters = settings.prompt, [evaluated.adapter] if evaluated.adapter else []
    settings = settled([task], {task.name: items}, settings, adapters, base_of(settings, [evaluated]))
    (evaluated,) = with_notes([evaluated], given, settings.asked_with)
    values = settings.to_dict()
    identity = {"data": items.sha256, "model": evaluated.record, **{name: values[name] for name in SETTINGS}}
    with contextlib.ExitStack() as stack, kept_when_interrupted(lambda: _written(output)):
        group.run_on_main(lambda: stack.enter_context(working_in(partial)))
        store = Store(partial, ANSWERS, group.rank, final=partial / output.name)
        rows = group.run_on_main(lambda: store.begin(identity, settings.overwrite))
        run = Run(task, items, evaluated, store, identity, rows, items.items)
        with saved_when_interrupted([run]):
            ask_all([run], [evaluated], settings, group, progress or silent)
            group.barrier()
            answers = [run.rows[index] for index in sorted(items.items)]
            if group.is_main:
                theirs = ({names.get(name, name): one for name, one in row.items()} for row in prompts.rows)
                store.finish({**given, **row} for given, row in zip(theirs, answers, strict=True))
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


def _names(rows: Iterable[Row]) -> dict[str, str]:
    """New names for fields of theirs that are called like ours."""
    there = {name for row in rows for name in row}
    names = {}
    for name in OURS:
        if name in there:
            names[name] = f"given_{name}"
            while names[name] in there:
                names[name] = f"given_{names[name]}"
    return names


def _check_rows(prompts: Prompts) -> None:
    """Every row will be written again, as a line of JSON, when all answers are made.

    Raises:
        ExtSubError: one cannot be.
    """
    for where, row in zip(prompts.places, prompts.rows, strict=True):
        for name, value in row.items() if _no_json(row) else ():
            if held := _no_json({name: value}):
                raise ExtSubError(
                    f"{where}: field {name!r} holds {held}, which JSON does not know: make it text, or leave it out"
                )


def _no_json(row: Row) -> str | None:
    """What in it is not JSON; None where all is."""
    try:
        json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        return "half a character (a lone surrogate)"
    except ValueError:
        return "NaN or an infinite number"
    except RecursionError:
        return "lists in lists without end"
    except TypeError as error:  # Object of type date is not JSON serializable
        return f"a {str(error).removeprefix('Object of type ').partition(' ')[0]}"
    return None


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
    for prompt, one in answer(
        respondent, questions, settings.asked_with, settings.rows_at_once, settings.max_new_tokens or NEW_TOKENS
    ):
        row = {"prompt": prompt, "answer": one.text, "finished": one.finished, "shortened": one.shortened}
        yield one.index, row
