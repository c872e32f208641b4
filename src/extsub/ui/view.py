"""What the page shows, as HTML. Questions, answers and names are others' words: all that is put in is escaped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from extsub.adapters.base import public
from extsub.adapters.source import CONFIG, SAFETENSORS
from extsub.adapters.stated import CARD, PROVENANCE
from extsub.chat.differences import differing
from extsub.chat.session import Session
from extsub.escaping import xml
from extsub.models.position import Position
from extsub.report.reading import Sweep
from extsub.report.samples import samples
from extsub.report.tradeoff import NARROW, WIDE, draw, has_far
from extsub.report.wording import arrowed, at
from extsub.ui.answers import Pair
from extsub.ui.known import known_at, warning_at
from extsub.ui.scale import Scale

READY = 6
"""Ready prompts that are shown."""


def title(position: Position) -> str:
    """A position as a heading calls it."""
    assert not isinstance(position.alpha, tuple)  # the page has one slider
    return position.operation if position.alpha is None else f"{position.operation}, {at(position.alpha)}"


def head(session: Session) -> str:
    """The head of the page as HTML: what is loaded."""
    expert, *anti_experts = session.adapters
    facts = {
        "expert": expert,
        "anti-experts" if len(anti_experts) > 1 else "anti-expert": ", ".join(anti_experts),
        "base": public(session.base),
        "asked with": f"--prompt {session.prompt}",
    }
    said = "".join(f"<span><b>{name}</b> {xml(value)}</span>" for name, value in facts.items())
    return f'<h1>extsub</h1><p class="facts">{said}</p>'


def notes(sentences: Sequence[str]) -> str:
    """Notes as an HTML list: what a user should know."""
    return (
        f'<ul class="notes">{"".join(f"<li>{xml(sentence)}</li>" for sentence in sentences)}</ul>' if sentences else ""
    )


def ready_prompts(sweep: Sweep) -> list[str]:
    """Questions whose answers changed most between the expert and the result of a sweep."""
    questions = [item.question for group in samples(sweep) for item in group.items if item.changed and item.question]
    return list(dict.fromkeys(questions))[:READY]


def ready(prompts: Sequence[str]) -> str:
    """Buttons as HTML, one for each ready prompt."""
    buttons = (
        f'<button type="button" data-prompt="{place}" title="{xml(text)}" dir="auto">{xml(text)}</button>'
        for place, text in enumerate(prompts)
    )
    return f'<p class="label">Changed most in the sweep:</p><div>{"".join(buttons)}</div>' if prompts else ""


def dial(scale: Scale) -> dict[str, Any]:
    """What the slider is drawn from (``dial.html``)."""
    first, last = scale.swept or (scale.low, scale.low)
    left = scale.place(first)
    return {
        "low": scale.low,
        "high": scale.high,
        "step": scale.step,
        "left": left,
        "width": scale.place(last) - left,
        "ticks": "".join(_tick(scale, alpha) for alpha in scale.measured or range(round(scale.high) + 1)),
    }


def _tick(scale: Scale, alpha: float) -> str:
    holds = {
        "tick": True,
        "chosen": alpha == scale.chosen,
        "unknown": alpha not in scale.measured,
        "close": alpha in scale.measured and alpha not in scale.labelled(),
    }
    classes = " ".join(name for name, does in holds.items() if does)
    name = ("expert" if alpha == 0 else at(alpha)) + (", chosen" if alpha == scale.chosen else "")
    return (
        f'<button type="button" class="{classes}" style="left:{scale.place(alpha)}%" data-alpha="{alpha!r}" '
        f'title="{name}" aria-label="{name}"><i></i>{alpha:g}</button>'
    )


def known(sweep: Sweep | None, position: Position) -> str:
    """What the sweep measured at a position, and a warning where it measured nothing."""
    figures = "".join(
        f'<p class="figure">{xml(arrowed(name))} <b>{xml(score.value)}</b> '
        f"{' · '.join(f'<span>{xml(part)}</span>' for part in score.beside)}</p>"
        for name, score in (known_at(sweep, position) if sweep else {}).items()
    )
    warning, kind = warning_at(sweep, position), "warning" if sweep else "note"
    return figures + (f'<p class="{kind}" role="status">{xml(warning)}</p>' if warning else "")


def pair(said: Pair | None, left: Position, right: Position) -> str:
    """Both answers side by side, or the places for them; words that differ are marked once both are whole."""
    if said is None:
        return f'<div class="pair">{_answer("left", left)}{_answer("right", right)}</div>'
    whole = all(answer.whole for answer in said)
    same = "the same words" if whole and said.left.text == said.right.text else ""
    sides = (("left", left, said.left, said.right), ("right", right, said.right, said.left))
    answers = "".join(
        _answer(
            side,
            position,
            marked(answer.text, other.text) if whole else xml(answer.text),
            note="; ".join(filter(None, ("no words" if answer.whole and not answer.text else "", answer.note, same))),
            busy=not answer.whole,
        )
        for side, position, answer, other in sides
    )
    return f'<div class="pair">{answers}</div>'


def _answer(side: str, position: Position, text: str = "", note: str = "", busy: bool = False) -> str:
    name = xml(title(position))
    return (
        f'<section class="{side}" aria-label="{side}: {name}" aria-busy="{str(busy).lower()}"><h2>{name}</h2>'
        f'<div class="text" dir="auto">{text}</div><p class="note">{xml(note)}</p></section>'
    )


def marked(text: str, other: str) -> str:
    """``text`` as HTML; words that ``other`` does not have in their place stand in ``<mark>``."""
    words = enumerate(re.findall(r"\s*\S+", text))  # each with the white space before it
    differ = differing(text, other)[0]
    runs = groupby(words, lambda word: word[0] in differ)
    texts = ((differs, "".join(word for _, word in run)) for differs, run in runs)
    return "".join(_mark(text) if differs else xml(text) for differs, text in texts)


def _mark(run: str) -> str:
    words = run.lstrip()
    return f"{run[: len(run) - len(words)]}<mark>{xml(words)}</mark>"


def refused(why: str) -> str:
    """An error that a user can fix, as HTML."""
    return f'<p class="warning" role="alert">{xml(why)}</p>'


def picture(sweep: Sweep) -> str:
    """The report's picture, for wide and narrow screens: of the main operation's surroundings, if all is much wider."""
    near = has_far(sweep)
    sizes = {"wide": WIDE, "narrow": NARROW}
    drawn = "".join(f'<div class="{name}">{draw(sweep, size, near)}</div>' for name, size in sizes.items())
    return f'<p class="label">What the sweep measured; choose a point to go there</p>{drawn}'


def lines(combine: str, vllm: str | None) -> str:
    """Command lines to copy, as HTML."""
    commands = {"The adapter of this strength": combine, "To serve it": vllm}
    return "".join(
        f'<div class="command"><p class="label">{what}</p><pre tabindex="0">{_words(line)}</pre>'
        f'<button type="button" data-copy aria-label="copy: {what}">copy</button></div>'
        for what, line in commands.items()
        if line
    )


def _words(line: str) -> str:
    """A line that a browser does not break at a hyphen."""
    return " ".join(f"<span>{xml(word)}</span>" for word in line.split(" "))


def write(position: Position) -> str:
    """The words on the button that writes."""
    return f"Write {title(position)}"


def written(place: Path) -> str:
    """What was written, as HTML."""
    names = ", ".join((SAFETENSORS, CONFIG, CARD, PROVENANCE))
    return f'<p role="status">written: {xml(str(place))}/: {names}</p>'
