"""The scores of one adapter in what ``sweep`` and ``evaluate`` wrote; that they are its own is seen by hashes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from extsub.adapters.adapter import sha256
from extsub.adapters.scores import OURS, FigureRecord, MeasuredScore, MeasuredTask, Scores
from extsub.adapters.stated import data_named
from extsub.errors import ExtSubError
from extsub.escaping import brief
from extsub.evaluation.groups import read_scores
from extsub.evaluation.metrics import Scores as ItemScores
from extsub.evaluation.store import RESULTS, Results, RunRecord, read_results
from extsub.evaluation.tasks import TASKS, check_known
from extsub.files.reading import located
from extsub.publishing.belonging import are_same, position_of
from extsub.report.reading import Sweep, read_sweep
from extsub.sweeping.budget import ScoreName
from extsub.sweeping.selection import figure_on, half_of
from extsub.sweeping.settings import POSITIONS, RESULT

BESIDE = ("expert", "base")
"""What stands beside an adapter in a sweep."""

Items = Mapping[Any, ItemScores]
"""(item, sample) -> its scores"""


def scores_for(folder: str | PathLike[str], adapter: Mapping[str, Any], record: Mapping[str, Any]) -> Scores:
    """What a folder of ``sweep`` or ``evaluate`` says of an adapter.

    Args:
        adapter: what identifies it: its hashes.
        record: what its ``extsub.json`` holds; empty for one that was trained.

    Raises:
        ExtSubError: nothing of the kind is there, or it is of another adapter, operation or strength.
    """
    path = located(str(folder))
    try:
        if (path / RESULT).exists():
            sweep = read_sweep(path)
            label = position_of(sweep, adapter, record)
            is_made_of_them = sweep.alpha(label) is not None
            return scores_in_sweep(sweep, label, is_made_of_them and bool(record.get("truncation")))
        if results := read_results(path):
            check_known(results["tasks"], RESULTS)
            return _scores_in_results(path, results, adapter)
    except ExtSubError as error:
        raise ExtSubError(f"--scores {folder}: {error}") from error
    inside = [file.parent.name for file in sorted(path.glob(f"*/{RESULTS}"))]
    hint = f"; there are some in {brief(', '.join(inside))}: give one of these folders" if inside else ""
    raise ExtSubError(f"--scores {folder}: neither {RESULT} nor {RESULTS} is there{hint}")


# ---- of a sweep: the half of the items that chose no strength --------------------------------------------------------


def scores_in_sweep(sweep: Sweep, label: str, before_truncation: bool) -> Scores:
    """The figures of one position on the half of the items by which nothing was chosen, expert and base beside it.

    Args:
        label: of the position.
        before_truncation: whether the adapter is this position truncated to a smaller rank.

    Raises:
        ExtSubError: the items are not there.
    """
    beside = [model for model in BESIDE if model != label and not (label == "anti-expert" and model == "expert")]
    chosen = sweep.record["chosen"].get(sweep.positions[label]["operation"], {}).get("position") == label
    tasks = []
    for task in sweep.record["settings"]["tasks"]:
        of = {OURS: sweep.scores(label, task), **{model: sweep.scores(model, task) for model in beside}}
        tasks.append(_held_out(sweep, task, of))
    return {
        "held_out": True,
        "chosen_by": [_choice(sweep)] if chosen else [],
        "before_truncation": before_truncation,
        "base": _base(sweep.record["made_of"]),
        "prompt": sweep.record["settings"].get("prompt"),
        "tasks": tasks,
        "sources": sources([sweep.folder]),
    }


def scores_of_several(sweeps: Sequence[Sweep], evaluations: Sequence[Path]) -> Scores:
    """The figures of a result whose strengths several sweeps chose, on the halves by which they did not.

    Args:
        evaluations: for each sweep the folder in which the result was asked what it had asked.

    Raises:
        ExtSubError: the items are not there.
    """
    first, tasks = sweeps[0], []
    for sweep, folder in zip(sweeps, evaluations, strict=True):
        for task in sweep.record["settings"]["tasks"]:
            of = {OURS: read_scores(folder, task), **{model: sweep.scores(model, task) for model in BESIDE}}
            tasks.append(_held_out(sweep, task, of))
    return {
        "held_out": True,
        "chosen_by": [_choice(sweep) for sweep in sweeps],
        "before_truncation": False,
        "base": _base(first.record["made_of"]),
        "prompt": first.record["settings"].get("prompt"),
        "tasks": [task for place, task in enumerate(tasks) if task not in tasks[:place]],
        "sources": sources([sweep.folder for sweep in sweeps], evaluations),
    }


def sources(sweeps: Sequence[Path], evaluations: Sequence[Path] = ()) -> list[dict[str, str]]:
    """The files in these folders that figures are from, with their SHA-256."""
    paths = [*(folder / RESULT for folder in sweeps), *(folder / RESULTS for folder in evaluations)]
    return [{"file": path.name, "sha256": sha256(path)} for path in paths]


def _held_out(sweep: Sweep, task: str, of: Mapping[str, Items]) -> MeasuredTask:
    """The figures of models on the half of a task's items that a sweep does not choose by."""
    run = read_results(sweep.folder / POSITIONS / "expert").get("runs", {}).get(task)
    names = sweep.positions["expert"]["tasks"].get(task, {})
    scores = _scores(task, names, lambda name: {who: _figure(items, name, sweep.seed) for who, items in of.items()})
    return _task(task, run, scores)


