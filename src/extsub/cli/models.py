"""Commands on a model with an adapter: train, evaluate, generate, chat, sweep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from extsub.cli.app import AS_USUAL, DEFAULT, Opened, Printed, app
from extsub.cli.config import from_file
from extsub.cli.task_options import TaskOptions
from extsub.console.arguments import DASH
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
    help_epilogue='Example: extsub generate --adapter better "Who invented the telephone?"\n'
    "A file: extsub generate --adapter better --prompts questions.jsonl --output answers.jsonl\n"
    "Several GPUs or machines: accelerate launch -m extsub generate --prompts ..."
)
def generate(
    question: Annotated[str | None, DASH] = None,
    /,
    *,
    settings: Annotated[GenerationSettings, Parameter(name="*")] = GenerationSettings(),  # noqa: B008  frozen
    shown: Printed = DEFAULT,
) -> None:
    """Greedy answers of a model, or of an adapter on it: to QUESTION, printed as it comes, or to a file of prompts.

    An interrupted run on a file goes on where it stopped.

    Parameters
    ----------
    question
        What to ask; - or a pipe: what standard input holds.
    """
    need("extsub generate", "evaluate")
    from extsub.console import progress

    shown.begin()
    progress.quieten_libraries()
    if settings.prompts is None or settings.output is None or question is not None:
        _answer(question, settings, shown.as_json)
        return
    from extsub.console import summaries
    from extsub.evaluation.generate import generate

    output, record = settings.output, generate(settings, progress=progress.items)
    if is_main_process():
        shown.result(
            {"output": str(output), **record}, lambda: summaries.print_generation(output, settings.model, record)
        )


def _answer(question: str | None, settings: GenerationSettings, as_json: bool) -> None:
    from extsub.chat.session import Session
    from extsub.console.chat import answer
    from extsub.console.questions import one_question

    settings.check_for_question(question)
    question = one_question(question)
    session = Session.open(
        settings.adapter,
        settings.model,
        prompt=settings.prompt,
        dtype=settings.dtype,
        max_new_tokens=settings.max_new_tokens,
    )
    answer(session, question, as_json)


@app.command(
    help_epilogue="Example: extsub chat expert anti-expert, then /alpha 1.5 and /compare\n"
    "From a pipe, a question a line: extsub chat better < questions.txt"
)
def chat(*adapters: str, opening: Opened = AS_USUAL, shown: Printed = DEFAULT) -> None:
    """Talk to a model: to one adapter, or to an expert at every strength of what is taken from it.

    With an expert and anti-experts it is a dial: /alpha, /operation, /compare, /save; /help lists what can be typed.

    Parameters
    ----------
    adapters
        One adapter, or an expert and its anti-experts: folders or hub ids. None: the model alone.
    """
    need("extsub chat", "evaluate")
    from extsub.chat.session import Session
    from extsub.console import progress
    from extsub.console.chat import chat

    shown.begin()
    progress.quieten_libraries()
    chat(Session.open(adapters, **vars(opening)), as_json=shown.as_json)


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
