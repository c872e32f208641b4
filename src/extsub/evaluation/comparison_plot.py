"""A comparison as a picture: for each score a panel, in it a line for each run with its interval, and the controls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from extsub.evaluation.compare import CONTROLS, Comparison, Line
from extsub.formatting import rounded
from extsub.plotting import check_picture, drawing, label, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3
LABEL = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
GREY = "#8c959f"
STYLES: dict[str, Literal[":", "--", "-.", "-"]] = {"chance": ":", "longest": "--", "shortest": "-.", "negated": "-"}
COLOURS = {"better": "#1a7f37", "worse": "#cf222e", "no difference": "#57606a", "": "#0b5cad"}
"""The colour of each verdict against the first run; the first, and what cannot be judged, is blue."""


def plot_comparison(comparison: Comparison, path: Path) -> None:
    """Draw a comparison into a .png, .svg or .pdf.

    Raises:
        ExtSubError: ``path`` is neither .png, .svg nor .pdf, or cannot be written, or matplotlib is missing.
    """
    check_picture(path)
    from matplotlib.figure import Figure

    rows = -(-len(comparison.lines) // COLUMNS)
    height = 0.8 + rows * (0.9 + 0.28 * len(comparison.names))
    with drawing(size=8):
        width = min(COLUMNS, len(comparison.lines))
        figure = Figure(figsize=(4 * width + 1, height), layout="constrained")
        panels = figure.subplots(rows, width, squeeze=False).ravel()
        for panel in panels[len(comparison.lines) :]:
            panel.set_axis_off()
        for panel, line in zip(panels, comparison.lines, strict=False):
            _draw(panel, line, comparison.names)
        _explain(figure, comparison)
        save_picture(figure, path)


def _explain(figure: Figure, comparison: Comparison) -> None:
    from matplotlib.lines import Line2D

    lines, runs = comparison.lines, range(len(comparison.names))
    handles = [
        Line2D([], [], color=GREY, linestyle=style, label=CONTROLS[name])
        for name, style in STYLES.items()
        if any(name in line.controls for line in lines)
    ]
    handles += [
        Line2D([], [], color=colour, marker="o", label=name if name == "no difference" else f"{name} than the first")
        for name, colour in COLOURS.items()
        if name and any(line.verdict(run) == name for line in lines for run in runs)
    ]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)


def _draw(panel: Axes, line: Line, names: tuple[str, ...]) -> None:
    for place, figure in enumerate(line.figures):
        if figure is None:
            continue
        low, high = figure["ci95"]
        colour = COLOURS[line.verdict(place)]
        panel.plot([low, high], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
        panel.plot(figure["value"], place, "o", color=colour, markersize=5)
        for value in figure.get("values", ()):  # of every seed
            panel.plot(value, place, "|", color=colour, markersize=9)
        text, _ = rounded(figure["value"], figure["ci95"])
        panel.annotate(text, (figure["value"], place), (0, 4), textcoords="offset points",
                       ha="center", fontsize=7, color=colour, bbox=LABEL)  # fmt: skip
    for kind, value in line.controls.items():
        panel.axvline(value, color=GREY, linestyle=STYLES[kind], linewidth=1, zorder=0)
    arrow = {"higher": " \u2192", "lower": " \u2190"}.get(line.better or "", "")
    panel.set_title(f"{label(f'{line.task}: {line.metric}')}{arrow}", fontsize=9, loc="left")
    panel.set_yticks(range(len(names)), [label(name) for name in names])
    panel.set_ylim(len(names) - 0.4, -0.6)
    panel.tick_params(axis="x", labelsize=7)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.tick_params(axis="y", length=0)
