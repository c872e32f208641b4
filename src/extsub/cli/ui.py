"""A command that is used in a browser: ui."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Group, Parameter

from extsub.cli.app import AS_USUAL, DEFAULT, Opened, Printed, app
from extsub.extras import need
from extsub.printing import say

PAGE = Parameter(group=Group("Page", sort_key=1))


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
    opening: Opened = AS_USUAL,
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
    """
    need("extsub ui", "ui")
    from extsub.console import progress
    from extsub.ui.serve import serve

    shown.begin()
    progress.quieten_libraries()
    serve(
        expert,
        (anti_expert, *more),
        **vars(opening),
        sweep=sweep,
        task_file=task_file,
        output=output,
        host=host,
        port=port,
        ready=lambda address: shown.result({"address": address}, lambda: say(f"{address}    (Ctrl-C ends it)")),
    )
