"""What all commands take, and how help shows it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import CoercionError, Group, Parameter
from cyclopts.help.formatters import DefaultFormatter

from extsub.errors import ExtSubError
from extsub.printing import be_quiet, print_json, to_stdout

if TYPE_CHECKING:
    from cyclopts import Token
    from cyclopts.help import HelpEntry, HelpPanel
    from rich.console import Console, ConsoleOptions

PRINTING = Group("Printing", sort_key=99)


def _no_option(_: Any, tokens: Sequence[Token]) -> str:
    (token,) = tokens
    if token.value.startswith("-") and token.value != "-" and len(token.value.split()) == 1:
        raise CoercionError(msg=f"there is no option {token.value}.", token=token)
    return token.value


DASH = Parameter(allow_leading_hyphen=True, converter=_no_option)
"""Of a text that may be ``-``, which is standard input and not an option."""


@dataclass(frozen=True)
class Printing:
    """Whether and how a command prints; the same options for every command."""

    as_json: Annotated[bool, Parameter(name="--json", group=PRINTING)] = False
    """Print the result as JSON."""
    quiet: Annotated[bool, Parameter(name=("--quiet", "-q"), group=PRINTING)] = False
    """Print errors only: no progress, no summary."""

    def begin(self) -> None:
        """Show progress from now on, unless --quiet was given."""
        be_quiet(self.quiet)

    def result(self, record: Any, show: Callable[[], None]) -> None:
        """Print what a command found: as JSON, or as ``show`` does it for people."""
        with to_stdout():
            if self.as_json:
                print_json(record)
            elif not self.quiet:
                show()


Form = Literal["", "markdown", "latex", "csv"]


@dataclass(frozen=True)
class Pasting:
    """In which form a command prints its table, to be pasted or read by programs."""

    markdown: Annotated[bool, Parameter(group=PRINTING)] = False
    """Print a Markdown table."""
    latex: Annotated[bool, Parameter(group=PRINTING)] = False
    """Print a LaTeX table (booktabs)."""
    csv: Annotated[bool, Parameter(group=PRINTING)] = False
    """Print bare numbers as CSV."""

    def form(self, shown: Printing) -> Form:
        """The form that is asked for; empty for a table on a terminal.

        Raises:
            ExtSubError: several are asked for at once.
        """
        forms: dict[Form, bool] = {"markdown": self.markdown, "latex": self.latex, "csv": self.csv}
        asked = [name for name, is_asked in forms.items() if is_asked]
        if len(asked) + shown.as_json > 1:
            options = [*(["json"] if shown.as_json else []), *asked]
            raise ExtSubError(
                f"a table is printed in one form: give one of {', '.join(f'--{name}' for name in options)}"
            )
        return asked[0] if asked else ""


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
