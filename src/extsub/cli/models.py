"""Commands on a model with an adapter: train, evaluate, generate, sweep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from extsub.cli.app import DEFAULT, Printed, app
from extsub.cli.config import from_file
from extsub.cli.task_options import TaskOptions
from extsub.distributed import is_main_process
from extsub.evaluation.settings import EvaluationSettings, GenerationSettings
from extsub.extras import need
from extsub.sweeping.settings import SweepSettings, swept_tasks
from extsub.training.settings import RUN, TrainingSettings


@app.command(
    config=from_file,
    help_epilogue="Example: extsub train --model owner/name --data good.jsonl --output expert --dry-run\n"
    "Several GPUs or machines: accelerate launch -m extsub train ...",
)
def train(
    settings: Annotated[TrainingSettings, Parameter(name="*")],
    *,
    config: Annotated[Path | None, RUN] = None,
    resume: Annotated[bool, RUN] = False,
    dry_run: Annotated[bool, RUN] = False,
    shown: Printed = DEFAULT,
) -> None:
    """Train an adapter on instruction data: an expert on good examples, an anti-expert on bad ones.

    The defaults are the authors' (train_peft.sh), but a tokenizer's chat template is used where there is one.

    Parameters
    ----------
    config
        A YAML file with any of these settings; what is given here as well wins.
    resume
        Continue an interrupted run; start if there is none.
    dry_run
        Check everything and print the plan: steps, tokens, parameters, memory, an example. Loads no weights.
    """
    need("extsub train", "train")
    from extsub.console import progress, summaries
    from extsub.training.plan import plan_training
    from extsub.training.train import train

    shown.begin()
    progress.quieten_libraries()
    tokenising = progress.chunks("tokenising")
    if dry_run:
        plan = plan_training(settings, tokenising).to_dict()
        shown.result(plan, lambda: summaries.print_plan(plan))
        return
    record = train(settings, resume=resume, progress=tokenising)
    if is_main_process():
        output = settings.output
        shown.result({"output": str(output), **record}, lambda: summaries.print_training(output, record))


@app.command(
    help_epilogue="Example: extsub evaluate truthfulqa-mc --adapter expert better --output results\n"
    "Several GPUs or machines: accelerate launch -m extsub evaluate ..."
)
def evaluate(
    *tasks: str,
    settings: Annotated[EvaluationSettings, Parameter(name="*")] = EvaluationSettings(),  # noqa: B008  frozen
    options: TaskOptions = None,
    shown: Printed = DEFAULT,
) -> None:
    """Measure a model, or adapters on it: truthfulness, hallucination, flattery, toxicity, repetition, ability.

    An interrupted run goes on where it stopped.
    """
    need("extsub evaluate", "evaluate")
    from extsub.evaluation.tasks import tasks_named

    settings = replace(settings, options=options or {})
    tasks_named(tasks, settings)  # what can be refused now need not wait for torch
    from extsub.console import progress
    from extsub.console.results import print_results
    from extsub.evaluation.evaluate import evaluate

    shown.begin()
    progress.quieten_libraries()
    results = evaluate(tasks, settings, progress=progress.items)
    if is_main_process():
        names = list(dict.fromkeys(tasks))
        shown.result({"results": results}, lambda: print_results(results, names, settings.output))


@app.command(
    help_epilogue="Example: extsub generate --adapter better --prompts questions.jsonl --output answers.jsonl\n"
    "Several GPUs or machines: accelerate launch -m extsub generate ..."
)
def generate(
    settings: Annotated[GenerationSettings, Parameter(name="*")],
    *,
    shown: Printed = DEFAULT,
) -> None:
    """Greedy answers of a model, or of an adapter on it, to a file of prompts; an interrupted run goes on."""
    need("extsub generate", "evaluate")
    from extsub.console import progress, summaries
    from extsub.evaluation.generate import generate

    shown.begin()
    progress.quieten_libraries()
    record = generate(settings, progress=progress.items)
    if is_main_process():
        output = settings.output
        shown.result({"output": str(output), **record}, lambda: summaries.print_generation(settings, record))


@app.command(
    help_epilogue="Example: extsub sweep expert anti-expert --tasks truthfulqa-mc perplexity --data "
    'perplexity=good.jsonl --budget "perplexity <= 1.02 * expert" --output swept\n'
    "Several GPUs or machines: accelerate launch -m extsub sweep ..."
)
def sweep(
    expert: str,
    anti_expert: str,
    /,
    *more: str,
    settings: Annotated[SweepSettings, Parameter(name="*")],
    options: TaskOptions = None,
    shown: Printed = DEFAULT,
) -> None:
    """Evaluate every operation at every strength with one load of the base, and choose the strength within a budget.

    An interrupted sweep goes on where it stopped.

    Parameters
    ----------
    expert
        The adapter to improve.
    anti_expert
        An adapter trained on examples of what to suppress.
    more
        More anti-experts.
    """
    need("extsub sweep", "evaluate", *(["search"] if settings.search else []))
    settings = replace(settings, options=options or {})
    swept_tasks(settings)  # what can be refused now need not wait for torch
    from extsub.console import progress
    from extsub.console.results import print_sweep
    from extsub.sweeping.sweep import sweep

    shown.begin()
    progress.quieten_libraries()
    record = sweep(expert, (anti_expert, *more), settings, progress=progress.items)
    if is_main_process():
        shown.result(record, lambda: print_sweep(record))
