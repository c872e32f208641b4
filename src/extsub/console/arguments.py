"""What people type, as cyclopts spells it: numbers below 0 are values, and an option may take several. And how help
shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter
from cyclopts.help.formatters import DefaultFormatter

from extsub.printing import be_quiet, print_json, to_stdout

if TYPE_CHECKING:
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions

PRINTING = Group("Printing", sort_key=99)


@dataclass(frozen=True)
class Printing:
    """What a command prints, the same for all of them."""

    as_json: Annotated[bool, Parameter(name="--json", group=PRINTING)] = False
    """Print the result as JSON."""
    quiet: Annotated[bool, Parameter(name=("--quiet", "-q"), group=PRINTING)] = False
    """Print errors only: no progress, no summary."""

    def begin(self) -> None:
        """Show progress from now on, or none."""
        be_quiet(self.quiet)

    def result(self, record: Any, show: Callable[[], None]) -> None:
        """Print what a command found: as JSON, or as ``show`` does it for people."""
        with to_stdout():
            if self.as_json:
                print_json(record)
            elif not self.quiet:
                show()


class HelpFormatter(DefaultFormatter):
    """Cyclopts' own formatter, but a description of several lines of source is one paragraph."""

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        """Print a panel of help."""
        from cyclopts.help.inline_text import InlineText
        from rich.text import Text

        def reflowed(entry: HelpEntry) -> HelpEntry:
            text = getattr(entry.description, "primary_renderable", None)
            return entry if text is None else entry.copy(description=InlineText(Text(" ".join(str(text).split()))))

        super().__call__(console, options, panel.copy(entries=[reflowed(entry) for entry in panel.entries]))


def as_typed(default: Any) -> str | None:
    """A default as one would type it; None, which help leaves out, where one would type nothing."""
    if default is None or default is False or default in ((), {}):
        return None
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def as_options(tokens: list[str]) -> list[str]:
    """The words of a command line, with ``--alpha``, ``--alphas`` and ``--field`` in one word with their values, and
    ``-`` after ``--``.
    """
    return _dash_last(_spread_fields(_spread_alpha(_join_alphas(tokens))))


def _dash_last(tokens: list[str]) -> list[str]:
    """``- --json`` to ``--json -- -``: standard input is not an option."""
    if "--" in tokens or "-" not in tokens:
        return tokens
    return [*(token for token in tokens if token != "-"), "--", "-"]


def _join_alphas(tokens: list[str]) -> list[str]:
    """``--alphas -1:1:0.5`` to ``--alphas=-1:1:0.5``: a grid that begins below 0 is not an option."""
    result: list[str] = []
    for token in tokens:
        if result and result[-1] == "--alphas" and token[:1] == "-" and token[1:2] in (".", *"0123456789"):
            result[-1] = f"--alphas={token}"
        else:
            result.append(token)
    return result


def _spread_alpha(tokens: list[str]) -> list[str]:
    """``--alpha 0.5 -1`` to ``--alpha=0.5 --alpha=-1``: as many values as follow, and adapters may follow them."""
    result: list[str] = []
    values = False
    for token in tokens:
        values = token == "--alpha" or (values and _is_number(token))
        if token == "--alpha":
            result.append(token)
        elif values:
            if result[-1] == "--alpha":
                result.pop()
            result.append(f"--alpha={token}")
        else:
            result.append(token)
    return result


def _spread_fields(tokens: list[str]) -> list[str]:
    """``--field output=answer`` to ``--field.output=answer``, which is how cyclopts spells an entry of a mapping."""
    result: list[str] = []
    entries = False
    for token in tokens:
        entries = token == "--field" or (entries and "=" in token and not token.startswith("-"))
        if token.startswith("--field="):
            result.append(f"--field.{token.removeprefix('--field=')}")
        elif token != "--field":
            result.append(f"--field.{token}" if entries else token)
    return result


def _is_number(token: str) -> bool:
    try:
        float(token)
    except ValueError:
        return False
    return True
