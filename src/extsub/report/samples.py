"""What the models said, side by side, the items that changed most first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, NamedTuple

from extsub.evaluation.tasks import TASKS
from extsub.report.reading import MODELS, Sweep

MOST = 12
LONGEST = 1200
"""Characters of an answer that are shown."""
WORDS = 200
"""Characters of an answer that are compared."""


class Said(NamedTuple):
    """An answer; ``mark`` says whether it is a true choice."""

    model: str
    text: str
    mark: str = ""


@dataclass(frozen=True)
class Item:
    """A question with what each model says."""

    question: str
    said: tuple[Said, ...]
    changed: bool


@dataclass(frozen=True)
class Samples:
    """Items of one task."""

    task: str
    note: str
    items: tuple[Item, ...]


def samples(sweep: Sweep) -> list[Samples]:
    """Samples of the target's task, and of the first task with generated answers, at most 12 items each."""
    result = sweep.result
    tasks = [sweep.target.task, *(task for task in sweep.record["settings"]["tasks"] if _generates(task))]
    by_task = []
    for task in list(dict.fromkeys(tasks))[:2]:
        rows = {label: sweep.rows(label, task) for label in (*MODELS, result)}
        first = next(iter(rows["expert"].values()), {})
        if _generates(task) and "answer" in first:
            by_task.append(_answers(task, rows, result))
        elif "choices" in first and ("true" in first or "right" in first):
            by_task.append(_choices(task, rows, result))
        elif "choices" in first:  # none is true or false: the item has a score of its own
            by_task.append(_scored(task, rows, result, sweep.target.score))
    return by_task


def _generates(task: str) -> bool:
    return TASKS[task].needs == "answers"


Rows = Mapping[str, Mapping[int, dict[str, Any]]]


def _answers(task: str, rows: Rows, result: str) -> Samples:
    def unlike(index: int) -> float:
        before, after = (rows[label][index]["answer"].split()[:WORDS] for label in ("expert", result))
        return 0.0 if before == after else 1.0 - SequenceMatcher(None, before, after, autojunk=False).ratio()

    order = sorted(_common(rows), key=lambda index: (-unlike(index), index))
    items = []
    for index in order[:MOST]:
        said = tuple(Said(label, _cut(by_index[index]["answer"]) or "(nothing)") for label, by_index in rows.items())
        items.append(Item(_question(rows["expert"][index]), said, unlike(index) > 0))
    changed = sum(unlike(index) > 0 for index in order)
    note = (
        f"{changed} of {len(order)} answers differ between the expert and the result; those that differ most come "
        "first."
    )
    return Samples(task, note, tuple(items))


def _choices(task: str, rows: Rows, result: str) -> Samples:
    indices = _common(rows)
    picks = {label: {index: _likeliest(by_index[index]) for index in indices} for label, by_index in rows.items()}
    masses = {label: {index: _true_part(rows[label][index]) for index in indices} for label in ("expert", result)}

    def change(index: int) -> tuple[bool, float]:
        return (
            picks["expert"][index] != picks[result][index],
            abs(masses["expert"][index] - masses[result][index]),
        )

    order = sorted(indices, key=lambda index: (*(-float(part) for part in change(index)), index))
    items = []
    for index in order[:MOST]:
        true = _true(rows["expert"][index])
        said = tuple(
            Said(label, _cut(pick[index]), "true" if pick[index] in true else "false") for label, pick in picks.items()
        )
        items.append(Item(_question(rows["expert"][index]), said, change(index)[0]))
    return Samples(task, _counts(rows, picks, indices, result), tuple(items))


def _counts(rows: Rows, picks: Mapping[str, Mapping[int, str]], indices: Sequence[int], result: str) -> str:
    """How many changed, and in which direction: the samples are not random ones."""
    turned = {True: 0, False: 0}
    changed = 0
    for index in indices:
        true = _true(rows["expert"][index])
        before, after = (picks[label][index] for label in ("expert", result))
        changed += before != after
        if (before in true) != (after in true):
            turned[after in true] += 1
    return (
        f"The choice that each model finds likeliest. It differs between the expert and the result in {changed} of "
        f"{len(indices)} items: {turned[True]} turned from false to true, {turned[False]} from true to false. "
        "Those come first."
    )


def _scored(task: str, rows: Rows, result: str, score: str) -> Samples:
    scores = {
        index: {label: by_index[index]["scores"][score] for label, by_index in rows.items()} for index in _common(rows)
    }
    changes = {index: of_model[result] - of_model["expert"] for index, of_model in scores.items()}
    items = []
    for index in sorted(changes, key=lambda index: (-abs(changes[index]), index))[:MOST]:
        said = tuple(
            Said(label, f"{_cut(_likeliest(by_index[index]))} ({score} {scores[index][label]:.3f})")
            for label, by_index in rows.items()
        )
        items.append(Item(_question(rows["expert"][index]), said, changes[index] != 0))
    lower, higher = (sum(sign * change > 0 for change in changes.values()) for sign in (-1, 1))
    note = (
        f"The likeliest choice, and the item's {score}, which is lower in {lower} and higher in {higher} of "
        f"{len(changes)} items with the result than with the expert. Those that changed most come first."
    )
    return Samples(task, note, tuple(items))


def _common(rows: Rows) -> list[int]:
    first, *others = rows.values()
    return [index for index in first if all(index in other for other in others)]


def _likeliest(row: Mapping[str, Any]) -> str:
    values = row["log_likelihoods"]
    return row["choices"][values.index(max(values))]


def _true(row: Mapping[str, Any]) -> set[str]:
    return set(row["true"]) if "true" in row else {row["right"]}


def _true_part(row: Mapping[str, Any]) -> float:
    """The true choices' part of all probability."""
    top, true = max(row["log_likelihoods"]), _true(row)
    parts = {
        choice: math.exp(likelihood - top)
        for choice, likelihood in zip(row["choices"], row["log_likelihoods"], strict=True)
    }
    return math.fsum(part for choice, part in parts.items() if choice in true) / math.fsum(parts.values())


def _question(row: Mapping[str, Any]) -> str:
    asked = row["messages"][-1][1] if "messages" in row else ""
    return _cut(str(row.get("question") or asked or row.get("prompt") or ""))


def _cut(text: str) -> str:
    text = text.strip()
    return text if len(text) <= LONGEST else f"{text[:LONGEST].rstrip()} […]"
