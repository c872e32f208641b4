"""What a demo found over its seeds, as a picture: truth against ability, a curve for each operation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extsub.pictures import check_picture, save_picture

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
WORST = -0.35
"""of ability that is shown"""
MODELS = {"base": (6, -3), "expert": (-9, -16)}
"""how many points their names stand beside their stars"""


def plot_demo(summary: Mapping[str, Any], path: Path) -> None:
    """Draw means over seeds, with standard deviations where there are several, into a .png or .svg.

    Raises:
        ExtSubError: matplotlib is missing, or the disk refuses.
    """
    check_picture(path)
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "extsub", "font.size": 9}):
        figure = Figure(figsize=(7.2, 4.4), layout="constrained")
        axes = figure.subplots()
        for operation in LOOK:
            _curve(axes, summary, operation)
        _models(axes, summary)
        least = summary["retained_at_least"]
        axes.axvspan(WORST, least, color="#d55e00", alpha=0.06, lw=0)
        axes.axvline(least, color="#a8480a", linestyle="--", linewidth=1)
        axes.set_xlim(WORST, 1.1)
        axes.set_xlabel("ability: what is left of the expert's gain on neutral answers (0 base, 1 expert)")
        axes.set_ylabel("truth on held-out facts (mc2)")
        axes.grid(color="#e3e7eb", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="lower center", frameon=False, ncols=len(LOOK))
        several = f", mean ± standard deviation of {len(summary['seeds'])} seeds" if len(summary["seeds"]) > 1 else ""
        axes.set_title(f"Numbers are α; up and to the right is better{several}", fontsize=9, loc="left")
        save_picture(figure, path)


def _curve(axes: Axes, summary: Mapping[str, Any], operation: str) -> None:
    """From the expert through the strengths that every seed has."""
    points = _points(summary, operation)
    colour, mark, line = LOOK[operation]
    xs, ys = ([one[k] for one in points.values()] for k in (0, 1))
    axes.plot(xs, ys, color=colour, linestyle=line, linewidth=1.8, label=operation)
    own = {alpha: one for alpha, one in points.items() if alpha}
    axes.errorbar(
        [one[0] for one in own.values()], [one[1] for one in own.values()],
        xerr=[one[2] for one in own.values()], yerr=[one[3] for one in own.values()],
        color=colour, marker=mark, linestyle="none", markersize=4.5, elinewidth=0.7, alpha=0.85,
    )  # fmt: skip
    for alpha in summary["alphas"]:
        if alpha in own and own[alpha][0] > WORST:
            axes.annotate(f"{alpha:g}", own[alpha][:2], (4, 5), textcoords="offset points", color=colour, fontsize=8)


def _points(summary: Mapping[str, Any], operation: str) -> dict[float, tuple[float, float, float, float]]:
    """α: (ability, truth, and the deviation of each)."""
    mean, deviation = (summary[name]["all_items"] for name in ("mean", "deviation"))
    found = {}
    for label, figures in mean.items():
        name, _, alpha = label.rpartition("-")
        everywhere = summary["of"]["all_items"][label] == len(summary["seeds"])
        if (label != "expert" and name != operation) or figures["retained"] is None or not everywhere:
            continue
        spread = (deviation[label][one] or 0.0 for one in ("retained", "mc2"))
        found[float(alpha) if name else 0.0] = (figures["retained"], figures["mc2"], *spread)
    return dict(sorted(found.items()))


def _models(axes: Axes, summary: Mapping[str, Any]) -> None:
    for name, beside in MODELS.items():
        figures = summary["mean"]["all_items"][name]
        if figures["retained"] is not None:
            place = figures["retained"], figures["mc2"]
            axes.plot(*place, marker="*", color="#1b2128", markersize=11, zorder=5)
            axes.annotate(name, place, beside, textcoords="offset points", weight="bold")
