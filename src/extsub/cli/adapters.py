"""Commands on adapter files, which need no model in memory: combine, inspect, merge, export, push."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Group, Parameter

from extsub.cli.app import DEFAULT, Printed, app
from extsub.console.strengths import ALPHA, check_names, print_strengths, strengths_of
from extsub.errors import ExtSubError
from extsub.settings import Dtype

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
    alpha: Annotated[tuple[str, ...], METHOD, ALPHA] = (),
    rank: Annotated[int | None, METHOD] = None,
    dtype: Annotated[Dtype, INPUT] = "auto",
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
        The folder to write; with several strengths it gets a folder for each, alpha-0.5 say.
    operation
        What to do with each row: ext-sub is the paper's; subtract, add, contrast and amplify are its baselines and
        controls.
    operation_file
        A Python file of your own that registers an operation (docs/method.md); it is run.
    alpha
        Strength: one for all anti-experts, or one for each in their order (--alpha 0.5 --alpha 1). With commas
        (--alpha 0.5,1,1.5) as many results, each at one of them.
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
    from extsub.adapters.save import save_adapter, save_strengths
    from extsub.combination.combine import combine
    from extsub.combination.operations import load_operations
    from extsub.combination.profile import read_profile
    from extsub.console import progress, summaries

    shown.begin()
    check_names((expert, anti_expert, *more))
    strengths = strengths_of(alpha)
    if deficiency and len(strengths) > 1:
        raise ExtSubError("--deficiency: d is the same at every alpha: write it once, without --alpha")
    load_operations([operation], operation_file)
    adapters = [load_adapter(name) for name in (expert, anti_expert, *more)]
    factors = read_profile(profile) if profile else None
    results = {
        alphas[0]: combine(
            *adapters,
            operation=operation,
            alpha=alphas,
            rank=rank,
            dtype=dtype,
            missing_modules=missing_modules,
            modules_to_save=modules_to_save,
            base_model=base_model,
            deficiency=deficiency,
            profile=factors,
        )
        for alphas in strengths
    }
    if len(results) == 1:
        (result,) = results.values()
        record = save_adapter(result, output, overwrite=overwrite, progress=progress.parts("combining"))
        shown.result({"output": str(output), **record}, lambda: summaries.print_record(output, record, expert))
        return
    records = save_strengths(results, output, overwrite=overwrite, progress=progress.parts)
    written = [{"output": str(output / name), **record} for name, record in records.items()]
    shown.result(written, lambda: print_strengths(output, records, expert))


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
        Draw heat maps of norm ratio and row cosine by layer and module into this .png, .svg or .pdf (needs
        both adapters).
    base_model
        The base model that both adapters really have, if their configs disagree.
    """
    from extsub.console.inspection import print_inspection
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
    shown.result(info.to_dict(), lambda: print_inspection(info, adapter, anti_expert, plot))


@app.command(help_epilogue="Example: extsub merge HuggingFaceTB/SmolLM2-135M-Instruct better --output merged")
def merge(
    base: str,
    adapter: str,
    /,
    *,
    output: Annotated[Path, INPUT, Parameter(name=["--output", "-o"])],
    dtype: Annotated[Dtype, INPUT] = "auto",
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


export = App(name="export", help="Write an adapter in another form, for programs that do not read PEFT's.")
app.command(export)


@export.command(name="gguf", help_epilogue="Example: extsub export gguf better --output better.gguf")
def export_gguf(
    adapter: str,
    /,
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    base: str | None = None,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    overwrite: bool = False,
    shown: Printed = DEFAULT,
) -> None:
    """Write ADAPTER, a LoRA, as one GGUF file for llama.cpp and Ollama. What llama.cpp could not apply is refused.

    Parameters
    ----------
    adapter
        A folder or a hub id.
    output
        The .gguf file to write.
    base
        The base model, of which config.json is read: a folder, the file itself, or a hub id; unless given, what the
        adapter names.
    dtype
        How to store numbers.
    overwrite
        Replace the file if it is there.
    """
    from extsub.console import progress, summaries
    from extsub.export.gguf import export_gguf

    shown.begin()
    record = export_gguf(
        adapter, output, base=base, dtype=dtype, overwrite=overwrite, progress=progress.parts("exporting")
    )
    shown.result({"output": str(output), **record}, lambda: summaries.print_gguf(adapter, output, record))


@app.command(help_epilogue="Example: extsub push better owner/better --scores swept --dry-run")
def push(
    folder: str,
    repository: str,
    /,
    *,
    scores: str | None = None,
    public: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    task_file: tuple[str, ...] = (),
    shown: Printed = DEFAULT,
) -> None:
    """Upload FOLDER, an adapter or a merged model that extsub wrote, to REPOSITORY on the Hugging Face hub.

    What extsub wrote goes up in one commit, with a model card written for its place there, and nothing else that lies
    in the folder; the folder stays as it is. Log in before: hf auth login, or HF_TOKEN.

    Parameters
    ----------
    folder
        What extsub combine, train or merge wrote.
    repository
        owner/name; made unless it is there.
    scores
        A folder that extsub sweep or extsub evaluate wrote: its scores of this adapter go into the card.
    public
        Make the repository public; it is private unless you say so.
    overwrite
        Replace another adapter that extsub has put there.
    dry_run
        Show the card and the files, and ask nothing of the network.
    task_file
        A Python file of your own that registers a task.
    """
    from extsub.console import progress, summaries
    from extsub.publishing.push import push

    shown.begin()
    progress.quieten_hub()
    record = push(
        folder,
        repository,
        scores=scores,
        public=public,
        overwrite=overwrite,
        dry_run=dry_run,
        task_file=task_file,
    )
    shown.result(record, lambda: summaries.print_push(record))
