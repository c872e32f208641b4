"""The report as Markdown, for a README or a paper."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from extsub.escaping import markdown as plain
from extsub.report.tables import Cell, Table


def markdown(content: dict[str, Any], pictures: dict[str, str], marker: str) -> str:
    """Verdict, pictures (file: what it shows), tables and commands."""
    lines = [
        f"<!-- {marker} -->",
        f"# {plain(content['title'])}",
        "",
        f"**{plain(content['verdict'].sentence)}**",
        "",
    ]
    lines += [f"- {plain(one)}" for one in content["verdict"].beside]
    for name, title in pictures.items():
        place = quote(name.encode("utf-8", "surrogateescape"), safe="")
        lines += ["", f"![{plain(title)}]({place})"]
    lines.append("")
    for table in content["tables"]:
        lines += [f"## {plain(table.title)}", "", *_table(table), "", plain(table.note), ""]
    lines += ["## Made from", "", *(f"- {plain(name)}: {plain(text)}" for name, text in content["made_of"]), ""]
    fence = "```"
    lines += ["## Again", "", f"{fence}sh", *content["commands"], fence, ""]
    return "\n".join(lines)


def _table(table: Table) -> Iterator[str]:
    yield "| " + " | ".join(plain(name) for name in table.head) + " |"
    yield "|" + "|".join("---" if place < table.left else "---:" for place in range(len(table.head))) + "|"
    for row in table.rows:
        bold = "**" if row.kind.startswith("chosen") else ""
        first, *others = (_cell(cell) for cell in row.cells)
        yield "| " + " | ".join([f"{bold}{first}{bold}", *others]) + " |"


def _cell(cell: Cell) -> str:
    return plain(f"{cell.text} {cell.small}".strip())
