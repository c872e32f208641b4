"""The report as Markdown, for a README or a paper."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from extsub.escaping import markdown as plain
from extsub.tables import markdown_rows


def markdown(content: dict[str, Any], pictures: dict[str, str], marker: str) -> str:
    """The report as Markdown: verdict, pictures (file: what it shows), tables and commands."""
    lines = [
        f"<!-- {marker} -->",
        f"# {plain(content['title'])}",
        "",
        f"**{plain(content['verdict'].sentence)}**",
        "",
    ]
    lines += [f"- {plain(sentence)}" for sentence in content["verdict"].beside]
    for name, title in pictures.items():
        place = quote(name.encode("utf-8", "surrogateescape"), safe="")
        lines += ["", f"![{plain(title)}]({place})"]
    lines.append("")
    for table in content["tables"]:
        lines += [f"## {plain(table.title)}", "", *markdown_rows(table), "", plain(table.note), ""]
    lines += ["## Made from", "", *(f"- {plain(name)}: {plain(text)}" for name, text in content["made_of"]), ""]
    fence = "```"
    lines += ["## Again", "", f"{fence}sh", *content["commands"], fence, ""]
    return "\n".join(lines)