def _figure(items: Items, name: ScoreName, seed: int) -> FigureRecord | None:
    if not any(half_of(item, seed) == "test" and row.get(name.score) is not None for item, row in items.items()):
        return None
    return figure_on({name.task: items}, name, "test", seed).to_dict()


def _choice(sweep: Sweep) -> dict[str, str | None]:
    record = sweep.record
    return {"score": record["score"], "choose": record["settings"]["choose"], "budget": record["budget"]}


# ---- of an evaluation: all items -------------------------------------------------------------------------------------


def _scores_in_results(folder: Path, results: Results, adapter: Mapping[str, Any]) -> Scores:
    model, runs = results["model"], results["runs"]
    if "operation" in model:
        raise ExtSubError(f"{RESULTS} is of one position of a sweep: give the folder of the sweep")
    theirs = model.get("adapter") or {}
    if not are_same(theirs, adapter):
        name = theirs.get("name") or model.get("base")
        raise ExtSubError(f"{RESULTS} is of {brief(name)}, which by its hashes is not this adapter")
    tasks = [
        _task(task, runs[task], _scores(task, figures, lambda name, figures=figures: {OURS: figures[name.score]}))
        for task, figures in results["tasks"].items()
    ]
    prompts = {run["identity"].get("prompt") for run in runs.values()}
    return {
        "held_out": False,
        "chosen_by": [],
        "before_truncation": False,
        "base": _base(model),
        "prompt": prompts.pop() if len(prompts) == 1 else None,
        "tasks": tasks,
        "sources": sources([], [folder]),
    }


# ---- of both ---------------------------------------------------------------------------------------------------------


def _scores(
    task: str, names: Iterable[str], figures_of: Callable[[ScoreName], Mapping[str, FigureRecord | None]]
) -> list[MeasuredScore]:
    """The scores of a task that can be better or worse and that the adapter has; the others describe the data."""
    scores: list[MeasuredScore] = []
    for name in names:
        measure = TASKS[task].measure(name)
        if measure.better is None:
            continue
        measured = figures_of(ScoreName(task, name, measure))
        figures = {who: figure for who, figure in measured.items() if figure and _is_finite(figure)}
        if OURS in figures:
            scores.append({"score": name, "better": measure.better, "figures": figures})
    return scores


def _is_finite(figure: FigureRecord) -> bool:
    return all(map(math.isfinite, (figure["value"], *figure["ci95"])))


def _task(task: str, run: RunRecord | None, scores: list[MeasuredScore]) -> MeasuredTask:
    dataset, file = data_named(run["data"]) if run else ("", "")
    digest = run["identity"].get("data") if run else None
    return {"task": task, "data": dataset or file, "data_sha256": digest, "scores": scores}


def _base(made_of: Mapping[str, Any]) -> dict[str, str | None]:
    return {"name": made_of["base"], "commit": made_of.get("base_commit"), "sha256": made_of.get("base_sha256")}
