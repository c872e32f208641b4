"""The command line: parse, one call into a room, print. Rooms are imported inside the commands, so that --help is
quick and no command loads what it does not need."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from cyclopts import App, CycloptsError, Parameter
from cyclopts.config import Dict

from extsub.arguments import as_options
from extsub.errors import ExtSubError
from extsub.evaluation.settings import EvaluationSettings, GenerationSettings
from extsub.processes import is_main_process
from extsub.sweeping.settings import SweepSettings
from extsub.training.settings import TrainingSettings

app = App(
    name="extsub",
    help="Suppress a deficiency of a fine-tuned language model by exact arithmetic on two adapters.",
    help_format="plaintext",
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,
    default_parameter=Parameter(negative=(), consume_multiple=True),  # no --no-overwrite; --target-modules a b
)

Json = Annotated[bool, Parameter(name="--json", help="Print the result as JSON.")]


@app.command
def combine(
    expert: str,
    anti_expert: str,
    /,
    *more: str,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    operation: Literal["ext-sub", "subtract", "add", "contrast", "amplify"] = "ext-sub",
    alpha: Annotated[list[float] | None, Parameter(consume_multiple=False)] = None,
    rank: int | None = None,
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto",
    missing_modules: Literal["error", "zero"] = "error",
    modules_to_save: Literal["error", "expert"] = "error",
    base_model: str | None = None,
    deficiency: bool = False,
    profile: Path | None = None,
    overwrite: bool = False,
    as_json: Json = False,
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
        What to do with each row: ext-sub is the paper's, the others are its baselines and controls.
    alpha
        Strength, 1 unless given: one for all anti-experts, or one for each (--alpha 0.5 1).
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
    from extsub import terminal
    from extsub.adapters.load import load_adapter
    from extsub.adapters.save import save_adapter
    from extsub.combination import combine
    from extsub.profile import read_profile

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
    record = save_adapter(result, output, overwrite=overwrite, progress=terminal.progress("combining"))
    if as_json:
        _print_json({"output": str(output), **record})
    else:
        terminal.print_record(output, record)


@app.command
def inspect(
    adapter: str,
    anti_expert: str | None = None,
    /,
    *,
    plot: Path | None = None,
    base_model: str | None = None,
    as_json: Json = False,
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
    from extsub import terminal
    from extsub.inspection import PairInfo, inspect

    info = inspect(adapter, anti_expert, base_model=base_model)
    if plot is not None:
        if not isinstance(info, PairInfo):
            raise ExtSubError("--plot compares two adapters: give an anti-expert too")
        from extsub.plot import plot_pair

        plot_pair(info, plot)
    if as_json:
        _print_json(info.to_dict())
    elif isinstance(info, PairInfo):
        terminal.print_pair(info)
    else:
        terminal.print_adapter(info)


@app.command
def train(
    settings: Annotated[TrainingSettings, Parameter(name="*")],
    *,
    config: Path | None = None,
    resume: bool = False,
    dry_run: bool = False,
    as_json: Json = False,
) -> None:
    """Train an adapter on instruction data: an expert on good examples, an anti-expert on bad ones.

    Several GPUs or machines: accelerate launch -m extsub train ... The defaults are the authors' (train_peft.sh).

    Parameters
    ----------
    config
        A YAML file with any of these settings; what is given here as well wins.
    resume
        Continue an interrupted run; start if there is none.
    dry_run
        Check everything and print the plan: steps, tokens, parameters, memory, an example. Loads no weights.
    """
    from extsub import terminal
    from extsub.training.plan import plan_training
    from extsub.training.train import train

    terminal.quieten_libraries()
    tokenising = terminal.chunks("tokenising")
    if dry_run:
        plan = plan_training(settings, tokenising).to_dict()
        _print_json(plan) if as_json else terminal.print_plan(plan)
        return
    record = train(settings, resume=resume, progress=tokenising)
    if not is_main_process():
        return
    if as_json:
        _print_json({"output": str(settings.output), **record})
    else:
        terminal.print_training(settings.output, record)


@app.command
def evaluate(
    *tasks: str,
    settings: Annotated[EvaluationSettings, Parameter(name="*")] = EvaluationSettings(),  # noqa: B008  frozen
    as_json: Json = False,
) -> None:
    """Measure a model, or adapters on it: truthfulness, hallucination, toxicity, repetition, ability.

    Several GPUs or machines: accelerate launch -m extsub evaluate ... An interrupted run goes on where it stopped.

    Parameters
    ----------
    tasks
        truthfulqa-mc, truthfulqa-binary, truthfulqa-gen, halueval-qa, halueval-dialogue, halueval-summarization,
        toxicity, repetition, perplexity, drift, ability.
    """
    from extsub import terminal
    from extsub.evaluation.evaluate import evaluate
    from extsub.results_table import print_results

    terminal.quieten_libraries()
    results = evaluate(tasks, settings, progress=terminal.items)
    if not is_main_process():
        return
    if as_json:
        _print_json({"results": results})
    else:
        print_results(results, list(dict.fromkeys(tasks)))


@app.command
def generate(
    settings: Annotated[GenerationSettings, Parameter(name="*")],
    *,
    as_json: Json = False,
) -> None:
    """Greedy answers of a model, or of an adapter on it, to a file of prompts; an interrupted run goes on.

    Several GPUs or machines: accelerate launch -m extsub generate ...
    """
    from extsub import terminal
    from extsub.evaluation.generate import generate

    terminal.quieten_libraries()
    record = generate(settings, progress=terminal.items)
    if not is_main_process():
        return
    if as_json:
        _print_json({"output": str(settings.output), **record})
    else:
        terminal.print_generation(settings.output, record)


@app.command
def sweep(
    expert: str,
    anti_expert: str,
    /,
    *more: str,
    settings: Annotated[SweepSettings, Parameter(name="*")],
    as_json: Json = False,
) -> None:
    """Evaluate every operation at every strength with one load of the base, and choose the strength within a budget.

    Several GPUs or machines: accelerate launch -m extsub sweep ... An interrupted sweep goes on where it stopped.

    Parameters
    ----------
    expert
        The adapter to improve.
    anti_expert
        An adapter trained on examples of what to suppress.
    more
        More anti-experts.
    """
    from extsub import terminal
    from extsub.results_table import print_sweep
    from extsub.sweeping.sweep import sweep

    terminal.quieten_libraries()
    record = sweep(expert, (anti_expert, *more), settings, progress=terminal.items)
    if not is_main_process():
        return
    if as_json:
        _print_json(record)
    else:
        print_sweep(record)


@app.command
def report(folder: Path, /, *, output: Path | None = None, as_json: Json = False) -> None:
    """Write what a sweep found as one page: the verdict, the trade-off, every figure, what the models say.

    The page needs nothing else and no network. The same as Markdown and the picture as SVG lie beside it.

    Parameters
    ----------
    folder
        What extsub sweep wrote.
    output
        The .html file; report.html in the folder unless given.
    """
    from extsub.report.report import write_report

    written = write_report(folder, output)
    if as_json:
        _print_json(written)
        return
    print(written["sentence"])
    for one in written["beside"]:
        print(f"- {one}")
    print(f"written: {', '.join(written['files'].values())}")


@app.command
def compare(
    *results: Path, markdown: bool = False, plot: Path | None = None, seed: int = 0, as_json: Json = False
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
    """
    from extsub.evaluation.compare import compare
    from extsub.evaluation.compare import markdown as to_markdown
    from extsub.results_table import print_comparison

    comparison = compare(*results, seed=seed)
    if plot is not None:
        from extsub.evaluation.picture import plot_comparison

        plot_comparison(comparison, plot)
    if as_json:
        _print_json(comparison.to_dict())
    elif markdown:
        print(to_markdown(comparison), end="")
    else:
        print_comparison(comparison)


