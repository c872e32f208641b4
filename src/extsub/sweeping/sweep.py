"""Every operation at every strength, evaluated with one load of the base model; then the choice."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict

from extsub.adapters.load import load_adapter
from extsub.distributed import process_group
from extsub.errors import ExtSubError, kept_when_interrupted
from extsub.escaping import to_json
from extsub.evaluation.evaluate import items_of
from extsub.evaluation.evaluated_model import identify
from extsub.evaluation.prompting import notes_on, settled
from extsub.evaluation.run import Progress, silent
from extsub.evaluation.store import RESULTS, working_in
from extsub.evaluation.task import Items, Task, limited
from extsub.evaluation.tasks import TASKS
from extsub.files.writing import write_together
from extsub.models import adapter_handle
from extsub.sweeping.budget import Budget, ScoreName, find_score, looked_at
from extsub.sweeping.grid import SweepPoint, companions, parse_alphas, sweep_points
from extsub.sweeping.references import METHODS, check_system, reference_points, told
from extsub.sweeping.runner import Runner
from extsub.sweeping.search import search, searched
from extsub.sweeping.selection import Chooser, Chosen, half_of
from extsub.sweeping.settings import FORMAT, POSITIONS, PROFILE, RESULT, TABLE, SweepSettings, swept_tasks
from extsub.tables import to_csv


class SweepRecord(TypedDict, total=False):
    """What ``sweep.json`` holds (docs/files.md); nothing on processes other than the main one."""

    format: int
    settings: dict[str, Any]
    """By the names of `SweepSettings`."""
    made_of: dict[str, Any]
    """Base and adapters with their hashes."""
    given: dict[str, Any]
    """Expert and anti-experts as they were named."""
    score: str
    """What strengths are chosen by."""
    budget: str | None
    """What a choice may cost."""
    notes: list[str]
    """What a user should know, in sentences."""
    positions: dict[str, dict[str, Any]]
    """For each sweep point its operation, alpha and figures on all items."""
    chosen: dict[str, dict[str, Any]]
    """For each operation the strength chosen on one half of the items, and its figures on the other."""
    references: dict[str, dict[str, Any]]
    """Where they were asked for: for each point of a method of reference its operation, alpha (its β), forward passes a
    token, and figures on all items. Nothing is combined from them."""
    compared: dict[str, dict[str, Any]]
    """For each method of reference what ``chosen`` would hold of it, to be compared with."""
    search: dict[str, Any]
    """Trials between the points of the grid, where they were asked for."""


def sweep(
    expert: str | PathLike[str],
    anti_experts: str | PathLike[str] | Sequence[str | PathLike[str]],
    settings: SweepSettings,
    progress: Progress | None = None,
) -> SweepRecord:
    """Evaluate base, expert, anti-expert and every operation at every strength, and choose a strength.

    The base model is loaded once and the adapters are attached once: every point of the sweep is a setting of the dial.
    Under ``accelerate launch`` the items are shared out. An interrupted sweep goes on when it is started again; a
    finished one is not repeated, and a wider grid asks only what is new. What ext-sub must be compared with at the
    strength chosen for it (``companions``) is asked too where the grid does not have it.

    Args:
        expert: the adapter to improve, a folder or hub id.
        anti_experts: one adapter trained on examples of what to suppress, or several.
        settings: what is asked at which strengths, and how one is chosen.
        progress: shows how far it is.

    Returns:
        what ``sweep.json`` holds: figures of every position on all items, and for each operation the strength chosen on
        one half of the items with its figures on the other; with ``search`` also what lies between the grid's points

    Raises:
        ExtSubError: adapters, tasks, data, grid, score or budget are at fault.
    """
    tasks = swept_tasks(settings)
    points = sweep_points(settings.operations, parse_alphas(settings.alphas))
    target, budget = judged_by(settings, tasks)
    references = reference_points(settings.references, parse_alphas(settings.alphas))
    settings = told(settings, TASKS[target.task])
    operation = searched(points) if settings.search else None
    items = items_of(tasks, settings)
    check_halves(settings, items, target, budget)
    others = [anti_experts] if isinstance(anti_experts, (str, PathLike)) else anti_experts
    names = [str(adapter) for adapter in (expert, *others)]
    adapters = [load_adapter(name) for name in names]
    named = [adapter_handle.find(name) for name in names]
    name = adapter_handle.base_of(settings.model, named)
    provenance = {**identify(name), "adapters": [adapter.source.provenance() for adapter in adapters if adapter.source]}
    group = process_group()
    group.run_on_main(lambda: _check_output(settings.folder))
    given, settings = settings.prompt, settled(tasks, items, settings, named, name)
    check_system(settings, name)
    notes = tuple(
        f"{adapter.source.label}: {note}" for adapter in named for note in notes_on(adapter, given, settings.asked_with)
    )
    runner = Runner(name, provenance, adapters, tasks, items, settings, group, progress or silent, notes)
    with contextlib.ExitStack() as stack, kept_when_interrupted(lambda: _kept(settings.folder)):
        group.run_on_main(lambda: stack.enter_context(working_in(_folder(settings.folder))))
        made_of = {"expert": names[0], "anti_experts": names[1:]}
        return _carry_out(runner, points, references, target, budget, operation, made_of)


def _carry_out(
    runner: Runner,
    points: Sequence[SweepPoint],
    references: Sequence[SweepPoint],
    target: ScoreName,
    budget: Budget | None,
    operation: str | None,
    given: dict[str, Any],
) -> SweepRecord:
    """Ask, choose, search (an operation, if any), and compare, with references too."""
    settings, group = runner.settings, runner.group

    def chooser() -> Chooser:
        known = (runner.scores(SweepPoint(start)) for start in ("expert", "base"))
        return Chooser(*known, target, budget, settings.seed, settings.choose)

    if budget and budget.reference == "gain":  # there must be one, and that is known before the grid is asked
        runner.ask([SweepPoint("base"), SweepPoint("expert")])
        group.run_on_main(lambda: chooser().limit)
    runner.ask(points)
    chosen = group.run_on_main(lambda: _choose(runner, chooser(), settings.operations, points))
    search_record = None
    if operation:
        grid = [point for point in points if point.operation == operation]
        search_record = search(runner, chooser, operation, grid, target.measure.better == "higher")
    beside = [point for point in _beside(chosen, points) if point not in points]
    runner.ask([*beside, *references])
    compared = group.run_on_main(lambda: _choose(runner, chooser(), settings.references, references))
    runner.put_away()
    if not group.is_main:
        return {}
    asked = {point.label: {**point.to_dict(), "tasks": runner.results[point]["tasks"]} for point in (*points, *beside)}
    recorded = settings.to_dict()
    for task in runner.tasks:
        recorded |= task.values(settings)  # options that nobody gave, too
    record: SweepRecord = {
        "format": FORMAT,
        "settings": recorded,
        "made_of": dict(runner.provenance),
        "given": given,
        "score": str(target),
        "budget": settings.budget,
        "notes": [*runner.base.notes, *runner.notes, *chooser().notes()],
        "positions": asked,
        "chosen": {operation: choice.to_dict() for operation, choice in chosen.items()},
    }
    if references:
        record["references"] = {
            point.label: {
                **point.to_dict(),
                "passes": METHODS[point.operation].passes,
                "tasks": runner.results[point]["tasks"],
            }
            for point in references
        }
        record["compared"] = {method: choice.to_dict() for method, choice in compared.items()}
    if search_record:
        record["search"] = search_record
    _write(settings.folder, record)
    return record


def judged_by(settings: SweepSettings, tasks: Sequence[Task]) -> tuple[ScoreName, Budget | None]:
    """The score to choose by, and what a choice may cost.

    Raises:
        ExtSubError: the tasks give no such score.
    """
    known = [
        ScoreName(task.name, name, measure)
        for task in tasks
        for name, measure in task.measures.items()
        if measure.better
    ]
    if settings.score:
        target = find_score("--score", settings.score, known)
    elif not (own := [name for name in known if name.task == tasks[0].name]):
        raise ExtSubError(f"{tasks[0].name} names no score beforehand: say which with --score")
    else:
        target = own[0]
    return target, Budget.parse(settings.budget, known) if settings.budget else None


def check_halves(settings: SweepSettings, items: Mapping[str, Items], target: ScoreName, budget: Budget | None) -> None:
    """Check that there are items to choose by, and others to report on.

    Raises:
        ExtSubError: a task has too few.
    """
    for task in sorted(name.task for name in looked_at(target, budget)):
        if TASKS[task].has_long_items:
            continue
        asked = limited(TASKS[task], items[task].items, settings)
        halves = {half_of((index, 0), settings.seed) for index in asked}
        for half in ("validation", "test"):
            if half not in halves:
                raise ExtSubError(f"{task}: its {len(asked)} items have no {half} part: it needs more items")


def _check_output(folder: Path) -> None:
    for name in (TABLE, PROFILE):
        if (folder / name).exists() and not (folder / RESULT).exists():
            raise ExtSubError(f"{folder / name} is in the way, and no sweep wrote it: choose another output")


def _folder(output: Path) -> Path:
    """Also where a link leads to it."""
    return output.resolve() if output.is_symlink() else output


def _kept(folder: Path) -> str:
    """What to say to somebody who stops it: positions that are complete stay."""
    complete = any((folder / POSITIONS).glob(f"*/{RESULTS}"))
    return "what was asked is kept: the same command goes on from there" if complete else ""


def _choose(
    runner: Runner, chooser: Chooser, operations: Sequence[str], points: Sequence[SweepPoint]
) -> dict[str, Chosen]:
    """For each operation, or method."""
    choices = {}
    for operation in operations:
        candidates = {point: runner.scores(point) for point in points if point.operation == operation}
        if candidates:
            choices[operation] = chooser.choose(operation, candidates)
    return choices


def _beside(chosen: Mapping[str, Chosen], points: Sequence[SweepPoint]) -> list[SweepPoint]:
    """What ext-sub must be compared with at the strength chosen for it, or at what came closest to the budget."""
    ours = chosen.get("ext-sub")
    if ours is None:
        return []
    at = next(point for point in points if point.label == (ours.position or ours.closest))
    return companions(at.alpha) if at.alpha else []


def _write(folder: Path, record: Mapping[str, Any]) -> None:
    whole = to_json(record) + "\n"
    profile = record.get("search", {}).get("best", {}).get("profile")
    best = {folder / PROFILE: json.dumps(profile, indent=2) + "\n"} if profile else {}
    write_together({folder / RESULT: whole, folder / TABLE: _table(record), **best})
    if not profile:
        (folder / PROFILE).unlink(missing_ok=True)  # of a search before


def _table(record: Mapping[str, Any]) -> str:
    """Every figure of every position, those of references too, a row for each."""
    rows = (
        [label, position["operation"], position["alpha"], task, score, figure["value"], *figure["ci95"], figure["n"]]
        for label, position in (record["positions"] | record.get("references", {})).items()
        for task, scores in position["tasks"].items()
        for score, figure in scores.items()
    )
    return to_csv(["position", "operation", "alpha", "task", "score", "value", "low", "high", "n"], rows)
