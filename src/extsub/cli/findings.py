"""Commands on what was found: report, compare."""

from __future__ import annotations

from pathlib import Path

from extsub.cli.app import DEFAULT, Printed, app
from extsub.extras import need


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
