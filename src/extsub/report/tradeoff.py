"""The trade-off picture: the deficiency's score against ability, a curve for each operation. Plain SVG."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from extsub.escaping import xml
from extsub.report.axis import Axis
from extsub.report.ink import OWN, SHAPES, STAR, STYLE
from extsub.report.labels import Box, Labels
from extsub.report.reading import MODELS, Sweep
from extsub.report.wording import figure, number, score
from extsub.sweeping.budget import ScoreName

WIDE = (800, 500)
NARROW = (380, 440)
KEY = 108
"""The distance from one entry above the picture to the next."""
FAR = 2.0
"""How many times wider the whole must be than the surroundings of the main operation, for a second picture."""


@dataclass(frozen=True)
class Paper:
    """What a picture shows, and where on the paper it is drawn."""

    sweep: Sweep
    x: Axis
    y: Axis
    box: Box
    labels: Labels
    x_name: ScoreName | None
    shown: tuple[str, ...] = ()
    """The positions that lie on the paper."""
    sparse: bool = False
    """Whether only the ends of the curves have labels, since the rest has a picture of its own."""

    def figures(self, label: str) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """The figures of a position, (x, y), with their intervals; x is α where there is no ability."""
        y = self.sweep.figure(label, self.sweep.target)
        alpha = self.sweep.alpha(label) or 0.0
        x = self.sweep.figure(label, self.x_name) if self.x_name else {"value": alpha, "ci95": [alpha, alpha]}
        return (x, y) if x and y else None


def draw(sweep: Sweep, size: tuple[int, int] = WIDE, near: bool = False) -> str:
    """Draw the trade-off as SVG that stands alone or in a page.

    Args:
        near: show the surroundings of the main operation only.
    """
    width, height = size
    names = [*sweep.operations, *sweep.methods]
    columns = max(1, (width - 30) // KEY)
    top = 14 + 20 * -(-(len(names) + 1) // columns)
    box = Box(58, top + 20, width - 16, height - 46)
    paper = _paper(sweep, box, near, sparse=not near and has_far(sweep))
    curves = [name for name in names if name != sweep.main] + [name for name in names if name == sweep.main]
    for label in paper.shown:
        if (figures := paper.figures(label)) and (paper.x_name or sweep.alpha(label) is not None):
            paper.labels.mark(paper.x(figures[0]["value"]), paper.y(figures[1]["value"]), 5)
    # What finds a place for its labels first is drawn last.
    budget, models = list(_budget(paper)), list(_models(paper))
    text = {name: "".join(_curve(paper, name)) for name in reversed(curves)}
    parts = [
        *_frame(paper, width, height),
        f'<svg role="none" x="{box.left}" y="{box.top}" width="{box.right - box.left}" height="{box.bottom - box.top}" '
        f'viewBox="{box.left} {box.top} {box.right - box.left} {box.bottom - box.top}">',
        *budget,
        *(text[name] for name in curves),
        *models,
        "</svg>",
        *_keys(sweep, names, columns),
    ]
    # A group, not an image: the points in it are read and reached one by one.
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="tr" viewBox="0 0 {width} {height}" role="group" '
        f'aria-label="{xml(name_of(sweep, size, near))}"><style>{STYLE}</style>' + "".join(parts) + "</svg>"
    )


def name_of(sweep: Sweep, size: tuple[int, int] = WIDE, near: bool = False) -> str:
    """What tells a picture from the others, for those who do not see it."""
    what = f"{score(sweep.target)} against {score(sweep.ability) if sweep.ability else 'α'}"
    part = f"near {sweep.main}" if near else "all strengths"
    return f"{what}, {part}{', for narrow screens' if size == NARROW else ''}"


def has_far(sweep: Sweep) -> bool:
    """Whether some positions lie so far away that the main operation needs a picture of its own."""
    box = Box(0, 0, 1, 1)
    whole, close = _paper(sweep, box), _paper(sweep, box, near=True)
    pairs = ((whole.x, close.x), (whole.y, close.y))
    return any(abs(small(big.high) - small(big.low)) > FAR for big, small in pairs)


def _near(sweep: Sweep) -> list[str]:
    """The main operation up to twice its chosen strength, what was chosen of the others and is compared of references,
    and the expert."""
    most = 2 * abs(sweep.alpha(sweep.result) or 0.0)
    chosen = {choice["position"] for choice in (*sweep.record["chosen"].values(), *sweep.record["compared"].values())}
    return [
        label
        for label, point in sweep.points.items()
        if label == "expert" or label in chosen or (point["operation"] == sweep.main and abs(point["alpha"]) <= most)
    ]


def _paper(sweep: Sweep, box: Box, near: bool = False, sparse: bool = False) -> Paper:
    name = sweep.ability
    blank = Axis(0, 1, 0, 1)
    empty = Paper(sweep, blank, blank, box, Labels(box), name)
    pairs = [pair for label in (_near(sweep) if near else sweep.points) if (pair := empty.figures(label))]
    xs, ys = ([pair[k]["value"] for pair in pairs] for k in (0, 1))
    limit = sweep.limit()
    if limit is not None:
        xs.append(limit)
    turned = name is not None and name.measure.better == "lower"
    ends = (box.right, box.left) if turned else (box.left, box.right)
    x = Axis.around(xs, *ends, log=bool(name and name.measure.perplexity))
    better_up = sweep.target.measure.better == "higher"
    y_ends = (box.bottom, box.top) if better_up else (box.top, box.bottom)
    y = Axis.around(ys, *y_ends, log=sweep.target.measure.perplexity)
    shown = []
    for label in sweep.points:
        figures = empty.figures(label)
        if figures and x.low <= figures[0]["value"] <= x.high and y.low <= figures[1]["value"] <= y.high:
            shown.append(label)
    return Paper(sweep, x, y, box, Labels(box), name, tuple(shown), sparse)


def _frame(paper: Paper, width: int, height: int) -> Iterator[str]:
    box, name = paper.box, paper.x_name
    for value in paper.x.ticks(max(5, width // 110)):
        x = paper.x(value)
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{box.top}" y2="{box.bottom}"/>'
        yield f'<text x="{x:.1f}" y="{box.bottom + 16}" text-anchor="middle">{number(value)}</text>'
    for value in paper.y.ticks(6):
        y = paper.y(value)
        yield f'<line class="grid" x1="{box.left}" x2="{box.right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{box.left - 7}" y="{y + 4:.1f}" text-anchor="end">{number(value)}</text>'
    yield f'<path class="frame" d="M{box.left},{box.top}V{box.bottom}H{box.right}"/>'
    yield f'<text class="title" x="4" y="{box.top - 9}">↑ {xml(score(paper.sweep.target))}: better</text>'
    title = f"{xml(score(name))}: better →" if name else "α"
    yield f'<text class="title" x="{box.right}" y="{height - 8}" text-anchor="end">{title}</text>'


def _budget(paper: Paper) -> Iterator[str]:
    limit, budget = paper.sweep.limit(), paper.sweep.budget
    if limit is None or budget is None:
        return
    box, x = paper.box, paper.x(limit)
    bad_left = (budget.sign == "<=") == (paper.x.start > paper.x.end)
    left, right = (box.left, x) if bad_left else (x, box.right)
    shape = f"M{left:.1f},{box.top}H{right:.1f}V{box.bottom}H{left:.1f}Z"
    yield f'<path class="over" d="{shape}"/>'
    yield f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{box.top}" y2="{box.bottom}"/>'
    text = f"budget {'≤' if budget.sign == '<=' else '≥'} {number(limit)}"
    anchor, shift = ("end", -5) if x - box.left > 110 else ("start", 5)
    edge = x + shift - (len(text) * 6.8 if anchor == "end" else 0)
    paper.labels.taken.append(Box(edge, box.bottom - 18, edge + len(text) * 6.8, box.bottom))
    yield f'<text class="limit-text" x="{x + shift:.1f}" y="{box.bottom - 6}" text-anchor="{anchor}">{text}</text>'


def _curve(paper: Paper, operation: str) -> Iterator[str]:
    """A line through its strengths; the chosen one is ringed, and α (of a reference β) stands where there is room."""
    sweep = paper.sweep
    chosen = sweep.record["chosen"].get(operation, {}).get("position")
    labels = [label for label in sweep.curve(operation) if paper.figures(label)]
    places = {label: (paper.x(x["value"]), paper.y(y["value"])) for label in labels for x, y in [_both(paper, label)]}
    yield f'<g class="curve {_classes(sweep, operation)}">'
    yield f'<polyline class="line" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places.values())}"/>'
    own = [label for label in labels if label not in MODELS and label in paper.shown]
    last = own[-1] if own else None
    for label in sorted(own, key=lambda label: (label != chosen, label != last)):
        name, _, alpha = sweep.strength(label).partition(" = ")
        text = f"{name} {alpha}" if label in (chosen, last) else alpha
        wanted = label == last or (not paper.sparse and (operation == sweep.main or label == chosen))
        yield _point(paper, label, SHAPES.get(operation, OWN), text.strip() if wanted else "", label == chosen)
    yield "</g>"


def _classes(sweep: Sweep, operation: str) -> str:
    """How a curve is drawn, and its entry above the picture."""
    return f"op-{xml(operation)}" + (" method" if operation in sweep.methods else "")


def _both(paper: Paper, label: str) -> tuple[dict[str, Any], dict[str, Any]]:
    figures = paper.figures(label)
    assert figures
    return figures


def _point(paper: Paper, label: str, shape: str, text: str, chosen: bool) -> str:
    """A mark with its figures to hover over."""
    x, y = _both(paper, label)
    left, top = paper.x(x["value"]), paper.y(y["value"])
    ends = [paper.x(end) for end in x["ci95"]], [paper.y(end) for end in y["ci95"]]
    ring = f'<circle class="ring" cx="{left:.1f}" cy="{top:.1f}" r="9"/>' if chosen else ""
    place = paper.labels.place(left, top, text, 11, 12 if chosen else 8) if text else None
    shown = f'<text class="alpha" x="{place[0]:.1f}" y="{place[1]:.1f}">{xml(text)}</text>' if place else ""
    title = f"<title>{xml(_tip(paper, label, chosen))}</title>"
    return (
        f'<g class="p{" chosen" if chosen else ""}" data-position="{xml(label)}" tabindex="0" role="img">{title}'
        f'<path class="ci" d="M{ends[0][0]:.1f},{top:.1f}H{ends[0][1]:.1f}M{left:.1f},{ends[1][0]:.1f}'
        f'V{ends[1][1]:.1f}"/><circle class="hit" cx="{left:.1f}" cy="{top:.1f}" r="11"/>{ring}'
        f'<path class="mark" transform="translate({left:.1f},{top:.1f})" d="{shape}"/>{shown}</g>'
    )


def _tip(paper: Paper, label: str, chosen: bool) -> str:
    lines = [paper.sweep.title(label) + (" (chosen)" if chosen else "")]
    for name in (paper.sweep.target, paper.x_name):
        if name and (measured := paper.sweep.figure(label, name)):
            lines.append(f"{score(name)}: {' '.join(figure(measured['value'], measured['ci95']))}")
    return "\n".join(lines)


def _models(paper: Paper) -> Iterator[str]:
    """Base, expert and anti-expert; where α is an axis the first and the last are levels."""
    yield '<g class="model">'
    for label in MODELS:
        if label not in paper.shown or not (figures := paper.figures(label)):
            continue
        x, y = paper.x(figures[0]["value"]), paper.y(figures[1]["value"])
        if paper.x_name is None:
            yield f'<path class="reference" d="M{paper.box.left},{y:.1f}H{paper.box.right}"/>'
        yield _point(paper, label, STAR, "", False)
        place = paper.labels.place(x, y, label, 12, 10, must=True)
        if place:
            yield f'<text class="alpha" x="{place[0]:.1f}" y="{place[1]:.1f}">{label}</text>'
    yield "</g>"


def _keys(sweep: Sweep, names: list[str], columns: int) -> Iterator[str]:
    """What is what, above the picture."""
    for place, name in enumerate([*names, "chosen"]):
        row, column = divmod(place, columns)
        x, y = 14 + KEY * column, 14 + 20 * row
        if name == "chosen":
            yield f'<circle class="ring" cx="{x}" cy="{y}" r="7"/><text x="{x + 14}" y="{y + 4}">chosen</text>'
            continue
        yield f'<g class="key {_classes(sweep, name)}"><path class="line" d="M{x - 10},{y}H{x + 10}"/>'
        yield f'<path class="mark" transform="translate({x},{y})" d="{SHAPES.get(name, OWN)}"/>'
        yield f'<text x="{x + 15}" y="{y + 4}">{xml(name)}</text></g>'
