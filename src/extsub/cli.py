"""The command line: parse, one call into a room, print. Rooms are imported inside the commands, so that --help is
quick and no command loads what it does not need."""

from __future__ import annotations

import contextlib
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Group, Parameter
from cyclopts.config import Dict

from extsub.console.arguments import HelpFormatter, Printing, as_options, as_typed
from extsub.distributed import is_main_process
from extsub.errors import ExtSubError
from extsub.escaping import brief
from extsub.evaluation.settings import EvaluationSettings, GenerationSettings
from extsub.extras import need
from extsub.printing import to_stdout
from extsub.sweeping.settings import SweepSettings
from extsub.training.settings import RUN, TrainingSettings

app = App(
    name="extsub",
    help="Suppress a deficiency of a fine-tuned language model by exact arithmetic on two adapters.",
    help_epilogue="To begin: extsub demo. Every command has an example: extsub combine --help.",
    help_format="plaintext",
    help_formatter=HelpFormatter(),
    version_flags=["--version", "-V"],
    suppress_keyboard_interrupt=False,
    # no --no-overwrite; --target-modules a b
    default_parameter=Parameter(negative=(), consume_multiple=True, show_default=as_typed),
)
app.register_install_completion_command(help="Complete commands and options in this shell (bash, zsh, fish).")

INPUT = Parameter(group=Group("Input and output", sort_key=1))
METHOD = Parameter(group=Group("What to do", sort_key=2))
REFUSALS = Parameter(group=Group("Where it would refuse", sort_key=3))
Printed = Annotated[Printing, Parameter(name="*")]
DEFAULT = Printing()


@app.command(help_epilogue="Example: extsub combine expert anti-expert --alpha 1 --output better")
def combine(
    expert: str,
    anti_expert: str,
    /,
    *more: str,
    output: Annotated[Path, INPUT, Parameter(name=["--output", "-o"])],
    operation: Annotated[str, METHOD] = "ext-sub",
    operation_file: Annotated[tuple[str, ...], METHOD] = (),
    alpha: Annotated[list[float] | None, METHOD, Parameter(consume_multiple=False, show_default="1")] = None,
    rank: Annotated[int | None, METHOD] = None,
    dtype: Annotated[Literal["auto", "float32", "float16", "bfloat16"], INPUT] = "auto",
    missing_modules: Annotated[Literal["error", "zero"], REFUSALS] = "error",
    modules_to_save: Annotated[Literal["error", "expert"], REFUSALS] = "error",
    base_model: Annotated[str | None, REFUSALS] = None,
    deficiency: Annotated[bool, METHOD] = False,
    profile: Annotated[Path | None, METHOD] = None,
    overwrite: Annotated[bool, INPUT] = False,
    shown: Printed = DEFAULT,
) -> None:
    """Subtract from EXPERT what only ANTI_EXPERT does, and write the result as an ordinary adapter.

    Adapters are folders, or hub ids: owner/name or owner/name@revision.

    Parameters
    ----------
    expert
        The adapter to improve.
    anti_expert
        An adapter trained on examples of what to suppress.
    more
        More anti-experts.
    output
        The folder to write.
    operation
        What to do with each row: ext-sub is the paper's; subtract, add, contrast and amplify are its baselines and
        controls.
    operation_file
        A Python file of your own that registers an operation (docs/method.md); it is run.
    alpha
        Strength: one for all anti-experts, or one for each (--alpha 0.5 1).
    rank
        Truncate the result to this rank, optimally, and report the error.
    dtype
        How to store numbers; auto takes the inputs' dtype, and float32 where one does not fit.
    missing_modules
        What to do when one adapter lacks a module: stop, or count its change as zero.
    modules_to_save
        What to do with heads and embeddings stored whole: stop unless identical, or keep the expert's.
    base_model
        The base model that all adapters really have (a hub id or a folder); written into the result.
    deficiency
        Write the deficiency d instead, so that expert + (-alpha) d is the result at any alpha.
    profile
        A JSON file with factors of alpha by kind of module and along the depth, as sweep --search writes it.
    overwrite
        Replace an output that extsub wrote.
    """
    from extsub.adapters.load import load_adapter
    from extsub.adapters.save import save_adapter
    from extsub.combination.combine import combine, load_operations
    from extsub.combination.profile import read_profile
    from extsub.console import progress, summaries

    shown.begin()
    load_operations([operation], operation_file)
    anti_experts = [load_adapter(name) for name in (anti_expert, *more)]
    result = combine(
        load_adapter(expert),
        *anti_experts,
        operation=operation,
        alpha=alpha or 1.0,
        rank=rank,
        dtype=dtype,
        missing_modules=missing_modules,
        modules_to_save=modules_to_save,
        base_model=base_model,
        deficiency=deficiency,
        profile=read_profile(profile) if profile else None,
    )
    record = save_adapter(result, output, overwrite=overwrite, progress=progress.parts("combining"))
    shown.result({"output": str(output), **record}, lambda: summaries.print_record(output, record, expert))


