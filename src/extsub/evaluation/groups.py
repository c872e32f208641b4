"""Folders of results as models: each alone, or several together as a group, one model made with several seeds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extsub.adapters.scores import FigureRecord
from extsub.errors import ExtSubError
from extsub.escaping import brief
from extsub.escaping import shown as quoted
from extsub.evaluation.metrics import Scores, figures
from extsub.evaluation.seeds import GroupFigure, Items, group_figure
from extsub.evaluation.store import RESULTS, Results, read_items, read_results
from extsub.evaluation.task import scores_of
from extsub.evaluation.tasks import TASKS, check_known
from extsub.files.reading import located


@dataclass(frozen=True, eq=False)
class Source:
    """What one model scored: a folder of results, or the part of its items that counts."""

    folder: Path
    results: Results
    keeps: Callable[[Any], bool] | None = None
    """Which items count, by their (index, sample); all of them unless given."""

    @functools.cache  # noqa: B019  a folder is read once in a process
    def scores(self, task: str) -> dict[Any, Scores]:
        """The scores of every item that counts.

        Raises:
            ExtSubError: the items are not there.
        """
        rows = read_scores(self.folder, task)
        return {key: scores for key, scores in rows.items() if self.keeps is None or self.keeps(key)}

    def items(self, task: str, score: str) -> Items:
        """One score of every item that counts."""
        return {key: scores.get(score) for key, scores in self.scores(task).items()}

    @functools.cache  # noqa: B019
    def figure(self, task: str, score: str) -> FigureRecord | None:
        """The figure of a score over all items that count; None where there is none."""
        known = self.results["tasks"].get(task, {}).get(score)
        if known is None or self.keeps is None:
            return known
        rows = [{score: value} for value in self.items(task, score).values() if value is not None]
        return figures(rows, TASKS[task].measure, 0)[score].to_dict() if rows else None


@dataclass(frozen=True, eq=False)
class Group:
    """One model under the name that tables give it; several sources of a score are several seeds."""

    name: str
    sources: tuple[Source, ...]

    def having(self, task: str, score: str) -> tuple[Source, ...]:
        """The sources that have a figure of a task's score."""
        return tuple(source for source in self.sources if source.figure(task, score) is not None)

    def items(self, task: str, score: str) -> list[Items]:
        """For each source that has a score, that score of every item."""
        return [source.items(task, score) for source in self.having(task, score)]

    def figure(self, task: str, score: str) -> GroupFigure | None:
        """The figure of a score over the sources that have it; None where none has it."""
        figures = [figure for source in self.sources if (figure := source.figure(task, score)) is not None]
        if len(figures) < 2:
            return {**figures[0]} if figures else None
        return group_figure(figures, self.items(task, score), TASKS[task].measure(score))


def read_scores(folder: Path, task: str) -> dict[Any, Scores]:
    """What every item of a task scored, or every sample of it, as an evaluation saved it in ``folder``.

    Raises:
        ExtSubError: the items are not there.
    """
    return {
        (index, place): scores
        for index, row in read_items(folder, task).items()
        for place, scores in enumerate(scores_of(row))
    }


def read_groups(
    results: Sequence[str | Path], groups: Mapping[str, Sequence[str | Path]], command: str
) -> tuple[Group, ...]:
    """Folders that ``evaluate`` wrote, each by itself, then the groups.

    Args:
        results: folders, or their ``results.json``.
        groups: for each name the folders of one model, made with different seeds.
        command: whose arguments these are, for errors.

    Raises:
        ExtSubError: a folder holds no results, or stands twice; two have one name; a task is unknown.
    """
    alone = [results_folder(result) for result in results]
    named = {name: [results_folder(result) for result in several] for name, several in groups.items()}
    folders = [*alone, *(folder for several in named.values() for folder in several)]
    if len(set(folders)) < len(folders):
        raise ExtSubError(f"{command}: the same folder is given twice")
    names = short_names(alone)
    if twice := set(names) & set(named):
        raise ExtSubError(f"{command}: {brief(min(twice))} is a folder and a group: give the group another name")
    sources = {folder: _source(folder) for folder in folders}
    members = {**{name: [folder] for name, folder in zip(names, alone, strict=True)}, **named}
    return tuple(Group(name, tuple(sources[folder] for folder in folders)) for name, folders in members.items())


def results_folder(given: str | Path) -> Path:
    """A folder that is there, given itself or by its ``results.json``.

    Raises:
        ExtSubError: it is not there.
    """
    path = located(str(given))
    path = path.parent if path.name == RESULTS else path
    if not path.is_dir():
        raise ExtSubError(f"{given}: no such folder of results")
    return path.resolve()


def _source(folder: Path) -> Source:
    if not (results := read_results(folder)):
        raise ExtSubError(f"{folder}: no {RESULTS} in it; give a folder that extsub evaluate wrote")
    check_known(results["tasks"], str(folder))
    return Source(folder, results)


def short_names(folders: Sequence[Path]) -> tuple[str, ...]:
    """The shortest names by which the folders can be told apart: the last parts of their paths."""
    for parts in range(1, max((len(folder.parts) for folder in folders), default=0)):
        names = ["/".join(folder.parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            return tuple(names)
    return tuple(map(str, folders))


def notes_on(task: str, groups: Sequence[Group]) -> Iterator[str]:
    """Sentences on the models that were not asked a task, or were asked it otherwise than the first that was.

    Raises:
        ExtSubError: two were asked other items, and cannot be compared.
    """
    sources = [source for group in groups for source in group.sources]
    asked = [task in source.results["tasks"] for source in sources]
    runs = [source.results["runs"].get(task) for source in sources]
    first = next((run["identity"] for run in runs if run), {})
    names = short_names([source.folder for source in sources])
    for source, name, run, is_asked in zip(sources, names, runs, asked, strict=True):
        if not is_asked:
            yield f"{name} was not evaluated on {task}"
        identity = run["identity"] if run else {}
        if identity.get("data") != first.get("data") and identity:
            raise ExtSubError(f"{source.folder}: {task} was evaluated on other data: evaluate both on the same file")
        same = ("model",) if identity.get("limit") else ("model", "seed")  # which draws the items
        for key in identity:
            if key not in same and identity[key] != first.get(key):
                yield f"{name}, {task}: {brief(key)} is {quoted(identity[key])}, not {quoted(first.get(key))}"


def notes_on_seeds(groups: Sequence[Group]) -> Iterator[str]:
    """Sentences on what ± means, and where there is none."""
    several = [group for group in groups if len(group.sources) > 1]
    if not several:
        return
    counts = ", ".join(f"{brief(group.name)} {len(group.sources)}" for group in several)
    yield (
        f"± is the standard deviation over runs of different seeds ({counts}), with n − 1. Intervals and p count both "
        "seeds and items."
    )
    if len(several) > 1 and len({len(group.sources) for group in several}) == 1:
        yield "groups are paired seed by seed, in the order in which their folders are given"
    for group in groups:
        if len(group.sources) == 1:
            yield f"{brief(group.name)} is one run: it has no spread over seeds, and p counts none for it"
