"""Positions of the dial and what items score there: every one is asked once, with one load of the base model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from extsub.adapters.adapter import Adapter
from extsub.distributed import ProcessGroup
from extsub.errors import ExtSubError
from extsub.evaluation.evaluate import carry_out
from extsub.evaluation.evaluated_model import EvaluatedModel
from extsub.evaluation.groups import read_scores
from extsub.evaluation.run import Advance, Progress, Run, ask
from extsub.evaluation.store import Results
from extsub.evaluation.task import Items, Task
from extsub.inference import language_model
from extsub.inference.batching import free_memory
from extsub.inference.language_model import Base, LanguageModel
from extsub.inference.mixture import Mixture
from extsub.inference.soundness import Soundness
from extsub.models.dial import Dial
from extsub.models.source import ModelName
from extsub.sweeping.grid import SweepPoint, randomised
from extsub.sweeping.references import METHODS
from extsub.sweeping.selection import AllScores
from extsub.sweeping.settings import POSITIONS, SweepSettings


@dataclass
class Runner:
    """A base model with adapters on a dial, and the tasks. The base is loaded when it is first needed."""

    base: ModelName
    provenance: Mapping[str, Any]
    """What tells base and adapters from any others."""
    adapters: Sequence[Adapter]
    tasks: Sequence[Task]
    items: Mapping[str, Items]
    """The items of each task."""
    settings: SweepSettings
    group: ProcessGroup
    progress: Progress
    notes: tuple[str, ...] = ()
    """What a user should know of the prompt that the adapters are asked with."""
    results: dict[SweepPoint, Results] = field(default_factory=dict)
    """What ``results.json`` holds for every point that was asked; on the main process."""
    _loaded: tuple[Base, Dial, Soundness] | None = None
    _scores: dict[SweepPoint, AllScores] = field(default_factory=dict)

    def ask(self, points: Sequence[SweepPoint]) -> None:
        """Ask at these points everything that was not asked before.

        Raises:
            ExtSubError: as ``evaluate``.
        """
        if not points:
            return
        evaluated_models = {point: self._evaluated_model(point) for point in points}

        def turn_through(runs: Sequence[Run]) -> None:
            total, left = sum(len(run.chosen) for run in runs), sum(len(run.unasked) for run in runs)
            name = points[0].label if len(points) == 1 else f"{len(points)} positions"
            with self.progress(name, total, total - left) as advance:
                for point, evaluated in evaluated_models.items():
                    theirs = [run for run in runs if run.evaluated is evaluated and run.unasked]
                    if theirs:
                        self._ask_at(point, theirs, advance)
            if any(task.judge for task in self.tasks):
                self.put_away()  # a judge needs the memory

        results = carry_out(
            self.tasks, self.items, list(evaluated_models.values()), self.settings, turn_through, self.progress
        )
        self.results |= dict(zip(points, results, strict=False))  # the other processes find nothing

    def scores(self, point: SweepPoint) -> AllScores:
        """What every item scored; for the main process, once the position was asked."""
        if point not in self._scores:
            self._scores[point] = {task.name: read_scores(self._folder(point), task.name) for task in self.tasks}
        return self._scores[point]

    def put_away(self) -> None:
        """Let go of the base model."""
        if self._loaded:
            self._loaded[1].remove()
            self._loaded = None
            free_memory()

    def _folder(self, point: SweepPoint) -> Path:
        return self.settings.folder / POSITIONS / point.label

    def _evaluated_model(self, point: SweepPoint) -> EvaluatedModel:
        random = self.settings.seed if point.operation == "random" else None
        told = {"system": self.settings.system} if point.operation == "prompt" else {}
        record = {**self.provenance, **point.to_dict(), "random_seed": random, **told}
        return EvaluatedModel(point.label, None, self._folder(point), record, self.base.notes, self.notes)

    def _ask_at(self, point: SweepPoint, runs: Sequence[Run], advance: Advance) -> None:
        if self._loaded is None:
            base = language_model.load_base(self.base, self.settings.dtype)
            expert, *anti_experts = self.adapters
            random = [
                randomised(adapter, self.settings.seed + 1000 * place) for place, adapter in enumerate(anti_experts)
            ]
            dial = Dial(base.model, expert, *anti_experts, *random)
            self._loaded = base, dial, LanguageModel.adapted(dial.module, base.tokenizer).tried().soundness
        base = self._loaded[0]
        with self._at(point) as model:
            for run in runs:
                respondent = base.tokenizer if run.task.needs == "tokenizer" else model
                try:
                    ask(run, respondent, self.settings, self.group, lambda *_: contextlib.nullcontext(advance))
                except ExtSubError as error:
                    raise ExtSubError(f"at {point.label}: {error}") from error

    @contextlib.contextmanager
    def _at(self, point: SweepPoint) -> Generator[LanguageModel]:
        assert self._loaded is not None
        base, dial, soundness = self._loaded
        adapted = replace(LanguageModel.adapted(dial.module, base.tokenizer), soundness=soundness)
        if point.operation == "base":
            with dial.module.disable_adapter():
                yield LanguageModel(base.model, base.model, base.tokenizer, soundness=soundness)
        elif method := METHODS.get(point.operation):
            self._turn(SweepPoint("expert"))
            weights = method.weights(point.alpha or 0.0)
            positions = tuple(self._position(SweepPoint(name), adapted) for name in weights)
            mixture = Mixture(positions, tuple(weights.values()), method.plausible) if positions else None
            yield replace(adapted, mixture=mixture, system="" if positions else self.settings.system)
        else:
            self._turn(point)
            yield adapted

    def _turn(self, point: SweepPoint) -> None:
        assert self._loaded is not None
        point.set_on(self._loaded[1], len(self.adapters) - 1)

    def _position(
        self, point: SweepPoint, adapted: LanguageModel
    ) -> Callable[[], AbstractContextManager[LanguageModel]]:
        """A point to come back to quickly, at every token of an answer say."""
        assert self._loaded is not None
        if point.operation == "base" and adapted.virtual_tokens:  # of zeros, these would still be attended to
            return partial(self._at, point)
        self._turn(point)
        turn_back = self._loaded[1].keep()

        @contextlib.contextmanager
        def there() -> Generator[LanguageModel]:
            turn_back()
            yield adapted

        return there