@app.command(help_epilogue="Example: extsub inspect expert anti-expert --plot pair.png")
def inspect(
    adapter: str,
    anti_expert: str | None = None,
    /,
    *,
    plot: Path | None = None,
    base_model: str | None = None,
    shown: Printed = DEFAULT,
) -> None:
    """Show what ADAPTER is and whether it can be combined; with ANTI_EXPERT, how the two compare, module by module.

    Parameters
    ----------
    adapter
        A folder or a hub id.
    anti_expert
        A second adapter to compare with it.
    plot
        Draw heat maps of norm ratio and row cosine by layer and module into this .png or .svg (needs both adapters).
    base_model
        The base model that both adapters really have, if their configs disagree.
    """
    from extsub.console import summaries
    from extsub.inspection.inspect import PairInfo, inspect

    if plot is not None:
        from extsub.plotting import check_picture

        if anti_expert is None:
            raise ExtSubError("--plot compares two adapters: give an anti-expert too")
        check_picture(plot)
    info = inspect(adapter, anti_expert, base_model=base_model)
    if plot is not None and isinstance(info, PairInfo):
        from extsub.inspection.heat_map import plot_pair

        plot_pair(info, plot)
    shown.result(info.to_dict(), lambda: summaries.print_inspection(info, adapter, anti_expert, plot))


@app.command(
    help_epilogue="Example: extsub train --model owner/name --data good.jsonl --output expert --dry-run\n"
    "Several GPUs or machines: accelerate launch -m extsub train ..."
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
    shown: Printed = DEFAULT,
) -> None:
    """Measure a model, or adapters on it: truthfulness, hallucination, flattery, toxicity, repetition, ability.

    An interrupted run goes on where it stopped.

    Parameters
    ----------
    tasks
        truthfulqa-mc, truthfulqa-binary, truthfulqa-gen, halueval-qa, halueval-dialogue, halueval-summarization,
        flattery, toxicity, repetition, perplexity, drift, ability.
    """
    need("extsub evaluate", "evaluate")
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
    from extsub.console import progress
    from extsub.console.results import print_sweep
    from extsub.sweeping.sweep import sweep

    shown.begin()
    progress.quieten_libraries()
    record = sweep(expert, (anti_expert, *more), settings, progress=progress.items)
    if is_main_process():
        shown.result(record, lambda: print_sweep(record))


@app.command(help_epilogue="Example: extsub report swept")
def report(
    folder: Path, /, *, output: Path | None = None, task_file: tuple[str, ...] = (), shown: Printed = DEFAULT
) -> None:
    """Write what a sweep found as one page: the verdict, the trade-off, every figure, what the models say.

    The page needs nothing else and no network. The same as Markdown and the picture as SVG lie beside it.

    Parameters
    ----------
    folder
        What extsub sweep wrote.
    output
        The .html file; report.html in the folder unless given.
    task_file
        A Python file of your own that registers a task.
    """
    need("extsub report", "report")
    from extsub.console import summaries
    from extsub.report.page import write_report

    written = write_report(folder, output, task_file)
    shown.result(written, lambda: summaries.print_report(written))


@app.command(help_epilogue="Example: extsub compare results/expert results/better --plot scores.png")
def compare(
    *results: Path,
    markdown: bool = False,
    plot: Path | None = None,
    seed: int = 0,
    task_file: tuple[str, ...] = (),
    shown: Printed = DEFAULT,
) -> None:
    """Lay runs side by side: how they differ from the first, item by item, and whether that could be chance.

    Parameters
    ----------
    results
        Folders that extsub evaluate wrote, or their results.json.
    markdown
        Print a Markdown table.
    plot
        Draw every score with its interval and its controls into this .png or .svg.
    seed
        Of the intervals and tests.
    task_file
        A Python file of your own that registers a task.
    """
    from extsub.console.results import print_comparison, print_markdown
    from extsub.evaluation.compare import compare

    if plot is not None:
        from extsub.plotting import check_picture

        check_picture(plot)
    comparison = compare(*results, seed=seed, task_file=task_file)
    if plot is not None:
        from extsub.evaluation.comparison_plot import plot_comparison

        plot_comparison(comparison, plot)
    show = print_markdown if markdown else print_comparison
    shown.result(comparison.to_dict(), lambda: show(comparison, plot))


