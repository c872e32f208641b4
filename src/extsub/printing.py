"""The exits to a terminal: a line, a table, a bar. Others' text is shown and never obeyed, whoever printed it."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from extsub.distributed import is_main_process
from extsub.errors import PrintError
from extsub.escaping import block, line, to_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table
    from rich.text import Text

WIDE = 160
"""Columns of a table where the output is not a terminal."""

_quiet = False


def be_quiet(quiet: bool) -> None:
    """Show no progress from now on, or show it again."""
    global _quiet
    _quiet = quiet


def shows_progress() -> bool:
    """Whether this process shows how far it is: the main one, unless it was told to be quiet."""
    return is_main_process() and not _quiet


def duration(seconds: float) -> str:
    """A time as people say it: ``3.2 s``, ``4 min 10 s``, ``2 h 5 min``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def say(*lines: str, error: bool = False) -> None:
    """Print lines on standard output, or on standard error; without any, a blank one."""
    print("\n".join(map(line, lines)), file=sys.stderr if error else sys.stdout, flush=error)


def write(text: str) -> None:
    """Print a part of a text of several lines on standard output, at once.

    Raises:
        PrintError: it cannot be written.
    """
    with to_stdout():
        print(block(text), end="")


def print_json(content: Any) -> None:
    """Print JSON on standard output, in ASCII where that does not hold Unicode.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    text = to_json(content)
    if not (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf"):
        text = re.sub("[^\x00-\x7f]", lambda match: json.dumps(match[0])[1:-1], text)
    print(text)


@contextlib.contextmanager
def to_stdout() -> Generator[None]:
    """Tell an error of standard output from one of any other file.

    Raises:
        PrintError: what is printed inside cannot be written.
    """
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        raise PrintError(error) from error


def print_table(table: Table) -> None:
    """Print a table, at most as wide as the terminal, or as ``WIDE`` columns where there is none."""
    console(width=None if sys.stdout.isatty() else WIDE, soft_wrap=False).print(table)


def bar(doing: str, total: int, done: int, *, transient: bool = True) -> Progress:
    """A bar on standard error with one task: so many of how many, the time left, and what its field ``said`` says."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    name, said = (TextColumn(text, markup=False) for text in ("{task.description}", "left  {task.fields[said]}"))
    columns = (name, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), said)
    progress = Progress(*columns, console=console(stderr=True), transient=transient)
    progress.add_task(line(doing), total=total, completed=done, said="")
    return progress


def console(**options: Any) -> Console:
    """A console of rich, without its markup, its emoji and its colours for numbers."""
    from rich.console import Console

    class Plain(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            options.update(markup=False, emoji=False, highlight=False)
            return super().render_str(line(text), **options)

    return Plain(**options)
