"""Scores that were measured of an adapter: as plain figures, in its ``extsub.json`` and on its card. Who measured them,
and whether they are this adapter's, is settled before they come here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, TypedDict

from extsub.adapters.stated import data_named
from extsub.escaping import line, markdown
from extsub.formatting import rounded

DIGITS = 5
"""Digits of a figure in the hub's metadata."""
UNCHOSEN = "a sweep does not choose by"
"""What is said of the held-out half where the strength is not the sweep's choice."""

OURS = "adapter"
"""Whose figure is this adapter's own, of those in `MeasuredScore`."""


class FigureRecord(TypedDict):
    """A figure as files have it."""

    value: float
    ci95: list[float]
    """The 95 % interval, [low, high]."""
    n: int
    """Items that have the score."""


class MeasuredScore(TypedDict):
    """One score of a task."""

    score: str
    better: str
    """``higher`` or ``lower``"""
    figures: dict[str, FigureRecord]
    """The figure of the ``adapter`` itself, and of what stands beside it: ``expert``, ``base``."""


class MeasuredTask(TypedDict):
    """What was measured on one benchmark."""

    task: str
    data: str
    """A data set of the hub, or the name of a file; empty where it is not known."""
    data_sha256: str | None
    scores: list[MeasuredScore]


class Scores(TypedDict):
    """Everything that was measured of one adapter (docs/files.md)."""

    held_out: bool
    """Whether the figures are those of the half of the items that a sweep does not choose by; else they are of all."""
    chosen_by: list[dict[str, str | None]]
    """What each strength was chosen by on the other half: the ``score``, the rule (``choose``), the ``budget``; empty
    where no sweep chose it."""
    before_truncation: bool
    """Whether they are those of the adapter before it was truncated to a smaller rank."""
    base: dict[str, str | None]
    """The base model that it was measured on: its ``name``, its ``commit`` on the hub or its fingerprint
    (``sha256``)."""
    prompt: str | None
    """The prompt template that it was asked with."""
    tasks: list[MeasuredTask]
    sources: list[dict[str, str]]
    """The files that the figures are from, with their SHA-256."""


def model_index(called: str, scores: Scores, pipeline: str | None) -> list[dict[str, Any]]:
    """The scores as the hub's metadata has them: the adapter's own alone, each with its interval and its n.

    Args:
        called: the name of the adapter.
        pipeline: the hub's name of what the model does.
    """
    results = []
    for task in scores["tasks"]:
        name = f"{task['task']} on {task['data']}" if task["data"] else task["task"]
        dataset, _ = data_named(task["data"])
        result = {
            "task": {"type": pipeline or "text-generation"},
            "dataset": {
                "name": line(f"{name}, held-out half" if scores["held_out"] else name),
                "type": dataset or task["task"],
            },
            "metrics": [_metric(score) for score in task["scores"]],
        }
        results.append(result)
    return [{"name": line(called), "results": results}]


def _metric(score: MeasuredScore) -> dict[str, Any]:
    figure = score["figures"][OURS]
    value, *interval = (float(f"{number:.{DIGITS}g}") for number in (figure["value"], *figure["ci95"]))
    return {
        "type": score["score"],
        "value": value,
        "args": {"ci95": interval, "n": figure["n"], "better": score["better"]},
    }


def scores_section(scores: Scores) -> list[str]:
    """The scores for people: a part of the card."""
    columns = list(
        dict.fromkeys(who for task in scores["tasks"] for score in task["scores"] for who in score["figures"])
    )
    heads = ["task", "score", *("this adapter" if who == OURS else markdown(who) for who in columns), "n"]
    lines = ["## Scores", "", _how(scores), "", _row(heads), "|---|---|" + "--:|" * (len(columns) + 1)]
    for task in scores["tasks"]:
        for score in task["scores"]:
            arrow, figures = "↑" if score["better"] == "higher" else "↓", score["figures"]
            cells = [markdown(task["task"]), f"{markdown(score['score'])} {arrow}"]
            cells += [_cell(figures.get(who)) for who in columns]
            lines.append(_row([*cells, f"{figures[OURS]['n']:,}"]))
    return [*lines, "", *(f"- {markdown(text)}" for text in _details(scores)), ""]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(figure: FigureRecord | None) -> str:
    return markdown(" ".join(rounded(figure["value"], figure["ci95"]))) if figure else ""


def _how(scores: Scores) -> str:
    items = "all items"
    if scores["held_out"]:
        items = "the half of the items that " + ("did not choose the strength" if scores["chosen_by"] else UNCHOSEN)
    asked = f", asked with the prompt template {markdown(scores['prompt'])}" if scores["prompt"] else ""
    return f"Measured by extsub on {items}{asked}. 95 % intervals in brackets; ↑ higher is better, ↓ lower is better."


def _details(scores: Scores) -> Iterator[str]:
    """What the figures rest on."""
    for chosen in scores["chosen_by"]:
        budget = f", within the budget {chosen['budget']}" if chosen["budget"] else ""
        yield f"strength chosen on the other half by {chosen['score']} ({chosen['choose']}){budget}"
    base = scores["base"]
    version = f"commit {base['commit']}" if base["commit"] else f"fingerprint {_short(base['sha256'])}"
    yield f"base model {base['name']}, {version}"
    for task in scores["tasks"]:
        if task["data"]:
            yield f"{task['task']}: {task['data']}, SHA-256 {_short(task['data_sha256'])}"


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "unknown"
