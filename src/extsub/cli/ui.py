"""A command that is used in a browser: ui."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from extsub.cli.app import DEFAULT, Printed, app
from extsub.extras import need
from extsub.models.base import Dtype
from extsub.models.prompts import PromptOption
from extsub.printing import say

PAGE = Parameter(group=Group("Page", sort_key=1))
ASKING = Parameter(group=Group("Asking", sort_key=2))


@app.command(help_epilogue="Example: extsub ui expert anti-expert --sweep swept")
def ui(
    expert: str,
    anti_expert: str,
    /,
    *more: str,
    sweep: Annotated[Path | None, PAGE] = None,
    task_file: Annotated[tuple[str, ...], PAGE] = (),
    output: Annotated[Path, PAGE] = Path(),
    host: Annotated[str, PAGE] = "127.0.0.1",
    port: Annotated[int, PAGE] = 7860,
    model: Annotated[str | None, ASKING] = None,
    prompt: Annotated[PromptOption, ASKING] = "auto",
    max_new_tokens: Annotated[int, ASKING] = 256,
    dtype: Annotated[Dtype, ASKING] = "auto",
    shown: Printed = DEFAULT,
) -> None:
    """A page in the browser: one prompt, two answers, EXPERT on the left, the result on the right, and a slider for α.

    Serves this machine alone, until Ctrl-C; loads nothing from the network, and reports nothing to anybody.

    Parameters
    ----------
    expert
        The adapter to improve.
    anti_expert
        An adapter trained on examples of what to suppress.
    more
        More anti-experts.
    sweep
        What extsub sweep wrote about them: what each strength does and costs stands beside the slider then.
    task_file
        A Python file of your own that registers a task of that sweep.
    output
        The folder below which the page may write adapters; the current one unless given.
    host
        The address that is heard; 0.0.0.0 lets everybody in your network ask, and write adapters into the output.
    port
        0 takes a free one.
    model
        The base: a folder or hub id; unless given, the base that the adapters name.
    prompt
        Text around a question, as in extsub evaluate: auto is what the expert was trained with, else chat where the
        tokenizer has such a template, else extsub.
    max_new_tokens
        Longest answer.
    dtype
        Of the weights; auto is bfloat16 on a GPU that has it, else float32.
    """
    need("extsub ui", "ui")
    from extsub.console import progress
    from extsub.ui.serve import serve

    shown.begin()
    progress.quieten_libraries()
    serve(
        expert,
        (anti_expert, *more),
        model,
        prompt=prompt,
        dtype=dtype,
        max_new_tokens=max_new_tokens,
        sweep=sweep,
        task_file=task_file,
        output=output,
        host=host,
        port=port,
        ready=lambda address: shown.result({"address": address}, lambda: say(f"{address}    (Ctrl-C ends it)")),
    )
