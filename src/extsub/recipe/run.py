"""A recipe from its data to the result, by the public functions; what is done already is not repeated."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

from extsub.adapters.load import load_adapter
from extsub.adapters.save import CombinedRecord, save_adapter, write_scores
from extsub.combination.combine import combine
from extsub.distributed import ProcessGroup, process_group
from extsub.errors import ExtSubError, kept_when_interrupted
from extsub.evaluation.evaluate import evaluate
from extsub.evaluation.evaluated_model import identify
from extsub.evaluation.run import Progress, silent
from extsub.evaluation.settings import EvaluationSettings
from extsub.evaluation.store import Results, working_in
from extsub.extras import require
from extsub.files.reading import read_json
from extsub.inference.batching import free_memory
from extsub.models.source import find_model
from extsub.publishing.measured import scores_in_sweep, scores_of_several, sources
from extsub.publishing.records import read_record
from extsub.recipe import chain
from extsub.recipe.chain import COMBINED, PAGE, ChosenAlphas
from extsub.recipe.plan import plan, with_templates
from extsub.recipe.schema import Recipe, Sweep, read_recipe
from extsub.recipe.specs import AdapterSpec
from extsub.recipe.stages import Stage, Stages
from extsub.report.page import write_report
from extsub.report.reading import read_sweep
from extsub.rewriting.make import negatives
from extsub.sweeping.sweep import sweep
from extsub.training.encoding import ChunkProgress
from extsub.training.plan import Plan
from extsub.training.record import RECORD
from extsub.training.train import train

COMMAND = "extsub run"
MOST_TOKENS = 20_000_000
"""The most tokens, of up to 36 bytes each, that are kept from the plan for the trainings; others are made again."""


class RecipeRecord(TypedDict, total=False):
    """What `run_recipe` did; nothing on processes other than the main one."""

    output: str
    stages: dict[str, str]
    """For each stage whether it was ``made`` or ``kept``."""
    seconds: dict[str, dict[str, float]]
    """Wall and CPU seconds of each stage, interrupted runs included."""
    sweeps: dict[str, dict[str, Any]]
    """For each sweep its anti-experts, what was chosen, its report and page."""
    result: dict[str, Any]
    """The folder of the result, and what its ``extsub.json`` holds."""
    notes: list[str]
    """What a user should know, in sentences."""


def run_recipe(
    path: str | Path,
    *,
    progress: Progress | None = None,
    tokenising: ChunkProgress | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> RecipeRecord:
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
    recipe = with_templates(recipe)
    group = process_group()
    with contextlib.ExitStack() as stack:
        group.run_on_main(lambda: stack.enter_context(working_in(recipe.output)))
        run = _Run(recipe, Stages(recipe.output, COMMAND, say), group, progress or silent, tokenising)
        group.run_on_main(run.plan)
        with kept_when_interrupted(run.what_is_kept):
            return run.all()


def plan_recipe(path: str | Path, tokenising: ChunkProgress | None = None) -> dict[str, Any]:
    """What ``run_recipe`` will do, with estimates; loads no weights and writes nothing.

    Raises:
        ExtSubError: as ``run_recipe``, as far as it can be known.
    """
    recipe = with_templates(read_recipe(Path(path)))
    ahead = plan(recipe, Stages(recipe.output, COMMAND, lambda _: None), tokenising)
    return {"recipe": str(path), "output": str(recipe.output), "stages": [stage.to_dict() for stage in ahead]}


@dataclass
class _Run:
    """One run of all stages. All processes take the same way; the main one keeps the record."""

    recipe: Recipe
    stages: Stages
    group: ProcessGroup
    progress: Progress
    tokenising: ChunkProgress | None
    kept: dict[str, bool] = field(default_factory=dict)
    """For each stage that is done, whether it was before."""
    planned: dict[str, tuple[Stage, Plan]] = field(default_factory=dict)
    """For each training that is to be done what it was planned from, and the plan; on the main process."""

    def what_is_kept(self) -> str:
        """What somebody is told who stops the run."""
        return f"what was done is kept: '{self.recipe.command}' goes on from there" if self.stages.done else ""

    def plan(self) -> None:
        """Refuse what can be refused, and keep what was tokenised for it."""
        for stage in plan(self.recipe, self.stages, self.tokenising):
            kept = sum(training.tokens for _, training in self.planned.values())
            if stage.training and kept + stage.training[1].tokens <= MOST_TOKENS:
                self.planned[stage.name] = stage.training

    def plan_of(self, spec: AdapterSpec, base: Mapping[str, Any]) -> Plan | None:
        """The plan of a training, where data and base are still what it was made from."""
        stage, training = self.planned.pop(spec.name, (None, None))
        return training if stage == chain.trained(spec, base) else None

    def all(self) -> RecipeRecord:
        recipe, base = self.recipe, identify(find_model(self.recipe.model))
        for spec in recipe.specs:
            if spec.negatives:
                self.make(partial(chain.written, spec), partial(self.alone, partial(self.write, spec)))
            if spec.training:
                self.make(partial(chain.trained, spec, base), partial(self.train, spec, base))
        for planned in recipe.sweeps:
            self.make(partial(chain.swept, recipe, planned, base), partial(self.sweep, planned))
            page = partial(self.report, planned)
            self.make(partial(chain.reported, recipe, planned, base), partial(self.alone, page))
        choices = [self.alone(partial(self.choose, planned)) for planned in recipe.sweeps]
        alphas = [choice.alpha for choice in choices if choice.alpha is not None]
        self.make(partial(chain.combined, recipe, alphas), partial(self.alone, partial(self.combine, alphas)))
        for planned in recipe.asked_again:
            self.make(partial(chain.evaluated, recipe, planned, base), partial(self.evaluate, planned))
        self.alone(partial(self.tell_scores, choices))
        return self.summary(choices) if self.group.is_main else {}

    def make(self, stage_of: Callable[[], Stage], work: Callable[[], Any]) -> None:
        """One stage, on every process, unless it is done."""
        stage, why = self.alone(lambda: self.look_at(stage_of()))
        with self.explained(stage.name):
            if why and self.group.is_main:
                self.stages.make(stage, partial(self.together, work))
            elif why:
                self.together(work)
        self.kept[stage.name] = why is None

    def look_at(self, stage: Stage) -> tuple[Stage, str | None]:
        return stage, self.stages.why(stage)

    def together(self, work: Callable[[], Any]) -> Any:
        """Once what stood in the way is removed."""
        self.group.barrier()
        return work()

    def alone(self, work: Callable[[], Any]) -> Any:
        """On the main process, while the others wait."""
        return self.group.run_on_main(work)

    @contextlib.contextmanager
    def explained(self, name: str) -> Generator[None]:
        try:
            yield
        except ExtSubError as error:
            done = f"{', '.join(self.kept)} kept" if self.kept else "nothing was done before"
            raise ExtSubError(f"{name}: {error}; {done}, '{self.recipe.command}' goes on with {name}") from error

    def write(self, spec: AdapterSpec) -> dict[str, Any]:
        assert spec.negatives
        made = negatives(replace(spec.negatives, overwrite=True), self.progress)  # in a folder that is ours
        return {name: made[name] for name in ("rows", "kept", "dropped", "lengths", "notes")}

    def train(self, spec: AdapterSpec, base: Mapping[str, Any]) -> dict[str, float]:
        assert spec.training
        record = spec.training.output / RECORD
        if not self.alone(record.exists):  # it does where a run was killed right after it
            train(self.plan_of(spec, base) or spec.learning, resume=True, progress=self.tokenising)
            free_memory()
        recorded = self.alone(lambda: read_json(record, largest=None))
        return {name: recorded[name] for name in ("first_loss", "last_loss", "seconds")}

    def sweep(self, planned: Sweep) -> None:
        sweep(
            self.recipe.expert.adapter, [anti.adapter for anti in planned.anti_experts], planned.settings, self.progress
        )
        free_memory()

    def report(self, planned: Sweep) -> dict[str, Any]:
        written = write_report(self.recipe.output / planned.name, self.recipe.output / planned.name / PAGE)
        return {name: written[name] for name in ("verdict", "sentence", "beside")}

    def choose(self, planned: Sweep) -> ChosenAlphas:
        choice = chain.chosen(self.recipe, planned)
        if choice.alpha is None:
            self.stages.drop("result", (COMBINED,))
            page = self.recipe.output / planned.name / PAGE
            raise ExtSubError(f"{chain.nothing_kept(self.recipe, choice)}; the page is {page}")
        return choice

    def combine(self, alphas: Sequence[float]) -> CombinedRecord:
        adapters = [load_adapter(spec.adapter) for spec in self.recipe.specs]
        alpha = alphas if len(self.recipe.sweeps) > 1 else alphas[0]  # one strength for all
        result = combine(*adapters, alpha=alpha, **vars(self.recipe.result))
        return save_adapter(result, self.recipe.output / COMBINED, overwrite=True)

    def evaluate(self, planned: Sweep) -> Results:
        asked = {field.name: getattr(planned.settings, field.name) for field in fields(EvaluationSettings)}
        asked |= {"adapter": (str(self.recipe.output / COMBINED),), "prompt": planned.prompt}
        asked |= {"output": self.recipe.output / planned.evaluation}
        (results,) = evaluate(planned.settings.tasks, EvaluationSettings(**asked), self.progress)
        free_memory()
        return results

    def tell_scores(self, choices: Sequence[ChosenAlphas]) -> None:
        """Let the result's card say what was measured of it, unless it says so already."""
        recipe, result = self.recipe, self.recipe.output / COMBINED
        sweeps = [recipe.output / planned.name for planned in recipe.sweeps]
        evaluations = [recipe.output / planned.evaluation for planned in recipe.asked_again]
        told = read_record(result)[1].get("scores")
        if told is not None and told["sources"] == sources(sweeps, evaluations):
            return
        if evaluations:
            scores = scores_of_several([read_sweep(folder) for folder in sweeps], evaluations)
        else:
            scores = scores_in_sweep(
                read_sweep(sweeps[0]), choices[0].figures["position"], recipe.result.rank is not None
            )
        write_scores(result, scores)

    def summary(self, choices: Sequence[ChosenAlphas]) -> RecipeRecord:
        output, result_of = self.recipe.output, self.stages.found
        sweeps = {}
        for planned, choice in zip(self.recipe.sweeps, choices, strict=True):
            sweeps[planned.name] = {
                "anti_experts": [anti.name for anti in planned.anti_experts],
                "chosen": choice.to_dict(),
                "report": result_of(planned.report),
                "page": str(output / planned.name / PAGE),
            }
        written = [note for spec in self.recipe.specs if spec.negatives for note in result_of(spec.writing)["notes"]]
        return {
            "output": str(output),
            "stages": {name: "kept" if kept else "made" for name, kept in self.kept.items()},
            "seconds": self.stages.seconds(),
            "sweeps": sweeps,
            "result": {"output": str(output / COMBINED), **read_record(output / COMBINED)[1]},
            "notes": list(dict.fromkeys([*written, *(note for choice in choices for note in choice.notes)])),
        }
