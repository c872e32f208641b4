"""Tables to paste: as Markdown, as LaTeX, as CSV. Others' words are data in all of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from extsub.escaping import latex as in_latex
from extsub.escaping import line, spreadsheet
from extsub.escaping import markdown as in_markdown

BOLD, LATEX_BOLD = "**{}**", "\\textbf{{{}}}"


class Cell(NamedTuple):
    """A figure, and what is known of it."""

    text: str
    small: str = ""
    bold: bool = False


class TableRow(NamedTuple):
    """A line, and what kind of line: chosen, model, control, first of its group."""

    cells: tuple[Cell, ...]
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """``left`` columns hold names, the others figures."""

    title: str
    note: str
    head: tuple[str, ...]
    left: int
    rows: list[TableRow] = field(default_factory=list)

    @property
    def names(self) -> int:
        """How many columns say which row it is: those of names, and the strength beside them."""
        return self.left + (self.head[self.left] == "α")


def markdown_rows(table: Table) -> Iterator[str]:
    """The lines of the table alone; what was chosen has its name in bold."""
    yield f"| {' | '.join(map(in_markdown, table.head))} |"
    yield "|" + "|".join("---" if place < table.left else "---:" for place in range(len(table.head))) + "|"
    for row in table.rows:
        yield f"| {' | '.join(_cells(row, in_markdown, BOLD))} |"


def markdown(table: Table, notes: Iterable[str] = ()) -> str:
    """The table for a README or an issue, with its notes as a list below."""
    return "\n".join([*markdown_rows(table), "", *(f"- {in_markdown(note)}" for note in notes), ""])


def latex(table: Table, notes: Iterable[str] = ()) -> str:
    """The table for a paper, with booktabs' rules and its notes as comments below."""
    lines = [
        "% \\usepackage{booktabs}",
        f"\\begin{{tabular}}{{{'l' * table.left}{'r' * (len(table.head) - table.left)}}}",
        "\\toprule",
        f"{' & '.join(map(in_latex, table.head))} \\\\",
    ]
    for place, row in enumerate(table.rows):
        lines += ["\\midrule"] * (not place or "first" in row.kind.split())
        lines.append(f"{' & '.join(_cells(row, in_latex, LATEX_BOLD))} \\\\")
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", *(f"% {line(note)}" for note in notes), ""])


def _cells(row: TableRow, escaped: Callable[[str], str], bold: str) -> Iterator[str]:
    for place, cell in enumerate(row.cells):
        text = escaped(f"{cell.text} {cell.small}".strip())
        is_bold = text and (cell.bold or (not place and row.kind.startswith("chosen")))
        yield bold.format(text) if is_bold else text


def to_csv(head: Sequence[str], rows: Iterable[Sequence[str | float | None]]) -> str:
    """Names and bare numbers, for programs; nothing where a value is None."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([spreadsheet(value) if isinstance(value, str) else value for value in row] for row in rows)
    return text.getvalue()
