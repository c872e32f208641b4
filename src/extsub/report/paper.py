"""The paper's table: a line for each model, a column for each of its scores that was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extsub.errors import ExtSubError
from extsub.escaping import brief
from extsub.evaluation.groups import Group, notes_on
from extsub.evaluation.seeds import GroupFigure, group_difference
from extsub.evaluation.tasks import TASKS, load_task_files
from extsub.formatting import rounded, spread
from extsub.notebooks import table as notebook_table
from extsub.report.models import Models, read_models
from extsub.tables import Cell, Table, TableRow, to_csv

PAPER = {
    "truthfulqa-mc": {"mc1": "MC1", "mc2": "MC2"},
    "truthfulqa-gen": {
        "truth": "true", "info": "informative", "truth_and_info": "true and informative",
        "bleu_acc": "BLEU", "rouge1_acc": "ROUGE-1",
    },
    "halueval-qa": {"accuracy_sum": "HaluEval QA"},
    "halueval-dialogue": {"accuracy_sum": "HaluEval dialogue"},
    "halueval-summarization": {"accuracy_sum": "HaluEval summarization"},
    "toxicity": {"toxicity": "toxicity", "toxic_share": "toxic answers"},
    "repetition": {f"repeated_{n}grams": f"repeated {n}-grams" for n in range(1, 5)},
    "perplexity": {"perplexity": "perplexity"},
}  # fmt: skip
"""The scores of the paper, task by task, and what its columns are called; of ``ability`` every score is one."""
ABILITY = "ability"
ARROWS = {"higher": " ↑", "lower": " ↓"}


@dataclass(frozen=True)
class Column:
    """A column of the paper's table: a score of a task."""

    task: str
    score: str
    head: str

    @property
    def better(self) -> str | None:
        """Which way the score is better."""
        return TASKS[self.task].measure(self.score).better


@dataclass(frozen=True)
class PaperTable:
    """Models, scores, and for each pair a figure where it was measured."""

    names: tuple[str, ...]
    alphas: tuple[str, ...]
    """Of every model the strengths at which it stands, as text; empty for one that has none."""
    columns: tuple[Column, ...]
    figures: Mapping[tuple[str, Column], GroupFigure]
    best: frozenset[tuple[str, Column]]
    """The best of a column, where the interval of its difference from the second keeps clear of zero."""
    notes: tuple[str, ...]

    def table(self) -> Table:
        """A line for each model."""
        strength = ["α"] if any(self.alphas) else []
        heads = [f"{column.head}{ARROWS.get(column.better or '', '')}" for column in self.columns]
        rows = []
        for name, alpha in zip(self.names, self.alphas, strict=True):
            cells = [Cell(name), *([Cell(alpha)] if strength else [])]
            cells += [self._cell(name, column) for column in self.columns]
            rows.append(TableRow(tuple(cells)))
        return Table("the paper's table", " ".join(self.notes), ("model", *strength, *heads), 1, rows)

    def _cell(self, name: str, column: Column) -> Cell:
        figure = self.figures.get((name, column))
        if figure is None:
            return Cell("")
        is_best = (name, column) in self.best
        if "sd" in figure:
            return Cell(" ± ".join(spread(figure["value"], figure["sd"])), bold=is_best)
        return Cell(*rounded(figure["value"], figure["ci95"]), bold=is_best)

    def to_csv(self) -> str:
        """The table as CSV, with bare numbers, a row for each figure."""
        alphas = dict(zip(self.names, self.alphas, strict=True))
        rows = []
        for (name, column), figure in self.figures.items():
            which = (name, alphas[name], column.task, column.score)
            rows.append([*which, figure["value"], figure.get("sd"), *figure["ci95"], figure["n"]])
        return to_csv(("model", "alpha", "task", "score", "value", "sd", "low", "high", "n"), rows)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values: ``models.<name>.tasks.<task>.<score>`` is a figure, and whether it is the column's best."""
        models: dict[str, Any] = {
            name: {"alpha": alpha or None, "tasks": {}} for name, alpha in zip(self.names, self.alphas, strict=True)
        }
        for (name, column), figure in self.figures.items():
            entry = {**figure, "best": (name, column) in self.best}
            models[name]["tasks"].setdefault(column.task, {})[column.score] = entry
        return {"models": models, "notes": list(self.notes)}

    def _repr_html_(self) -> str:
        table = self.table()
        rows = [[f"{cell.text} {cell.small}".strip() for cell in row.cells] for row in table.rows]
        return notebook_table(table.title, table.head, rows)


