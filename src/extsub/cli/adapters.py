"""Commands on adapter files, which need no model in memory: combine, inspect, merge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from extsub.cli.app import DEFAULT, Printed, app
from extsub.errors import ExtSubError

INPUT = Parameter(group=Group("Input and output", sort_key=1))
METHOD = Parameter(group=Group("What to do", sort_key=2))
REFUSALS = Parameter(group=Group("Where it would refuse", sort_key=3))


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


@app.command(help_epilogue="Example: extsub merge HuggingFaceTB/SmolLM2-135M-Instruct better --output merged")
def merge(
    base: str,
    adapter: str,
    /,
    *,
    output: Annotated[Path, INPUT, Parameter(name=["--output", "-o"])],
    dtype: Annotated[Literal["auto", "float32", "float16", "bfloat16"], INPUT] = "auto",
    max_shard_size: Annotated[str, INPUT] = "5GB",
    overwrite: Annotated[bool, INPUT] = False,
    shown: Printed = DEFAULT,
) -> None:
    """Write BASE with ADAPTER merged in: a full model that needs no PEFT. Files only: no model is loaded.

    Parameters
    ----------
    base
        The base model, unquantised, in safetensors files: a folder, or a hub id: owner/name or owner/name@revision.
    adapter
        A LoRA, AdaLoRA or IA3 adapter: a folder or a hub id.
    output
        The folder to write.
    dtype
        How to store numbers; auto leaves each tensor as it is in the base.
    max_shard_size
        Of one file of weights: 500MB, 5GB.
    overwrite
        Replace an output that extsub wrote.
    """
    from extsub.console import progress, summaries
    from extsub.merging.merge import merge

    shown.begin()
    record = merge(
        base,
        adapter,
        output,
        dtype=dtype,
        max_shard_size=max_shard_size,
        overwrite=overwrite,
        progress=progress.items,
    )
    shown.result({"output": str(output), **record}, lambda: summaries.print_merge(output, record))
