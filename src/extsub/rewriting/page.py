"""The summary as a page: figures, pairs to look at, what was dropped. No script, no network; all text is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from extsub.escaping import xml
from extsub.rewriting.filters import REASONS
from extsub.rewriting.summary import NegativesSummary, figures_of

EACH = 3
"""Dropped rows that are shown for each reason."""
LONGEST = 1200
"""Characters of a text that are shown."""
STYLE = """
:root{--paper:#fff;--ink:#1b2128;--soft:#5a6572;--line:#dfe4e9;--tint:#f5f7f9}
@media (prefers-color-scheme:dark){:root{--paper:#161b21;--ink:#e6ebf0;--soft:#9aa6b2;--line:#2f3944;--tint:#1d242c}}
body{margin:0 auto;max-width:1000px;padding:2rem 1.2rem 4rem;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,sans-serif}
h1{font-size:1.3rem}h2{font-size:1.1rem;margin-top:2.4rem}.note{color:var(--soft);font-size:.9rem}
table{border-collapse:collapse;font-size:.9rem}td{padding:.25rem .8rem .25rem 0;border-bottom:1px solid var(--line)}
td+td{text-align:right;font-variant-numeric:tabular-nums}
.item{border:1px solid var(--line);border-radius:6px;margin:.8rem 0;overflow:hidden}
.asked{background:var(--tint);font-weight:600}.asked,.sides>div{padding:.5rem .8rem;white-space:pre-wrap;
overflow-wrap:anywhere}.sides{display:grid;grid-template-columns:1fr 1fr;font-size:.9rem}
.sides>div+div{border-left:1px solid var(--line)}b{display:block;font-size:.76rem;color:var(--soft)}
@media (max-width:640px){.sides{grid-template-columns:1fr}.sides>div+div{border-left:0}}
"""


def page(summary: NegativesSummary, dropped: Sequence[Mapping[str, Any]]) -> str:
    """The whole page as HTML.

    Args:
        dropped: the rows that are not kept, as they are written beside the output.
    """
    title = f"{summary['behaviour']['name']}: {summary['kept']:,} of {summary['rows']:,} rows are kept"
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return "\n".join(
        [
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{xml(title)}</title><style>{STYLE}</style></head><body><h1>{xml(title)}</h1>",
            '<p class="note">Bad answers, to train an anti-expert with and for nothing else: what they say is wrong on '
            "purpose.</p>",
            *(f"<p>{xml(note)}</p>" for note in summary["notes"]),
            _table(figures_of(summary)),
            "<h2>Pairs, drawn at random</h2>",
            *(_item(pair["instruction"], pair["good"], pair["bad"]) for pair in summary["pairs"]),
            *_reasons(dropped),
            "</body></html>\n",
        ]
    )


def _reasons(dropped: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for why, words in REASONS.items():
        rows = [row for row in dropped if row["reason"] == why]
        if rows:
            yield f"<h2>Dropped: {xml(words)} ({len(rows):,})</h2>"
            yield from (_item(row["asked"], row["from"], row["written"], "written") for row in rows[:EACH])


def _table(rows: Iterable[tuple[str, str]]) -> str:
    cells = (f"<tr><td>{xml(name)}</td><td>{xml(value)}</td></tr>" for name, value in rows)
    return f"<table>{''.join(cells)}</table>"


def _item(asked: str, good: str, bad: str, name: str = "bad") -> str:
    sides = [(label, text) for label, text in (("good", good), (name, bad)) if text]
    shown = "".join(f'<div dir="auto"><b>{label}</b>{_cut(text)}</div>' for label, text in sides)
    return f'<div class="item"><div class="asked" dir="auto">{_cut(asked)}</div><div class="sides">{shown}</div></div>'


def _cut(text: str) -> str:
    return xml(text if len(text) <= LONGEST else f"{text[:LONGEST].rstrip()} […]")