def table(
    *folders: str | Path,
    groups: Mapping[str, Sequence[str | Path]] | None = None,
    seed: int = 0,
    task_file: Sequence[str] = (),
) -> PaperTable:
    """The paper's table of what was measured: base, expert, anti-expert, subtraction, Ext-Sub, and what else there is.

    A model that several folders have is one line. Where more than one of them has a score, that is its mean ± standard
    deviation over them: sweeps of several seeds, say. A score that only one has stands with its 95 % interval.

    Args:
        folders: what ``sweep`` wrote, of which each operation stands at the strength chosen for it, on the half of the
            items that did not choose; what a recipe wrote, with such a sweep in it; or what ``evaluate`` wrote for a
            model, which is called as its folder.
        groups: for each name folders that ``evaluate`` wrote.
        seed: of the intervals of differences.
        task_file: Python files of your own that register tasks or operations.

    Raises:
        ExtSubError: a folder holds nothing of the kind, a score was measured on other data in two of them, or the paper
            has none of their scores.
    """
    load_task_files(tuple(task_file))
    models = read_models(folders, groups or {})
    columns = tuple(_columns(models))
    if not columns:
        raise ExtSubError(f"table: none of the paper's scores was measured: those of {', '.join(PAPER)}, {ABILITY}")
    pairs = [(group, column) for group in models.groups for column in columns]
    figures = {
        (group.name, column): figure
        for group, column in pairs
        if (figure := group.figure(column.task, column.score)) is not None
    }
    best = frozenset(filter(None, (_best(column, models.groups, figures, seed) for column in columns)))
    names = tuple(group.name for group in models.groups)
    notes = tuple(_notes(models, columns, figures, bool(best)))
    return PaperTable(names, tuple(models.alphas.get(name, "") for name in names), columns, figures, best, notes)


def _columns(models: Models) -> Iterator[Column]:
    """The score that sweeps chose by, where the paper does not have it, and those of the paper that some model has."""
    groups, target = models.groups, models.target
    if target and target.score not in PAPER.get(target.task, ()) and target.task != ABILITY:
        yield Column(target.task, target.score, str(target))
    for task, heads in PAPER.items():
        for score, head in heads.items():
            if any(group.having(task, score) for group in groups):
                yield Column(task, score, head)
    known = [source.results["tasks"].get(ABILITY, {}) for group in groups for source in group.sources]
    for score in dict.fromkeys(score for figures in known for score in figures):
        if TASKS[ABILITY].measure(score).better:
            yield Column(ABILITY, score, score)


def _best(
    column: Column, groups: Sequence[Group], figures: Mapping[tuple[str, Column], GroupFigure], seed: int
) -> tuple[str, Column] | None:
    """The best, if the second is further away than chance takes it."""
    sign = {"higher": -1, "lower": 1}.get(column.better or "", 0)
    there = [group for group in groups if (group.name, column) in figures]
    if not sign or len(there) < 2:
        return None
    first, second, *_ = sorted(there, key=lambda group: sign * figures[group.name, column]["value"])
    items = (group.items(column.task, column.score) for group in (second, first))
    difference = group_difference(*items, TASKS[column.task].measure(column.score), seed)
    is_clear = difference is not None and (difference.ci95[0] > 0 or difference.ci95[1] < 0)
    return (first.name, column) if is_clear else None


def _notes(
    models: Models, columns: Sequence[Column], figures: Mapping[tuple[str, Column], GroupFigure], has_best: bool
) -> Iterator[str]:
    """What the figures are, where they were asked otherwise, and which are missing."""
    if any("sd" in figure for figure in figures.values()):
        yield "± is the standard deviation over runs of different seeds, with n − 1"
    if any("sd" not in figure for figure in figures.values()):
        yield "in brackets: 95 % intervals over items"
    if has_best:
        yield "bold: the best of a column, where the interval of its difference from the second keeps clear of zero"
    yield from models.notes
    for task in dict.fromkeys(column.task for column in columns):
        asked = (
            Group(group.name, tuple(s for s in group.sources if task in s.results["tasks"])) for group in models.groups
        )
        yield from notes_on(task, [group for group in asked if group.sources])
    for group in models.groups:
        if not group.sources:  # no strength of it keeps the budget, which is said already
            continue
        if missing := [column.head for column in columns if (group.name, column) not in figures]:
            yield f"not measured of {brief(group.name)}: {', '.join(missing)}"
    tasks = {column.task for column in columns}
    if absent := [task for task in (*PAPER, ABILITY) if task not in tasks]:
        yield f"not measured of any model: {', '.join(absent)}"
