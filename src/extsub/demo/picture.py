"""What a demo found over its seeds, as a picture: truth against ability, a curve for each operation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extsub.pictures import check_picture, drawing, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURE = "summary.svg"
LOOK = {
    "ext-sub": ("#0072b2", "o", "-"),
    "subtract": ("#d55e00", "s", "-"),
    "contrast": ("#009e73", "^", "-"),
    "amplify": ("#cc79a7", "D", "-"),
    "random": ("#8a8f98", "X", "--"),
}
"""operation: colour (Okabe and Ito's), mark, line. The negated anti-expert keeps no ability: it lies far outside."""
WHOLE, CLOSE = (-0.2, 1.08), (0.84, 1.04)
"""ability that the two panels show: from base to expert, and what keeps the budget"""


def plot_demo(summary: Mapping[str, Any], path: Path) -> None:
    """Draw means over seeds, with standard deviations where there are several, into a .png or .svg.

    Raises:
        ExtSubError: matplotlib is missing, or the disk refuses.
    """
    check_picture(path)
    from matplotlib.figure import Figure

    with drawing(size=9):
        figure = Figure(figsize=(9, 4.4), layout="constrained")
        whole, close = figure.subplots(1, 2)
        for axes, limits in ((whole, WHOLE), (close, CLOSE)):
            _panel(axes, summary, limits, close=axes is close)
        expert = summary["mean"]["all_items"]["expert"]["mc2"]
        close.set_ylim(expert - 0.04, 1)
        whole.set_ylabel("truth on held-out facts (mc2)")
        figure.supxlabel("ability: what is left of the expert's gain on neutral answers (0 base, 1 expert)", fontsize=9)
        figure.legend(*whole.get_legend_handles_labels(), loc="outside upper center", frameon=False, ncols=len(LOOK))
        whole.set_title("From base to expert; numbers are α", fontsize=9, loc="left")
        seeds = len(summary["seeds"])
        spread = f"; bars: standard deviation of {seeds} seeds" if seeds > 1 else ""
        close.set_title(f"The right edge, closer{spread}", fontsize=9, loc="left")
        save_picture(figure, path)


def _panel(axes: Axes, summary: Mapping[str, Any], limits: tuple[float, float], close: bool) -> None:
    for operation in LOOK:
        _curve(axes, summary, operation, limits, close)
    _models(axes, summary, limits)
    least = summary["retained_at_least"]
    axes.axvspan(limits[0], least, color="#d55e00", alpha=0.06, lw=0)
    axes.axvline(least, color="#a8480a", linestyle="--", linewidth=1)
    axes.set_xlim(*limits)
    axes.grid(color="#e3e7eb", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _curve(axes: Axes, summary: Mapping[str, Any], operation: str, limits: tuple[float, float], close: bool) -> None:
    """From the expert through the strengths that every seed has."""
    points = _points(summary, operation)
    colour, mark, line = LOOK[operation]
    xs, ys = ([one[k] for one in points.values()] for k in (0, 1))
    axes.plot(
        xs, ys, color=colour, linestyle=line, linewidth=1.8, marker=mark, markersize=4.5, label=operation,
        markevery=range(1, len(xs)),
    )  # fmt: skip
    for alpha in summary["alphas"]:
        x, y, spread = points.get(alpha, (limits[0], 0.0, 0.0))
        if not limits[0] < x < (limits[1] if close else CLOSE[0]):  # each number once, where there is room
            continue
        axes.annotate(f"{alpha:g}", (x, y), (4, 4), textcoords="offset points", color=colour, fontsize=8)
        if close and spread:
            axes.errorbar(x, y, yerr=spread, color=colour, elinewidth=0.9, capsize=2, alpha=0.6)


def _points(summary: Mapping[str, Any], operation: str) -> dict[float, tuple[float, float, float]]:
    """α: (ability, truth, its deviation)."""
    mean, deviation = (summary[name]["all_items"] for name in ("mean", "deviation"))
    found = {}
    for label, figures in mean.items():
        name, _, alpha = label.rpartition("-")
        everywhere = summary["of"]["all_items"][label] == len(summary["seeds"])
        if (label != "expert" and name != operation) or figures["retained"] is None or not everywhere:
            continue
        found[float(alpha) if name else 0.0] = (figures["retained"], figures["mc2"], deviation[label]["mc2"] or 0.0)
    return dict(sorted(found.items()))


def _models(axes: Axes, summary: Mapping[str, Any], limits: tuple[float, float]) -> None:
    for name in ("base", "expert"):
        figures = summary["mean"]["all_items"][name]
        if figures["retained"] is not None and limits[0] < figures["retained"] < limits[1]:
            place = figures["retained"], figures["mc2"]
            axes.plot(*place, marker="*", color="#1b2128", markersize=11, zorder=5)
            axes.annotate(
                name, place, (-8, 9) if name == "base" else (-8, -15), textcoords="offset points", weight="bold"
            )
