"""Every operation at every strength, evaluated with one load of the base model; then the choice."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from extsub.adapters.adapter import Adapter
from extsub.adapters.load import load_adapter
from extsub.dial import Dial
from extsub.errors import ExtSubError, require
from extsub.evaluation import adapter_name, language_model
from extsub.evaluation.evaluate import carry_out, tasks_named
from extsub.evaluation.language_model import Base, LanguageModel
from extsub.evaluation.run import Progress, Run, ask, silent
from extsub.evaluation.sharing import processes
from extsub.evaluation.store import read_items, write_whole
from extsub.evaluation.subjects import Subject, identify
from extsub.evaluation.task import Task, scores_of
from extsub.sweeping.choice import AllScores, Budget, Chosen, ScoreName, choose, find_score
from extsub.sweeping.positions import Position, parse_alphas, positions, randomised
from extsub.sweeping.settings import SweepSettings

POSITIONS = "positions"
RESULT = "sweep.json"
TABLE = "sweep.csv"


def sweep(
    expert: str, anti_experts: Sequence[str], settings: SweepSettings, progress: Progress | None = None
) -> dict[str, Any]:
    """Evaluate base, expert, anti-expert and every operation at every strength, and choose a strength.

    The base model is loaded once and the adapters are attached once: every position is a turn of the dial. Under
    ``accelerate launch`` the items are shared out. An interrupted sweep goes on when it is started again; a finished
    one is not repeated, and a wider grid asks only what is new.

    Returns:
        what ``sweep.json`` holds: figures of every position on all items, and for each operation the strength chosen on
        one half of the items with its figures on the other

    Raises:
        ExtSubError: adapters, tasks, data, grid, score or budget are at fault.
    """
    require("peft", "evaluate")
    tasks = tasks_named(settings.tasks, settings)
    turns = positions(settings.operations, parse_alphas(settings.alphas))
    known = [ScoreName(task.name, name, one) for task in tasks for name, one in task.measures.items() if one.better]
    target = find_score("--score", settings.score, known) if settings.score else _first(known, tasks)
    budget = Budget.parse(settings.budget, known) if settings.budget else None
    adapters = [load_adapter(name) for name in (expert, *anti_experts)]
    name = adapter_name.base_of(settings.model, [adapter_name.find(one) for one in (expert, *anti_experts)])
    assert settings.output is not None  # settings see to that
    made_of = {**identify(name), "adapters": [one.source.provenance() for one in adapters if one.source]}
    subjects = [
        Subject(
            turn.label,
            None,
            settings.output / POSITIONS / turn.label,
            {**made_of, **asdict(turn), "random_seed": settings.seed if turn.operation == "random" else None},
        )
        for turn in turns
    ]
    group, shown = processes(), progress or silent

    def ask_all(runs: Sequence[Run]) -> None:
        if any(run.unasked for run in runs):
            base = language_model.load_base(name, settings.dtype)
            _turn_through(base, adapters, dict(zip(turns, subjects, strict=True)), runs, settings, shown)

    results = carry_out(tasks, subjects, settings, ask_all, shown)
    if not group.is_main:
        return {}
    found = {turn.label: one for turn, one in zip(turns, results, strict=True)}
    chosen = _choose(settings, turns, tasks, target, budget)
    record = {
        "settings": settings.to_dict(),
        "made_of": made_of,
        "given": {"expert": expert, "anti_experts": list(anti_experts)},
        "score": str(target),
        "budget": settings.budget,
        "positions": {turn.label: {**asdict(turn), "tasks": found[turn.label]["tasks"]} for turn in turns},
        "chosen": {one.operation: _as_json(one) for one in chosen},
    }
    write_whole(settings.output / RESULT, json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    write_whole(settings.output / TABLE, _table(record))
    return record


def _first(known: Sequence[ScoreName], tasks: Sequence[Task]) -> ScoreName:
    of_first = [one for one in known if one.task == tasks[0].name]
    if not of_first:
        raise ExtSubError(f"{tasks[0].name} names no score beforehand: say which with --score")
    return of_first[0]


def _turn_through(
    base: Base,
    adapters: Sequence[Adapter],
    subjects: Mapping[Position, Subject],
    runs: Sequence[Run],
    settings: SweepSettings,
    progress: Progress,
) -> None:
    expert, *anti_experts = adapters
    dial = Dial(base.model, expert, *anti_experts, randomised(anti_experts[0], settings.seed))
    group = processes()
    for position, subject in subjects.items():
        theirs = [run for run in runs if run.subject is subject and run.unasked]
        if not theirs:
            continue
        with _at(position, dial, base, len(anti_experts)) as model:
            for run in theirs:
                ask(run, base.tokenizer if run.task.needs == "tokenizer" else model, settings, group, progress)
    dial.remove()


@contextlib.contextmanager
def _at(position: Position, dial: Dial, base: Base, anti_experts: int) -> Generator[LanguageModel]:
    if position.operation == "base":
        with dial.module.disable_adapter():
            yield LanguageModel(base.model, base.model, base.tokenizer)
    else:
        position.turn(dial, anti_experts)
        yield LanguageModel.adapted(dial.module, base.tokenizer)


def _choose(
    settings: SweepSettings, turns: Sequence[Position], tasks: Sequence[Task], target: ScoreName, budget: Budget | None
) -> list[Chosen]:
    assert settings.output is not None
    folder = settings.output / POSITIONS
    scores = {turn: _scores(folder / turn.label, tasks) for turn in turns}
    base, expert = scores[Position("base")], scores[Position("expert")]
    found = []
    for operation in settings.operations:
        candidates = {turn.label: one for turn, one in scores.items() if turn.operation == operation}
        if candidates:
            found.append(choose(operation, candidates, expert, base, target, budget, settings.seed))
    return found


def _scores(folder: Path, tasks: Sequence[Task]) -> AllScores:
    return {
        task.name: {
            (index, place): one
            for index, row in read_items(folder, task.name).items()
            for place, one in enumerate(scores_of(row))
        }
        for task in tasks
    }


def _as_json(chosen: Chosen) -> dict[str, Any]:
    figures = {name: one and one.to_dict() for name, one in vars(chosen).items() if name in FIGURES}
    return {**asdict(chosen), **figures}


FIGURES = ("validation", "test", "budget_test")


def _table(record: Mapping[str, Any]) -> str:
    """Every figure of every position, a row for each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["position", "operation", "alpha", "task", "score", "value", "low", "high", "n"])
    for label, position in record["positions"].items():
        for task, scores in position["tasks"].items():
            for score, one in scores.items():
                alpha = "" if position["alpha"] is None else position["alpha"]
                writer.writerow(
                    [label, position["operation"], alpha, task, score, one["value"], *one["ci95"], one["n"]]
                )
    return text.getvalue()