@app.command
def run(recipe: Path, /, *, dry_run: bool = False, as_json: Json = False) -> None:
    """The whole chain of RECIPE: train expert and anti-experts, sweep, choose, combine, report.

    What is done, and made from the same, is not repeated; an interrupted run goes on. Several GPUs or machines:
    accelerate launch -m extsub run ...

    Parameters
    ----------
    recipe
        A YAML file (docs/recipe.md; examples/ has some).
    dry_run
        Check everything and print the plan: which stages are done, and estimates of the others. Loads no weights.
    """
    from extsub import terminal
    from extsub.recipe.run import plan_recipe, run_recipe
    from extsub.recipe.table import print_recipe_plan, print_run

    terminal.quieten_libraries()
    tokenising = terminal.chunks("tokenising")
    if dry_run:
        plan = plan_recipe(recipe, tokenising)
        _print_json(plan) if as_json else print_recipe_plan(plan)
        return
    summary = run_recipe(
        recipe,
        progress=terminal.items,
        tokenising=tokenising,
        say=lambda stage: print(f"stage: {stage}", file=sys.stderr, flush=True),
    )
    if not is_main_process():
        return
    if as_json:
        _print_json(summary)
    else:
        print_run(summary)


@app.command
def demo(
    *,
    seed: tuple[int, ...] = (0,),
    output: Path = Path("demo"),
    as_json: Json = False,
) -> None:
    """The whole chain in miniature, from nothing, on a CPU: a tiny Llama that knows truths and myths, an expert, two
    anti-experts, a sweep, a choice, a page.

    An interrupted demo goes on where it stopped; what is finished is not repeated.

    Parameters
    ----------
    seed
        Of the world and all that is drawn; several for mean and spread.
    output
        The folder to write.
    """
    from extsub import terminal
    from extsub.demo.demo import demo
    from extsub.demo.table import print_demo

    terminal.quieten_libraries()
    summary = demo(seed, output, progress=terminal.items, say=lambda text: print(text, file=sys.stderr, flush=True))
    if as_json:
        _print_json(summary)
    else:
        print_demo(summary, output)


