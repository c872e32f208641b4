"""What can be said about a sweep, beside what can be said about an evaluation."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal  # noqa: F401

from cyclopts import Group, Parameter

from extsub.errors import ExtSubError
from extsub.evaluation.settings import ASKING, DATA, MODEL, Backend, EvaluationSettings
from extsub.list_options import COMMAS, PAIRS  # noqa: F401
from extsub.models.prompts import PromptOption  # noqa: F401  cyclopts looks here for the names in inherited types
from extsub.settings import Dtype, option  # noqa: F401

if TYPE_CHECKING:
    from extsub.evaluation.task import Task

RESULT, TABLE, PROFILE = "sweep.json", "sweep.csv", "profile.json"
"""What a sweep writes into its folder."""
SWEPT = ("ext-sub", "subtract", "contrast", "amplify", "negated", "random")
"""What a sweep tries unless told otherwise."""
Rule = Literal["one-se", "best"]
"""The rule of a choice: the smallest strength that is as good as the best as far as one can tell, or the best."""
FORMAT = 1
"""The format number of ``sweep.json`` (docs/files.md)."""
POSITIONS = "positions"
"""The folder in it in which the results of every position lie."""

GRID = Parameter(group=Group("Strengths and choice", sort_key=0))
NOT_HERE = Parameter(show=False)
"""Settings of an evaluation that a sweep refuses, so that its help leaves them out."""


@dataclass(frozen=True, kw_only=True)
class SweepSettings(EvaluationSettings):
    """Which strengths to try, and what they may cost."""

    model: Annotated[str | None, MODEL] = None
    """The base model: a folder or hub id; the base that the expert names unless given."""
    tasks: Annotated[tuple[str, ...], GRID, COMMAS]
    """Benchmarks, the deficiency's first: truthfulqa-mc perplexity."""
    adapter: Annotated[tuple[str, ...], NOT_HERE] = ()
    backend: Annotated[Backend, NOT_HERE] = "transformers"
    url: Annotated[str | None, NOT_HERE] = None
    output: Annotated[Path | None, DATA] = None
    """Folder for what it finds: sweep.json, sweep.csv, and every position's results.json and items."""
    seed: Annotated[int, ASKING] = 0
    """Of the halves, the random control, the search, --limit and the intervals."""
    operations: Annotated[tuple[str, ...], GRID, COMMAS] = SWEPT
    """Of them negated is the anti-expert alone with the sign turned, and random ext-sub with a random anti-expert of
    equal row norms: controls."""
    alphas: Annotated[str, GRID, Parameter(allow_leading_hyphen=True)] = "0:3:0.25"
    """FROM:TO:STEP, or values: 0.5,1,2."""
    score: Annotated[str | None, GRID] = None
    """What to choose by, toxicity.toxic_share say; the first task's own unless given (mc2 of truthfulqa-mc)."""
    budget: Annotated[str | None, GRID] = None
    """What a choice may cost: "perplexity <= 1.02 * expert", or "keeps 90% of perplexity": of the expert's gain."""
    references: Annotated[tuple[Literal["icd", "dexperts", "prompt"], ...], GRID, COMMAS] = ()
    """What one would do without touching weights, asked beside the operations (docs/sweep.md): icd and dexperts, with
    each α of the grid as β, and prompt. None unless given, since a token costs 2, 3 and 1 forward passes."""
    system: Annotated[str | None, GRID] = None
    """The system message of --references prompt; unless given, that of the task that strengths are chosen by."""
    choose: Annotated[Rule, GRID] = "one-se"
    """The smallest α within one standard error of the best score, or the best: one-se does not chase noise."""
    search: Annotated[int, GRID] = 0
    """So many further strengths, proposed by Optuna from what the others scored, within the same budget."""
    search_over: Annotated[tuple[Literal["alpha", "kinds", "depth"], ...], GRID, COMMAS] = ("alpha",)
    """What --search varies: one alpha, or one for each kind of module (q_proj, ...), and a slope along the depth."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.search < 0:
            raise ExtSubError(f"--search {self.search}: expected 0 or more")
        if self.system is not None and (not self.system.strip() or "prompt" not in self.references):
            raise ExtSubError("--system TEXT is what --references prompt tells the expert: give both, or neither")
        if self.output is None:
            raise ExtSubError("sweep needs --output: a folder for what it finds")
        if self.adapter:
            raise ExtSubError("sweep takes its adapters without --adapter: EXPERT ANTI_EXPERT")
        if self.backend != "transformers":
            raise ExtSubError("sweep turns the dial of a model in this process: leave --backend out")

    @property
    def folder(self) -> Path:
        """The output, which every sweep has."""
        assert self.output is not None  # or __post_init__ would have refused
        return self.output


def swept_tasks(settings: SweepSettings) -> list[Task]:
    """The tasks that a sweep asks.

    Raises:
        ExtSubError: one is unknown, or an option is not theirs, cannot be, or is not one that a sweep has.
    """
    from extsub.evaluation.options import known_options  # in here, so that --help need not wait for it
    from extsub.evaluation.tasks import tasks_named

    tasks = tasks_named(settings.tasks, settings)
    for task in tasks:
        if refused := [name for name in task.not_swept if name in settings.options]:
            raise ExtSubError(f"a sweep has no {option(refused[0])} for {task.name}: leave it out")
        if task.asks_module and settings.references:
            method = settings.references[0]
            raise ExtSubError(
                f"--references {method} cannot be asked {task.name}, which asks the model itself: leave one of both out"
            )
    if both := known_options(tasks).keys() & {field.name for field in fields(settings)}:
        raise ExtSubError(f"{option(min(both))} is a setting of the sweep and an option of a task: rename the option")
    return tasks
