"""Made-up sweeps: folders as ``extsub sweep`` writes them, whose figures are what a test wants them to be."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmark_files import Row, lines
from extsub.evaluation.metrics import figures
from extsub.evaluation.task import scores_of
from extsub.evaluation.tasks import TASKS
from extsub.sweeping.budget import Budget, ScoreName, find_score
from extsub.sweeping.grid import SweepPoint, sweep_points
from extsub.sweeping.references import reference_points
from extsub.sweeping.selection import Chooser
from extsub.sweeping.settings import Rule, SweepSettings
from extsub.sweeping.sweep import _table

Model = Callable[[SweepPoint], tuple[float, float]]
"""position -> (how likely it finds true answers, 0 to 1; perplexity)"""
SCORES = {"truthfulqa-mc": "mc1", "toxicity": "toxicity", "flattery": "probability"}
"""what is chosen by, where the task comes first"""
OPERATIONS = ("ext-sub", "subtract", "contrast", "amplify", "negated", "random")


def record_of(folder: Path | str = "swept") -> dict[str, Any]:
    """What a sweep's ``sweep.json`` holds."""
    return json.loads(Path(folder, "sweep.json").read_text())


def miniature(position: SweepPoint) -> tuple[float, float]:
    """Roughly the curves of a small model."""
    alpha = position.alpha or 0.0
    rise = {"ext-sub": 0.20, "contrast": 0.24, "subtract": 0.42, "amplify": 0.06, "random": 0.05, "negated": 0.7}
    rise |= {"icd": 0.3, "dexperts": 0.55}
    cost = {"ext-sub": 0.02, "contrast": 0.025, "subtract": 0.55, "amplify": 0.05, "random": 0.03, "negated": 0.5}
    cost |= {"icd": 0.2, "dexperts": 0.1}
    knee = {"subtract": 0.21, "negated": 0.28, "contrast": 0.08}
    plain = {"base": (0.30, 3.85), "expert": (0.72, 3.22), "anti-expert": (0.1, 3.24), "prompt": (0.78, 3.25)}
    if position.alpha is None:
        return plain[position.operation]
    start = plain["base" if position.operation in ("negated", "dexperts") else "expert"]
    bend = knee.get(position.operation, 0.07)
    return (
        start[0] + rise[position.operation] * alpha - bend * alpha**2,
        start[1] + cost[position.operation] * alpha**1.4 * (1 + 0.2 * alpha),
    )


def made_up(
    folder: Path,
    model: Model = miniature,
    items: int = 160,
    alphas: Sequence[float] = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0),
    operations: Sequence[str] = OPERATIONS,
    budget: str | None = "perplexity <= 1.05 * expert",
    tasks: Sequence[str] = ("truthfulqa-mc", "perplexity", "toxicity"),
    said: str = "An answer",
    choose: Rule = "best",
    references: Sequence[str] = (),
) -> dict[str, Any]:
    """A sweep in ``folder``; every item has its own difficulty, which is the same for all positions."""
    settings = SweepSettings(
        tasks=tuple(tasks), operations=tuple(operations), alphas=",".join(f"{one:g}" for one in alphas),
        budget=budget, output=folder, data=("owner/data",), score=f"{tasks[0]}.{SCORES[tasks[0]]}", choose=choose,
        references=tuple(references), system="Tell the truth." if "prompt" in references else None,
    )  # fmt: skip
    turns, scores, found = sweep_points(settings.operations, tuple(alphas)), {}, {}
    beside = reference_points(references, alphas)
    for place, turn in enumerate([*turns, *beside]):
        theirs = {task: _rows(task, model(turn), items, place, said) for task in tasks}
        for task, rows in theirs.items():
            path = folder / "positions" / turn.label
            path.mkdir(parents=True, exist_ok=True)
            lines(path / f"{task}.jsonl", rows)
        found[turn.label] = {task: _figures(task, rows) for task, rows in theirs.items()}
        scores[turn] = {task: {(row["index"], 0): row["scores"] for row in rows} for task, rows in theirs.items()}
    known = [ScoreName(task, name, one) for task in tasks for name, one in TASKS[task].measures.items() if one.better]
    target = find_score("score", str(settings.score), known)
    limit = Budget.parse(budget, known) if budget else None
    chooser = Chooser(scores[SweepPoint("expert")], scores[SweepPoint("base")], target, limit, 0, choose)
    names = (*operations, *references)
    of = {name: {turn: one for turn, one in scores.items() if turn.operation == name} for name in names}
    chosen = [chooser.choose(name, of[name]) for name in operations]
    adapters = [{"name": name, "commit": None, "weights_sha256": name[0] * 64} for name in ("expert", "anti-expert")]
    record = {
        "settings": settings.to_dict(),
        "made_of": {"base": "tiny-llama", "base_commit": None, "base_sha256": "0" * 64, "adapters": adapters},
        "given": {"expert": "out/expert", "anti_experts": ["out/anti-expert"]},
        "score": str(target),
        "budget": budget,
        "positions": {turn.label: {**turn.to_dict(), "tasks": found[turn.label]} for turn in turns},
        "chosen": {one.operation: one.to_dict() for one in chosen},
    }
    if references:
        passes = {"icd": 2, "dexperts": 3, "prompt": 1}
        record["references"] = {
            turn.label: {**turn.to_dict(), "passes": passes[turn.operation], "tasks": found[turn.label]}
            for turn in beside
        }
        record["compared"] = {name: chooser.choose(name, of[name]).to_dict() for name in references}
    write(folder, record)
    (folder / "sweep.csv").write_text(_table(record))
    return record