def _print_json(content: dict[str, Any]) -> None:
    print(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False))


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command. Exit code 0: done; 2: something the user can fix, in one sentence; 1: a bug, with traceback."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        tokens = as_options(sys.argv[1:] if arguments is None else arguments)
        app["train"].config = _recipe(tokens)
        app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        _fail(f"{' '.join(str(error).split())} Run 'extsub --help'.", 2)
    except ExtSubError as error:
        _fail(str(error), 2)
    except BrokenPipeError:  # the reader of a pipe had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt as error:
        _fail(f"interrupted; {error.args[0] if error.args else 'nothing was written'}", 130)
    except SystemExit as error:
        _fail(f"terminated; {error.args[1] if len(error.args) > 1 else 'nothing was written'}", 143)
    sys.exit(0)


def _recipe(tokens: list[str]) -> list[Dict]:
    """The settings in the file that ``--config`` names. A name in it that is no setting is an error."""
    for token, following in zip(tokens, [*tokens[1:], ""], strict=True):
        name = following if token == "--config" else token.removeprefix("--config=")
        if name != token:
            return [Dict(_read_recipe(Path(name)), use_commands_as_keys=False)]
    return []


def _read_recipe(path: Path) -> dict[str, Any]:
    from extsub.errors import brief
    from extsub.recipe.values import mapping_of, read_yaml, settings_of

    content = read_yaml(f"--config {path}", path)
    if not isinstance(content or {}, dict):
        raise ExtSubError(f"--config {path}: expected settings with their values (rank: 8)")
    known = {one.name for one in fields(TrainingSettings)}
    recipe = mapping_of(f"--config {path}", content or {}, None)
    if unknown := sorted(recipe.keys() - known):
        raise ExtSubError(
            f"--config {path}: {brief(unknown[0])} is no setting of extsub train; see extsub train --help"
        )
    settings_of(f"--config {path}", recipe, TrainingSettings)  # cyclopts would cut a number off
    return recipe


def _terminate(_signal: int, _frame: object) -> NoReturn:
    raise SystemExit(143)  # an exception, so that the unfinished output is removed


def _fail(message: str, code: int) -> NoReturn:
    rank = os.environ.get("RANK", "0")
    print("Error: " + ("" if rank == "0" else f"process {rank}: ") + message, file=sys.stderr)
    sys.exit(code)
