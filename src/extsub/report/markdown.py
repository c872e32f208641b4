"""The report as Markdown, for a README or a paper."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from extsub.report.tables import Cell, Table


def markdown(content: dict[str, Any], pictures: list[str], marker: str) -> str:
    """Verdict, picture, tables and commands."""
    lines = [
        f"<!-- {marker} -->",
        f"# {_plain(content['title'])}",
        "",
        f"**{_plain(content['verdict'].sentence)}**",
        "",
    ]
    lines += [f"- {_plain(one)}" for one in content["verdict"].beside]
    for name in pictures:
        lines += ["", f"![{_plain(content['picture_title'])}]({name})"]
    lines.append("")
    for table in content["tables"]:
        lines += [f"## {_plain(table.title)}", "", *_table(table), "", _plain(table.note), ""]
    lines += ["## Made from", "", *(f"- {name}: {_plain(text)}" for name, text in content["made_of"]), ""]
    fence = "```"
    lines += ["## Again", "", f"{fence}sh", *content["commands"], fence, ""]
    return "\n".join(lines)


def _table(table: Table) -> Iterator[str]:
    yield "| " + " | ".join(_plain(name) for name in table.head) + " |"
    yield "|" + "|".join("---" if place < table.left else "---:" for place in range(len(table.head))) + "|"
    for row in table.rows:
        bold = "**" if row.kind.startswith("chosen") else ""
        first, *others = (_cell(cell) for cell in row.cells)
        yield "| " + " | ".join([f"{bold}{first}{bold}", *others]) + " |"


def _cell(cell: Cell) -> str:
    return _plain(f"{cell.text} {cell.small}".strip())


def _plain(text: str) -> str:
    """Text that Markdown leaves as it is, on one line."""
    for one in "\\`*_|<":
        text = text.replace(one, f"\\{one}")
    return " ".join(text.split())
