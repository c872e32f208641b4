"""A recipe from its data to the result, by the public functions; what is done already is not repeated."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from extsub.adapters.load import load_adapter
from extsub.adapters.save import save_adapter
from extsub.combination import combine
from extsub.errors import ExtSubError, kept_when_interrupted
from extsub.evaluation.batches import free_memory
from extsub.evaluation.run import Progress, silent
from extsub.evaluation.sharing import Processes, processes
from extsub.evaluation.store import working_in
from extsub.evaluation.subjects import identify
from extsub.extras import require
from extsub.files import read_json
from extsub.models import find_model
from extsub.recipe import chain
from extsub.recipe.chain import COMBINED, PAGE, SWEPT, Choice, Stage
from extsub.recipe.plan import plan
from extsub.recipe.recipe import Ingredient, Recipe, read_recipe
from extsub.report.report import write_report
from extsub.stages import Stages
from extsub.sweeping.sweep import sweep
from extsub.training.encoding import Progress as Tokenising
from extsub.training.record import RECORD
from extsub.training.train import train

COMMAND = "extsub run"


def run_recipe(
    path: str | Path,
    *,
    progress: Progress | None = None,
    tokenising: Tokenising | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Do what a recipe says: train, sweep, choose, combine, report. What is done, and made from the same, is kept.

    Under ``accelerate launch`` every process calls this. An interrupted run goes on when it is started again.

    Args:
        path: the recipe, a YAML file (docs/recipe.md).
        progress: shows how far an evaluation is.
        tokenising: wraps the chunks of rows while they are tokenised.
        say: is told which stage begins.

    Returns:
        what was chosen, the verdict, and where everything lies; nothing for other processes than the main one

    Raises:
        ExtSubError: recipe, data, model or adapters are at fault, a stage failed, or nothing keeps the budget.
    """
    recipe = read_recipe(Path(path))
    require("peft", "evaluate")
    group = processes()
    with contextlib.ExitStack() as stack:
        group.told(lambda: stack.enter_context(working_in(recipe.output)))
        run = _Run(recipe, Stages(recipe.output, COMMAND, say), group, progress or silent, tokenising)
        group.told(lambda: [one.to_dict() for one in plan(recipe, run.stages, tokenising)])
        with kept_when_interrupted(run.what_is_kept):
            return run.all()


def plan_recipe(path: str | Path, tokenising: Tokenising | None = None) -> dict[str, Any]:
    """What ``run_recipe`` will do, with estimates; loads no weights and writes nothing.

    Raises:
        ExtSubError: as ``run_recipe``, as far as it can be known.
    """
    recipe = read_recipe(Path(path))
    ahead = plan(recipe, Stages(recipe.output, COMMAND, lambda _: None), tokenising)
    return {"recipe": str(path), "output": str(recipe.output), "stages": [one.to_dict() for one in ahead]}


@dataclass
class _Run:
    """One run of all stages. All processes take the same way; the main one keeps the record."""

    recipe: Recipe
    stages: Stages
    group: Processes
    progress: Progress
    tokenising: Tokenising | None
    kept: dict[str, bool] = field(default_factory=dict)
    """stages that are done: whether they were before"""

    def what_is_kept(self) -> str:
        """for somebody who stops it"""
        return f"what was done is kept: '{self.recipe.command}' goes on from there" if self.stages.done else ""

    def all(self) -> dict[str, Any]:
        recipe, base = self.recipe, identify(find_model(self.recipe.model))
        for one in recipe.ingredients:
            if one.training:
                self.make(lambda one=one: chain.trained(one, base), lambda one=one: self.train(one))
        self.make(lambda: chain.swept(recipe, base), self.sweep)
        self.make(lambda: chain.reported(chain.swept(recipe, base)), lambda: self.alone(self.report))
        choice = self.group.told(lambda: self.choose())
        alpha = choice.alpha
        if alpha is None:
            raise ExtSubError(f"{chain.nothing_kept(recipe, choice)}; the page is {recipe.output / PAGE}")
        self.make(lambda: chain.combined(recipe, alpha), lambda: self.alone(lambda: self.combine(alpha)))
        return self.summary(choice) if self.group.is_main else {}

    def make(self, stage_of: Callable[[], Stage], work: Callable[[], Any]) -> None:
        """One stage, on every process, unless it is done."""
        stage, why = self.group.told(lambda: self.look_at(stage_of()))
        with self.explained(stage.name):
            if why and self.group.is_main:
                self.stages.make(stage.name, stage.files, stage.inputs, lambda: self.together(work), stage.again)
            elif why:
                self.together(work)
        self.kept[stage.name] = why is None

    def look_at(self, stage: Stage) -> tuple[Stage, str | None]:
        return stage, stage.why(self.stages)

    def together(self, work: Callable[[], Any]) -> Any:
        """Once what stood in the way is removed."""
        self.group.wait()
        return work()

    def alone(self, work: Callable[[], Any]) -> Any:
        """On the main process, while the others wait."""
        return self.group.told(work)

    @contextlib.contextmanager
    def explained(self, name: str) -> Generator[None]:
        try:
            yield
        except ExtSubError as error:
            done = f"{', '.join(self.kept)} kept" if self.kept else "nothing was done before"
            raise ExtSubError(f"{name}: {error}; {done}, '{self.recipe.command}' goes on with {name}") from error

    def train(self, one: Ingredient) -> dict[str, float]:
        assert one.training
        record = one.training.output / RECORD
        if not self.alone(record.exists):  # it does where a run was killed right after it
            train(one.training, resume=True, progress=self.tokenising)
            free_memory()
        found = self.alone(lambda: read_json(record, largest=None))
        return {name: found[name] for name in ("first_loss", "last_loss", "seconds")}

    def sweep(self) -> None:
        expert, *anti_experts = (one.adapter for one in self.recipe.ingredients)
        sweep(expert, anti_experts, self.recipe.sweep, self.progress)
        free_memory()

    def report(self) -> dict[str, Any]:
        written = write_report(self.recipe.output / SWEPT, self.recipe.output / PAGE)
        return {name: written[name] for name in ("verdict", "sentence", "beside")}

    def choose(self) -> Choice:
        choice = chain.chosen(self.recipe)
        if choice.alpha is None:
            self.stages.drop("result", (COMBINED,))
        return choice

    def combine(self, alpha: float) -> dict[str, Any]:
        adapters = [load_adapter(one.adapter) for one in self.recipe.ingredients]
        result = combine(*adapters, alpha=alpha, **vars(self.recipe.result))
        return save_adapter(result, self.recipe.output / COMBINED, overwrite=True)

    def summary(self, choice: Choice) -> dict[str, Any]:
        output, found = self.recipe.output, self.stages.found
        return {
            "output": str(output),
            "stages": {name: "kept" if kept else "made" for name, kept in self.kept.items()},
            "seconds": self.stages.seconds(),
            "chosen": {
                "alpha": choice.alpha,
                "choose": self.recipe.sweep.choose,
                "score": choice.score,
                "budget": choice.budget,
                **choice.figures,
            },
            "report": found("report"),
            "page": str(output / PAGE),
            "result": {"output": str(output / COMBINED), **found("result")},
            "notes": list(choice.notes),
        }
