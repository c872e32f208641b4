"""The page: its parts, and what each event does. What they show is made in ``view.py``."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr

from extsub.adapters.load import load_adapter
from extsub.adapters.save import save_adapter
from extsub.algebra import OPERATIONS
from extsub.combination.combine import combine
from extsub.errors import ExtSubError
from extsub.models.position import Position
from extsub.report.reading import Sweep
from extsub.ui import view
from extsub.ui.answers import Answers
from extsub.ui.commands import combine_line, vllm_line
from extsub.ui.known import label_of
from extsub.ui.output import check_free, place_of
from extsub.ui.scale import scale_of, start_of

RESULT = "result"
"""What a side is called that follows the slider."""
NAME = "better"
"""What a written adapter is called, unless one types another name."""
AT_ONCE: dict[str, Any] = {"queue": False, "show_progress": "hidden", "trigger_mode": "always_last"}
"""How events are treated that follow the slider while it moves."""
ASKED: dict[str, Any] = {"show_progress": "hidden", "trigger_mode": "multiple", "concurrency_limit": None}
"""How questions are: a new one may begin before the last is answered, and ends it (``Answers``)."""
STYLE = files("extsub.ui").joinpath("page.css").read_text(encoding="utf-8")
"""The report's colours, in light and dark, and the page's own parts."""
THEME = gr.themes.Base(
    font=("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif"),
    font_mono=("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"),
)
"""Gradio's plainest, with fonts of the reader's machine: none is fetched."""


class Page:
    """Two answers to one prompt, a slider between them, and what to do with a strength that one likes."""

    def __init__(self, answers: Answers, sweep: Sweep | None, output: Path) -> None:
        self.answers, self.sweep, self.output = answers, sweep, output
        self.adapters = [load_adapter(name) for name in answers.session.adapters]
        self.prompts = view.ready_prompts(sweep) if sweep else []
        self.operation = sweep.main if sweep and sweep.main in OPERATIONS else "ext-sub"

    def blocks(self) -> gr.Blocks:
        """Build everything on the page, at the strength that the sweep chose."""
        position = Position(self.operation, start_of(self.sweep, self.operation))
        with gr.Blocks(title="extsub", analytics_enabled=False) as blocks:
            _html(view.head(self.answers.session), "head")
            with gr.Row(elem_id="asking"):
                self.question = gr.Textbox(label="Prompt", max_lines=8, scale=8, elem_id="question")
                self.ask = gr.Button("Ask", variant="primary", scale=1, min_width=100, elem_id="ask")
            self.ready = _html(view.ready(self.prompts), "ready", "choose.js", visible=bool(self.prompts))
            with gr.Column(elem_id="strength"):
                scale = view.dial(scale_of(self.sweep, self.operation))
                self.dial = _html(position.alpha, "dial", "dial.js", html_template=_text("dial.html"), **scale)
                self.known = _html(view.known(self.sweep, position), "known")
            self.said = _html(view.pair(None, Position("expert"), position), "said")
            self._menu()
            with gr.Row(elem_id="below"):
                self._picture(position)
                self._use(position)
            _html(view.notes(self.answers.session.notes), "notes")
            self._wire()
        return blocks

    def _menu(self) -> None:
        models = [RESULT, "expert", "base", "anti-expert"]
        with gr.Accordion("Operation and models", open=False, elem_id="menu"):
            self.left = gr.Radio(models, value="expert", label="left", elem_id="left")
            self.right = gr.Radio(models, value=RESULT, label="right", elem_id="right")
            self.choice = gr.Radio(list(OPERATIONS), value=self.operation, label="operation", elem_id="operation")

    def _picture(self, position: Position) -> None:
        if self.sweep:
            with gr.Column(scale=3, min_width=320):
                here = label_of(self.sweep, position)
                self.picture = _html(view.picture(self.sweep), "picture", "choose.js", here=here)

    def _use(self, position: Position) -> None:
        with gr.Column(scale=2, min_width=320, elem_id="use"):
            self.lines = _html(self._lines(NAME, position), "lines", "copy.js")
            self.name = gr.Textbox(NAME, label=f"Name of the adapter, in {self.output.absolute()}", elem_id="name")
            self.write = gr.Button(view.write(position), elem_id="write")
            self.written = _html("", "written")

    def _wire(self) -> None:
        place, sides = [self.dial, self.choice], [self.left, self.right]
        asked, named = [self.question, *place, *sides], [self.name, *place, self.right]
        shown = [self.known, self.lines, self.write, *([self.picture] if self.sweep else [])]
        asking = [self.ask.click, self.question.submit, self.left.input, self.right.input]
        gr.on(asking, self.say, asked, self.said, **ASKED)
        gr.on([self.dial.input, self.right.input, self.name.change], self.show, named, shown, **AT_ONCE)
        turned = [
            self.dial.release(self.follow, sides, self.right, **AT_ONCE),
            self.choice.input(self.turn, [self.choice, *sides], [self.dial, self.right], **AT_ONCE),
        ]
        if self.sweep:
            turned.append(self.picture.select(self.go, sides, [self.choice, self.dial, self.right], **AT_ONCE))
        for event in turned:
            event.then(self.show, named, shown, **AT_ONCE)
            event.then(self.say, asked, self.said, **ASKED)
        self.ready.select(self.pick, None, self.question, **AT_ONCE).then(self.say, asked, self.said, **ASKED)
        self.write.click(self.save, [self.name, *place], self.written, show_progress="minimal")

    # ---- what events do ----------------------------------------------------------------------------------------------

    def say(
        self, question: str, alpha: float, operation: str, left: str, right: str, request: gr.Request
    ) -> Iterator[str]:
        """Make both answers, and show them as they come."""
        sides = [_position(side, operation, alpha) for side in (left, right)]
        if not question.strip():
            yield view.pair(None, *sides)
            return
        try:
            for pair in self.answers.pair(question, *sides, page=str(request.session_hash)):
                yield view.pair(pair, *sides)
        except ExtSubError as error:
            yield view.refused(str(error))

    def show(self, name: str, alpha: float, operation: str, right: str) -> list[Any]:
        """Show what is known of a strength, and what to do with it."""
        position = _position(right, operation, alpha)
        result = _position(RESULT, operation, alpha)
        shown = [view.known(self.sweep, position), self._lines(name, result), view.write(result)]
        return [*shown, gr.HTML(here=label_of(self.sweep, position))] if self.sweep else shown

    def follow(self, left: str, right: str) -> str:
        """Let the right side follow a slider that nobody else follows."""
        return right if RESULT in (left, right) else RESULT

    def turn(self, operation: str, left: str, right: str) -> tuple[gr.HTML, str]:
        """Show the slider of another operation, at the strength chosen for it."""
        dial = gr.HTML(start_of(self.sweep, operation), **view.dial(scale_of(self.sweep, operation)))
        return dial, self.follow(left, right)

    def go(self, left: str, right: str, event: gr.EventData) -> list[Any]:
        """Go to a point in the picture, if it is the expert or an operation: nothing else is on the slider."""
        assert self.sweep
        label = str(event.position)
        if label == "expert":
            return [gr.skip(), 0.0, self.follow(left, right)]
        operation, alpha = (self.sweep.points[label][name] for name in ("operation", "alpha"))
        if operation not in OPERATIONS:
            return [gr.skip()] * 3
        dial = gr.HTML(alpha, **view.dial(scale_of(self.sweep, operation)))
        return [operation, dial, self.follow(left, right)]

    def pick(self, event: gr.EventData) -> str:
        """The ready prompt that was clicked."""
        return self.prompts[int(event.prompt)]

    def save(self, name: str, alpha: float, operation: str) -> str:
        """Write the adapter of a strength."""
        try:
            place = place_of(self.output, name)
            check_free(place)
            save_adapter(combine(*self.adapters, operation=operation, alpha=float(alpha)), place)
        except ExtSubError as error:
            return view.refused(str(error))
        return view.written(place)

    def _lines(self, name: str, position: Position) -> str:
        try:
            place = place_of(self.output, name)
        except ExtSubError as error:
            return view.refused(str(error))
        names = self.answers.session.adapters
        return view.lines(combine_line(names, position, place), vllm_line(self.adapters, position, place))


def _position(side: str, operation: str, alpha: float) -> Position:
    return Position(operation, float(alpha)) if side == RESULT else Position(side)


def _html(value: Any, elem_id: str, script: str | None = None, **more: Any) -> gr.HTML:
    return gr.HTML(value, elem_id=elem_id, js_on_load=script and _text(script), apply_default_css=False, **more)


def _text(name: str) -> str:
    return files("extsub.ui").joinpath(name).read_text(encoding="utf-8")
