"""A recipe: one YAML file that says all about a chain. Checked here as far as no other file needs to be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from extsub.adapters.codecs import CODECS
from extsub.combination.operations import operation_of
from extsub.errors import ExtSubError
from extsub.escaping import brief, operand, shell
from extsub.evaluation.options import known_options
from extsub.evaluation.tasks import TASKS, load_task_files
from extsub.files.reading import located
from extsub.files.yaml import read_yaml
from extsub.models.prompts import PromptOption
from extsub.recipe.specs import NOT_WRITTEN, AdapterSpec, Shared, adapter_spec, anti_expert_spec, named
from extsub.rewriting.settings import NegativesSettings
from extsub.settings import Dtype
from extsub.sweeping.settings import SweepSettings, swept_tasks
from extsub.training.settings import PEFT_TYPES, TrainingSettings
from extsub.values import mapping_of, settings_of, text_of

KEYS = ("model", "output", "training", "expert", "anti_experts", "negatives", "sweep", "result")
NEEDED = ("model", "output", "expert", "anti_experts")
COMBINED = tuple(kind for kind, peft_type in PEFT_TYPES.items() if peft_type in CODECS)
"""Kinds of adapters that are trained and can be combined."""
NOT_SWEPT = ("model", "output", "adapter", "backend", "url", "overwrite", "options")
"""Settings of an evaluation that a recipe gives, or that a sweep does not have."""


@dataclass(frozen=True)
class Sweep:
    """A sweep of a recipe: the expert against one anti-expert, or against all of them at one strength."""

    name: str
    """``sweep`` or ``sweep-NAME``: its stage and its folder"""
    where: str
    """Its name in the recipe."""
    anti_experts: tuple[AdapterSpec, ...]
    settings: SweepSettings
    prompt: PromptOption
    """The prompt of the settings; once it is ``settled`` what it means, as the templates of training."""

    @property
    def report(self) -> str:
        """The name of the stage that makes its page: ``report`` or ``report-NAME``."""
        return self.name.replace("sweep", "report", 1)

    @property
    def evaluation(self) -> str:
        """The stage, and the folder, in which the result is asked what this sweep asked."""
        return self.name.replace("sweep", "evaluation", 1)


@dataclass(frozen=True, kw_only=True)
class ResultSettings:
    """How the result is combined; the strengths are what the sweeps chose."""

    operation: str = "ext-sub"
    rank: int | None = None
    dtype: Dtype = "auto"


@dataclass(frozen=True)
class Recipe:
    """What a recipe file says: everything about a chain."""

    path: Path
    model: str
    output: Path
    expert: AdapterSpec
    anti_experts: tuple[AdapterSpec, ...]
    sweeps: tuple[Sweep, ...]
    """One sweep for all anti-experts, or one for each in their order."""
    result: ResultSettings

    @property
    def specs(self) -> tuple[AdapterSpec, ...]:
        """The expert, then the anti-experts."""
        return (self.expert, *self.anti_experts)

    @property
    def asked_again(self) -> tuple[Sweep, ...]:
        """The sweeps whose tasks the result is asked: where each anti-expert has a strength of its own, none saw it."""
        return self.sweeps if len(self.sweeps) > 1 else ()

    @property
    def command(self) -> str:
        """The command that runs this recipe."""
        return shell(["extsub", "run", operand(str(self.path))])


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe. Paths in it are relative to the current folder.

    Raises:
        ExtSubError: it is not there, not YAML, or a name or value in it is wrong; the message says where.
    """
    content = mapping_of(str(path), read_yaml(str(path), path), KEYS)
    if missing := [name for name in NEEDED if name not in content]:
        raise ExtSubError(f"{path}: {missing[0]} is missing; a recipe has {', '.join(NEEDED)}")
    model, folder = (text_of(f"{path}: {name}", content[name]) for name in ("model", "output"))
    with named(f"{path}: output"):
        output = located(folder)
    training = settings_of(
        f"{path}: training", content.get("training", {}), TrainingSettings, ("model", "data", "output")
    )
    negatives = settings_of(f"{path}: negatives", content.get("negatives", {}), NegativesSettings, NOT_WRITTEN)
    shared = Shared(model, output, training, negatives)

    others = content["anti_experts"]
    if not isinstance(others, Mapping) or not others:
        raise ExtSubError(f"{path}: anti_experts: expected one or more, each with a name (untruthful: {{data: FILE}})")
    expert = adapter_spec("expert", content["expert"], f"{path}: expert", shared)
    anti_experts = tuple(
        anti_expert_spec(f"anti-{name}", entry, f"{path}: anti_experts: {brief(name)}", expert, shared)
        for name, entry in others.items()
    )
    result = ResultSettings(**settings_of(f"{path}: result", content.get("result", {}), ResultSettings))
    _check_kinds(path, [expert, *anti_experts], result)
    sweeps = _sweeps(path, content, anti_experts, result)  # and the files that register operations are loaded
    with named(f"{path}: result"):
        operation_of(result.operation)
    return Recipe(path, model, output, expert, anti_experts, sweeps, result)


