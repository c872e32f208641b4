"""Two answers to one question as they come: side by side where the terminal is wide, else one above the other."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from itertools import chain

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from extsub.chat.differences import differing
from extsub.escaping import block, line
from extsub.printing import console

WIDE = 100
"""Columns of a terminal in which two answers stand side by side."""
DIFFERS = "underline"

Answers = Sequence[tuple[str, str]]
"""(name, text) of each."""


@contextmanager
def side_by_side() -> Generator[Callable[[Answers], None]]:
    """Shows the answers anew whenever it is called; what was shown last stays, with the words that differ marked."""
    shown: Answers = ()

    def show(answers: Answers) -> None:
        nonlocal shown
        shown = answers
        live.update(_layout(shown, [set()] * len(shown), terminal.width), refresh=True)

    terminal = console()
    try:
        with Live(console=terminal, auto_refresh=False, transient=True) as live:
            yield show
    finally:
        texts = [text for _, text in shown]
        marks = differing(*texts) if len(texts) == 2 and all(texts) else [set()] * len(texts)
        if shown:
            terminal.print(_layout(shown, marks, terminal.width))


def _layout(answers: Answers, marks: Sequence[set[int]], width: int) -> RenderableType:
    texts = [_marked(text, numbers) for (_, text), numbers in zip(answers, marks, strict=True)]
    names = [Text(line(name), style="bold") for name, _ in answers]
    if width < WIDE:
        return Group(*chain.from_iterable(zip(names, texts, strict=True)))
    table = Table.grid(padding=(0, 3, 0, 0), expand=True)
    for _ in names:
        table.add_column(ratio=1)
    table.add_row(*names)
    table.add_row(*texts)
    return table


def _marked(text: str, numbers: set[int]) -> Text:
    """A text with some of its words marked."""
    marked = Text()
    for place, part in enumerate(re.split(r"(\s+)", text.strip())):  # words are at even places
        is_marked = place % 2 == 0 and place // 2 in numbers
        marked.append(block(part), style=DIFFERS if is_marked else None)
    return marked
