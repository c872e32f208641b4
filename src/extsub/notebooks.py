"""Tables for notebooks: what ``_repr_html_`` gives. Others' words are data in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from extsub.escaping import xml

MOST_ROWS = 20


def facts(title: str, rows: Mapping[str, Any]) -> str:
    """A table of names and values; those that are None are left out."""
    return table(title, (), [(name, value) for name, value in rows.items() if value is not None])


def table(title: str, heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table with a caption, of which the first rows are shown."""
    rows = list(rows)
    head = f"<thead><tr>{_cells('th', heads)}</tr></thead>" if heads else ""
    body = "".join(f"<tr>{_cells('td', row)}</tr>" for row in rows[:MOST_ROWS])
    more = f"<p>and {len(rows) - MOST_ROWS:,} more</p>" if len(rows) > MOST_ROWS else ""
    return f"<table><caption>{xml(title)}</caption>{head}<tbody>{body}</tbody></table>{more}"


def _cells(tag: str, values: Iterable[Any]) -> str:
    return "".join(f"<{tag}>{xml(_shown(value))}</{tag}>" for value in values)


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)