def _sweeps(
    path: Path, content: Mapping[str, Any], anti_experts: tuple[AdapterSpec, ...], result: ResultSettings
) -> tuple[Sweep, ...]:
    """One for all anti-experts; or one for each, of its own settings and those that all share."""
    shared = _sweep_settings(f"{path}: sweep", content.get("sweep", {}))
    own = {
        f"anti-{name}": entry["sweep"]
        for name, entry in content["anti_experts"].items()
        if isinstance(entry, Mapping) and "sweep" in entry
    }
    if not own:
        return (_sweep(content, "sweep", f"{path}: sweep", anti_experts, shared, result),)
    sweeps, used = [], set()
    for anti_expert in anti_experts:
        name = anti_expert.name.removeprefix("anti-")
        where = f"{path}: anti_experts: {name}: sweep"
        if anti_expert.name not in own:
            raise ExtSubError(
                f"{where} is missing, and {next(iter(own)).removeprefix('anti-')} has one: give each its own"
            )
        settings = {**shared, **_sweep_settings(where, own[anti_expert.name])}
        sweep = _sweep(content, f"sweep-{name}", where, (anti_expert,), settings, result)
        with named(where):
            theirs = known_options(swept_tasks(sweep.settings))
        options = {option: value for option, value in shared["options"].items() if option in theirs}
        used |= options.keys()
        sweeps.append(replace(sweep, settings=replace(sweep.settings, options=options | sweep.settings.options)))
    if unused := shared["options"].keys() - used:
        raise ExtSubError(f"{path}: sweep: {min(unused)} is an option of no task that is asked: leave it out")
    return tuple(sweeps)


def _sweep_settings(where: str, given: Any) -> dict[str, Any]:
    """What a mapping says of a sweep: its settings, and as ``options`` those of its tasks."""
    general = [field.name for field in fields(SweepSettings)]
    mapping = mapping_of(where, given, None)
    settings = settings_of(
        where, {name: mapping[name] for name in general if name in mapping}, SweepSettings, NOT_SWEPT
    )
    load_task_files(settings.get("task_file", ()))
    known, options = known_options(TASKS.values()), {}
    for name in mapping_of(where, mapping, [*(name for name in general if name not in NOT_SWEPT), *known]):
        if name not in general:
            options |= settings_of(where, {name: mapping[name]}, known[name].declared)
    return {**settings, "options": options}


def _sweep(
    content: Mapping[str, Any],
    name: str,
    where: str,
    anti_experts: tuple[AdapterSpec, ...],
    given: dict[str, Any],
    result: ResultSettings,
) -> Sweep:
    if "tasks" not in given:
        raise ExtSubError(f"{where}: tasks is missing: name benchmarks (tasks: [truthfulqa-mc, perplexity])")
    with named(where):
        settings = SweepSettings(**given, model=content["model"], output=located(content["output"]) / name)
    if result.operation not in settings.operations:
        there = ", ".join(settings.operations)
        raise ExtSubError(
            f"{where}: result has operation {result.operation}, and operations here are {brief(there)}: add it"
        )
    return Sweep(name, where, anti_experts, settings, settings.prompt)


def _check_kinds(path: Path, specs: list[AdapterSpec], result: ResultSettings) -> None:
    """What is trained here can be combined."""
    kinds = {spec.name: spec.training.kind for spec in specs if spec.training}
    for name, kind in kinds.items():
        if kind not in COMBINED:
            raise ExtSubError(f"{path}: {name}: {kind} cannot be combined; choose from {', '.join(COMBINED)}")
    if len(set(kinds.values())) > 1:
        said = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
        raise ExtSubError(f"{path}: all adapters must be of one kind, found {said}: say kind under training")
    if result.rank is not None and (result.rank < 1 or set(kinds.values()) - {"lora"}):
        raise ExtSubError(f"{path}: result: rank is {result.rank}, expected 1 or more, and it is for LoRA only")
