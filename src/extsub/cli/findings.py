"""Commands on what was found: report, compare, table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from extsub.cli.app import DEFAULT, ON_A_TERMINAL, Pasted, Printed, app
from extsub.extras import need
from extsub.list_options import GROUPS


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


@app.command(
    help_epilogue="Example: extsub compare results/expert results/better --plot scores.pdf\n"
    "Over seeds: extsub compare --group expert=e0,e1,e2 --group better=b0,b1,b2 --latex"
)
def compare(
    *results: Path,
    group: Annotated[dict[str, tuple[str, ...]] | None, GROUPS] = None,
    plot: Path | None = None,
    seed: int = 0,
    task_file: tuple[str, ...] = (),
    pasted: Pasted = ON_A_TERMINAL,
    shown: Printed = DEFAULT,
) -> None:
    """Lay runs side by side: how they differ from the first, item by item, and whether that could be chance.

    Parameters
    ----------
    results
        Folders that extsub evaluate wrote, or their results.json.
    group
        NAME=FOLDER,FOLDER: one model made with several seeds, as mean ± sd, tested over seeds and items; after the
        other runs, so that the first group is compared with where no folder stands alone.
    plot
        Draw every score with its interval and its controls into this .png, .svg or .pdf.
    seed
        Of the intervals and tests.
    task_file
        A Python file of your own that registers a task.
    """
    form = pasted.form(shown)
    from extsub.console.results import print_comparison
    from extsub.evaluation.compare import compare

    if plot is not None:
        from extsub.plotting import check_picture

        check_picture(plot)
    comparison = compare(*results, groups=group, seed=seed, task_file=task_file)
    if plot is not None:
        from extsub.evaluation.comparison_plot import plot_comparison

        plot_comparison(comparison, plot)
    shown.result(comparison.to_dict(), lambda: print_comparison(comparison, form, plot))


@app.command(
    help_epilogue="Example: extsub table llama-7b results/expert results/ext-sub --latex\n"
    "Over seeds: extsub table seed-0 seed-1 seed-2 --latex"
)
def table(
    *folders: Path,
    group: Annotated[dict[str, tuple[str, ...]] | None, GROUPS] = None,
    seed: int = 0,
    task_file: tuple[str, ...] = (),
    pasted: Pasted = ON_A_TERMINAL,
    shown: Printed = DEFAULT,
) -> None:
    """Print the paper's table: base, expert, anti-expert, subtraction and Ext-Sub with every score of it that there is.

    A model that several folders have is one line: mean ± sd where they have the same score (sweeps of several seeds,
    say), else each gives its own scores.

    Parameters
    ----------
    folders
        What extsub sweep, run or evaluate wrote; a model of an evaluation is called as its folder.
    group
        NAME=FOLDER,FOLDER: folders that extsub evaluate wrote for one model.
    seed
        Of the intervals of differences.
    task_file
        A Python file of your own that registers a task or an operation.
    """
    form = pasted.form(shown)
    from extsub.console.results import print_findings
    from extsub.report.paper import table

    paper = table(*folders, groups=group, seed=seed, task_file=task_file)
    shown.result(paper.to_dict(), lambda: print_findings(paper.table(), paper.notes, paper.to_csv, form))