@app.command(
    help_epilogue="Example: extsub run recipe.yaml --dry-run\n"
    "Several GPUs or machines: accelerate launch -m extsub run ..."
)
def run(recipe: Path, /, *, dry_run: bool = False, shown: Printed = DEFAULT) -> None:
    """The whole chain of RECIPE: train expert and anti-experts, sweep, choose, combine, report.

    What is done, and made from the same, is not repeated; an interrupted run goes on.

    Parameters
    ----------
    recipe
        A YAML file (docs/recipe.md; examples/ has some).
    dry_run
        Check everything and print the plan: which stages are done, and estimates of the others. Loads no weights.
    """
    need("extsub run", "train", "evaluate", "report")
    from extsub.console import progress
    from extsub.console.recipe import print_recipe_plan, print_run
    from extsub.recipe.run import plan_recipe, run_recipe

    shown.begin()
    progress.quieten_libraries()
    tokenising = progress.chunks("tokenising")
    if dry_run:
        plan = plan_recipe(recipe, tokenising)
        shown.result(plan, lambda: print_recipe_plan(plan))
        return
    summary = run_recipe(
        recipe,
        progress=progress.items,
        tokenising=tokenising,
        say=lambda stage: progress.say_where(f"stage: {stage}"),
    )
    if is_main_process():
        shown.result(summary, lambda: print_run(summary))


@app.command(help_epilogue="Example: extsub demo --output demo")
def demo(
    *,
    model: str | None = None,
    seed: tuple[int, ...] = (0,),
    output: Path = Path("demo"),
    shown: Printed = DEFAULT,
) -> None:
    """A real language model, SmolLM2-135M-Instruct, loses its flattery and its misconceptions on your CPU: an expert
    and two anti-experts are trained, every operation is tried at several strengths, one is chosen for each.

    Writes data and a recipe and runs it as extsub run does. An interrupted demo goes on where it stopped; a finished
    one only prints what it found.

    Parameters
    ----------
    model
        Another model: a folder or hub id. Unless given, SmolLM2-135M-Instruct from the hub, or from PyPI in 4 bits
        where the hub cannot be reached.
    seed
        Of all that is drawn; several for mean and spread.
    output
        The folder to write.
    """
    need("extsub demo", "demo")
    from extsub.console import progress
    from extsub.console.demo import print_demo
    from extsub.demo.model import find_demo_model
    from extsub.demo.run import demo

    shown.begin()
    progress.quieten_libraries()
    found = find_demo_model(model, progress.items, progress.say_where)
    summary = demo(
        seed,
        output,
        found.name,
        progress=progress.items,
        tokenising=progress.chunks("tokenising"),
        say=progress.say_where,
    )
    summary["model"] = found.what
    shown.result(summary, lambda: print_demo(summary, output))


PRINTED = {"--help", "-h", "--version", "-V"}


def run_command(arguments: list[str]) -> None:
    """Parse a command line and do what it says; without arguments, show the help.

    Raises:
        ExtSubError: the command line is wrong, or the command ran into what a user can fix.
    """
    tokens = as_options(arguments)
    app["train"].config = _config(tokens)
    only_prints = not tokens or not PRINTED.isdisjoint(tokens)
    try:
        with to_stdout() if only_prints else contextlib.nullcontext():
            app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        command = " ".join(["extsub", *(error.command_chain or ())])
        raise ExtSubError(f"{' '.join(str(error).split())} Run '{command} --help'.") from error


def _config(tokens: list[str]) -> list[Dict]:
    """The settings in the file that ``--config`` names. A name in it that is not a setting is an error."""
    for place, token in enumerate(tokens):
        if token == "--config" and place + 1 < len(tokens):
            return [Dict(_read_config(Path(tokens[place + 1])), use_commands_as_keys=False)]
        if token.startswith("--config="):
            return [Dict(_read_config(Path(token.removeprefix("--config="))), use_commands_as_keys=False)]
    return []


def _read_config(path: Path) -> dict[str, Any]:
    from extsub.recipe.values import mapping_of, read_yaml, settings_of

    content = read_yaml(f"--config {path}", path)
    if not isinstance(content or {}, dict):
        raise ExtSubError(f"--config {path}: expected settings with their values (rank: 8)")
    settings = mapping_of(f"--config {path}", content or {}, None)
    if unknown := sorted(settings.keys() - {one.name for one in fields(TrainingSettings)}):
        raise ExtSubError(
            f"--config {path}: {brief(unknown[0])} is not a setting of extsub train; see extsub train --help"
        )
    settings_of(f"--config {path}", settings, TrainingSettings)  # cyclopts would cut a number off
    return settings
