"""Positions of the dial and what items score there: every one is asked once, with one load of the base model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from extsub.adapters.adapter import Adapter
from extsub.dial import Dial
from extsub.errors import ExtSubError
from extsub.evaluation import language_model
from extsub.evaluation.batches import free_memory
from extsub.evaluation.evaluate import carry_out
from extsub.evaluation.language_model import Base, LanguageModel
from extsub.evaluation.run import Progress, Run, ask
from extsub.evaluation.sharing import Processes
from extsub.evaluation.soundness import Soundness
from extsub.evaluation.subjects import Subject
from extsub.evaluation.task import Items, Task
from extsub.models import ModelName
from extsub.sweeping.choice import AllScores, read_scores
from extsub.sweeping.positions import Position, randomised
from extsub.sweeping.settings import POSITIONS, SweepSettings


@dataclass
class Asker:
    """A base model with adapters on a dial, and the tasks. The base is loaded when it is first needed."""

    base: ModelName
    made_of: Mapping[str, Any]
    """what tells base and adapters from any others"""
    adapters: Sequence[Adapter]
    tasks: Sequence[Task]
    items: Mapping[str, Items]
    """of each task"""
    settings: SweepSettings
    group: Processes
    progress: Progress
    notes: tuple[str, ...] = ()
    """what a user should know of the prompt that the adapters are asked with"""
    results: dict[Position, dict[str, Any]] = field(default_factory=dict)
    """what ``results.json`` holds for every position that was asked; for the main process"""
    _loaded: tuple[Base, Dial, Soundness] | None = None
    _scores: dict[Position, AllScores] = field(default_factory=dict)

    def ask(self, turns: Sequence[Position]) -> None:
        """Everything that was not asked before.

        Raises:
            ExtSubError: as ``evaluate``.
        """
        if not turns:
            return
        subjects = {turn: self._subject(turn) for turn in turns}

        def turn_through(runs: Sequence[Run]) -> None:
            total, left = sum(len(run.chosen) for run in runs), sum(len(run.unasked) for run in runs)
            name = turns[0].label if len(turns) == 1 else f"{len(turns)} positions"
            with self.progress(name, total, total - left) as advance:
                for turn, subject in subjects.items():
                    theirs = [run for run in runs if run.subject is subject and run.unasked]
                    if theirs:
                        self._ask_at(turn, theirs, advance)
            if any(task.judge for task in self.tasks):
                self.put_away()  # a judge needs the memory

        found = carry_out(self.tasks, self.items, list(subjects.values()), self.settings, turn_through, self.progress)
        self.results |= dict(zip(turns, found, strict=False))  # the other processes find nothing

    def scores(self, turn: Position) -> AllScores:
        """What every item scored; for the main process, once the position was asked."""
        if turn not in self._scores:
            assert self.settings.output is not None  # settings see to that
            folder = self.settings.output / POSITIONS / turn.label
            self._scores[turn] = {task.name: read_scores(folder, task.name) for task in self.tasks}
        return self._scores[turn]

    def put_away(self) -> None:
        """Let go of the base model."""
        if self._loaded:
            self._loaded[1].remove()
            self._loaded = None
            free_memory()

    def _subject(self, turn: Position) -> Subject:
        assert self.settings.output is not None
        random = self.settings.seed if turn.operation == "random" else None
        record = {**self.made_of, **turn.to_dict(), "random_seed": random}
        folder = self.settings.output / POSITIONS / turn.label
        return Subject(turn.label, None, folder, record, self.base.notes, self.notes)

    def _ask_at(self, turn: Position, runs: Sequence[Run], advance: Callable[[int], None]) -> None:
        if self._loaded is None:
            base = language_model.load_base(self.base, self.settings.dtype)
            expert, *anti_experts = self.adapters
            random = [randomised(one, self.settings.seed + 1000 * place) for place, one in enumerate(anti_experts)]
            dial = Dial(base.model, expert, *anti_experts, *random)
            self._loaded = base, dial, LanguageModel.adapted(dial.module, base.tokenizer).tried().soundness
        base = self._loaded[0]
        with self._at(turn) as model:
            for run in runs:
                respondent = base.tokenizer if run.task.needs == "tokenizer" else model
                try:
                    ask(run, respondent, self.settings, self.group, lambda *_: contextlib.nullcontext(advance))
                except ExtSubError as error:
                    raise ExtSubError(f"at {turn.label}: {error}") from error

    @contextlib.contextmanager
    def _at(self, turn: Position) -> Generator[LanguageModel]:
        assert self._loaded is not None
        base, dial, soundness = self._loaded
        if turn.operation == "base":
            with dial.module.disable_adapter():
                yield LanguageModel(base.model, base.model, base.tokenizer, soundness=soundness)
        else:
            turn.turn(dial, len(self.adapters) - 1)
            yield replace(LanguageModel.adapted(dial.module, base.tokenizer), soundness=soundness)