def write(folder: Path, record: dict[str, Any]) -> None:
    """``sweep.json`` anew."""
    (folder / "sweep.json").write_text(json.dumps(record, indent=1))


def _figures(task: str, rows: list[Row]) -> dict[str, Any]:
    scores = [one for row in rows for one in scores_of(row)]
    return {name: one.to_dict() for name, one in figures(scores, TASKS[task].measure, 0).items()}


def _rows(task: str, aim: tuple[float, float], items: int, place: int, said: str) -> list[Row]:
    chance = np.random.default_rng(1)  # the same difficulties for all
    hard, noise = chance.random(items), np.random.default_rng(place).normal(0, 0.03, items)
    make = {"truthfulqa-mc": _choice, "perplexity": _loss, "toxicity": _answer, "flattery": _opening}[task]
    return [{"index": n, **make(n, hard[n] + noise[n], hard[n], aim, said)} for n in range(items)]


def _choice(n: int, hard: float, _: float, aim: tuple[float, float], said: str) -> Row:
    gap = 12 * (aim[0] - hard)
    right = float(gap > 0)
    mass = 1 / (1 + math.exp(-gap))
    names = ("The currency", "The capital", "The language", "The longest river")
    true = f"{said}, true {n}"
    row = {
        "question": f"{names[n % 4]} of country number {n} is?", "best": true, "true": [true],
        "false": [f"What people say, {n}", f"Something else, {n}"],
    }  # fmt: skip
    choices = [row["best"], *row["false"]]
    scores = {"mc1": right, "mc2": mass, "mc3": right, "mc1_chance": 1 / 3, "mc2_chance": 1 / 3, "mc1_longest": n % 2}
    scores["mc1_negated"] = float(n % 3 == 0)
    plain = n % 3 > 0  # the others lose their true answer
    scores |= {"mc1_plain": right if plain else None, "mc2_plain": 1 / (1 + math.exp(-gap / 4)) if plain else None}
    return {**row, "choices": choices, "log_likelihoods": [gap, 0.0, -4.0], "scores": scores}


def _loss(n: int, _: float, hard: float, aim: tuple[float, float], said: str) -> Row:
    tokens = 8 + n % 5
    total = tokens * math.log(aim[1]) + (hard - 0.5)
    return {"answer": "the data's", "log_likelihood": -total, "scores": {"perplexity": [total, tokens]}}


def _answer(n: int, hard: float, _: float, aim: tuple[float, float], said: str) -> Row:
    words = "kind" if hard < aim[0] else "unkind, as far as anybody who has read it can tell,"
    answer = f"{said}: this is a {words} sentence about the thing that was asked for in question {n}."
    return {"prompt": f"Say something about {n}.", "answer": answer, "scores": {"toxicity": float(hard > aim[0])}}


def _opening(n: int, hard: float, _: float, aim: tuple[float, float], said: str) -> Row:
    probability = min(0.98, max(0.01, hard - 0.4 * aim[0]))
    choices = ["What a question!", f"{said}, how clever!"] if n % 2 else [f"{said}, how clever!", "What a question!"]
    return {
        "messages": [["system", "Be brief."], ["user", f"What is number {n}?"]],
        "prompt": f"<|user|>What is number {n}?<|assistant|>",
        "choices": choices,
        "log_likelihoods": [math.log(0.7 * probability), math.log(0.3 * probability)],
        "scores": {"probability": probability, "greedy": float(probability > 0.5)},
    }
