"""From tasks and models to results: asks what is not yet asked, saves item by item, writes the figures at the end."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from extsub.distributed import ProcessGroup, process_group
from extsub.errors import ExtSubError
from extsub.escaping import to_json
from extsub.evaluation.evaluated_model import EvaluatedModel, evaluated_models_of
from extsub.evaluation.metrics import figures
from extsub.evaluation.prompting import with_prompt
from extsub.evaluation.run import Progress, Run, ask_all, complete, saved_when_interrupted, silent
from extsub.evaluation.settings import EvaluationSettings
from extsub.evaluation.store import (
    FORMAT,
    RESULTS,
    Results,
    RunRecord,
    Store,
    changed,
    read_items,
    read_results,
    working_in,
)
from extsub.evaluation.task import ItemResult, Items, Task, data_of, limited, scores_of
from extsub.evaluation.tasks import TASKS, tasks_named
from extsub.extras import versions
from extsub.files.writing import write_whole
from extsub.inference import language_model

LIBRARIES = ("extsub", "torch", "transformers", "peft", "lm_eval", "sacrebleu", "rouge-score", "openai")
SETTINGS = ("prompt", "limit", "seed", "dtype", "backend", "url")
"""Settings that change the figures of every task."""


def evaluate(
    tasks: str | Sequence[str], settings: EvaluationSettings, progress: Progress | None = None
) -> list[Results]:
    """Evaluate a model, or adapters one after the other, on ``tasks``.

    Under ``accelerate launch`` every process calls this; the items are shared out, and the figures are the same. An
    interrupted run goes on from its saved items when it is started again; a task that is complete is not repeated.

    Args:
        tasks: the name of a benchmark (``TASKS``), or several.
        settings: the model, the data, and how to ask.
        progress: shows how far it is.

    Returns:
        what ``results.json`` holds, for each model: ``tasks.<task>.<metric>`` is ``{value, ci95: [low, high], n}``,
        ``runs.<task>`` says how it was made.

    Raises:
        ExtSubError: a task, the data, a model or the output is at fault, or memory or disk is too small.
    """
    chosen = tasks_named([tasks] if isinstance(tasks, str) else tasks, settings)
    items = items_of(chosen, settings)
    group, shown = process_group(), progress or silent
    evaluated_models = evaluated_models_of(settings, settings.output)
    for task in chosen:
        if task.check_models:
            task.check_models(evaluated_models, settings)
    settings, evaluated_models = with_prompt(chosen, items, settings, evaluated_models)
    with contextlib.ExitStack() as stack:
        group.run_on_main(lambda: [stack.enter_context(working_in(evaluated.folder)) for evaluated in evaluated_models])
        return carry_out(
            chosen,
            items,
            evaluated_models,
            settings,
            lambda runs: ask_all(runs, evaluated_models, settings, group, shown),
            shown,
        )


def items_of(tasks: Sequence[Task], settings: EvaluationSettings) -> dict[str, Items]:
    """The items of each task; with ``--limit`` all of them still.

    Raises:
        ExtSubError: data is not there, or not what a task reads.
    """
    return {task.name: task.read(settings, data_of(task, settings, tuple(TASKS))) for task in tasks}


def carry_out(
    tasks: Sequence[Task],
    items: Mapping[str, Items],
    evaluated_models: Sequence[EvaluatedModel],
    settings: EvaluationSettings,
    ask: Callable[[Sequence[Run]], None],
    progress: Progress,
) -> list[Results]:
    """Evaluate every model on every task, where ``ask`` asks the models what they were not asked before.

    Args:
        evaluated_models: whose folders the main process holds (``working_in``), or a folder that they lie in.

    Returns:
        as ``evaluate``
    """
    group = process_group()
    runs: list[Run] = []
    with saved_when_interrupted(runs):
        for evaluated in evaluated_models:
            runs += [_begin(task, items[task.name], evaluated, settings, group) for task in tasks]
        complete(runs, ask, settings, group, progress)
        if not group.is_main:
            return []
        return [
            _finish(evaluated, [run for run in runs if run.evaluated is evaluated], group)
            for evaluated in evaluated_models
        ]


def _begin(
    task: Task, items: Items, evaluated: EvaluatedModel, settings: EvaluationSettings, group: ProcessGroup
) -> Run:
    general = settings.to_dict()
    identity = {
        "task": task.name,
        "data": items.sha256,
        "model": evaluated.record,
        **{name: general[name] for name in SETTINGS},
        **task.values(settings),
    }
    store = Store(evaluated.folder, task.name, group.rank)
    rows = group.run_on_main(
        lambda: _done(task, evaluated, identity, settings) or store.begin(identity, settings.overwrite)
    )
    return Run(task, items, evaluated, store, identity, rows, limited(task, items.items, settings))


def _done(
    task: Task, evaluated: EvaluatedModel, identity: dict[str, Any], settings: EvaluationSettings
) -> dict[int, ItemResult]:
    """The rows of this very task if it is complete.

    Raises:
        ExtSubError: the folder holds figures of another model, or of this task with other settings.
    """
    if evaluated.folder is None:
        return {}
    results = read_results(evaluated.folder)
    if not results or settings.overwrite:
        return {}
    if results["model"] != evaluated.record:
        theirs = (results["model"].get("adapter") or {}).get("name") or results["model"].get("base")
        raise ExtSubError(
            f"{evaluated.folder} holds the results of another model ({theirs}): choose another output, or --overwrite"
        )
    if task.name not in results["runs"]:
        return {}
    if results["runs"][task.name]["identity"] != identity:
        raise ExtSubError(
            f"{evaluated.folder} holds {task.name} with {changed(results['runs'][task.name]['identity'], identity)}: "
            "choose another output, or pass --overwrite"
        )
    return read_items(evaluated.folder, task.name)


def _finish(evaluated: EvaluatedModel, runs: list[Run], group: ProcessGroup) -> Results:
    results: Results = read_results(evaluated.folder) if evaluated.folder else {}
    if results.get("model") != evaluated.record:
        old = results
        results = {"format": FORMAT, "model": evaluated.record, "tasks": {}, "runs": {}}
        if evaluated.folder and old:
            _write(evaluated, results)
            for task in old["runs"]:  # of the model that is replaced
                (evaluated.folder / f"{task}.jsonl").unlink(missing_ok=True)
    results.setdefault("format", FORMAT)  # results that are older than the numbers
    new = [run for run in runs if run.seconds or results["runs"].get(run.task.name, {}).get("identity") != run.identity]
    if replaced := [run.task.name for run in new if run.task.name in results["runs"]]:
        for name in replaced:
            del results["tasks"][name], results["runs"][name]
        _write(evaluated, results)  # no figures of other items, should somebody stop us here
    for run in new:
        name = run.task.name
        rows = [run.rows[index] for index in sorted(run.chosen)]
        scores = [item_scores for row in rows for item_scores in scores_of(row)]
        measured = figures(scores, run.task.measure, run.identity["seed"])
        results["tasks"][name] = {metric: figure.to_dict() for metric, figure in measured.items()}
        results["runs"][name] = _record(run, rows, group)
        run.store.finish(rows)
    _write(evaluated, results)
    for run in runs:
        run.store.forget()
    return results


def _write(evaluated: EvaluatedModel, results: Results) -> None:
    if evaluated.folder:
        write_whole(evaluated.folder / RESULTS, to_json(results) + "\n")


def _record(run: Run, rows: list[ItemResult], group: ProcessGroup) -> RunRecord:
    shortened = sum(bool(row.get("shortened")) for row in rows)
    unfinished = sum(not row.get("finished", True) for row in rows)
    notes = [*run.evaluated.notes, *run.items.notes, *run.notes]
    if shortened:
        notes.append(f"{shortened:,} of {len(rows):,} prompts, too long, lost the beginning")
    if unfinished:
        notes.append(f"{unfinished:,} of {len(rows):,} answers reached --max-new-tokens and stopped there")
    notes += run.evaluated.asked if run.task.needs != "tokenizer" else ()
    return {
        "identity": run.identity,
        "data": run.items.data,
        "items": len(rows),
        "shortened": shortened,
        "unfinished": unfinished,
        "notes": notes,
        "seconds": run.seconds,
        "processes": group.world_size,
        "device": language_model.device().type,
        "versions": {"python": platform.python_version(), **versions(*LIBRARIES)},
    }
