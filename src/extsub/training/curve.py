"""The picture of a run: its loss, step by step, and the learning rate below."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from extsub.plotting import drawing, label


def plot_losses(record: Mapping[str, Any], path: Path) -> None:
    """Draw ``training.json``'s losses into a .png."""
    with drawing(size=10):
        _draw(record, path)


def _draw(record: Mapping[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    steps = [entry["step"] for entry in record["losses"]]
    losses = [entry["loss"] for entry in record["losses"]]
    settings, total = record["settings"], record["plan"]["steps"]
    figure = Figure(figsize=(7, 4), layout="constrained")
    loss, rate = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    few = len(steps) < 50  # every step can be seen
    if few:
        loss.plot(steps, losses, color="tab:blue", linewidth=1.5, marker="o", markersize=4)
    else:
        loss.plot(steps, losses, color="0.75", linewidth=1, label="each step")
        loss.plot(steps, smoothed(losses), color="tab:blue", linewidth=2, label="running mean, over a tenth of the run")
        loss.legend(frameon=False)
    loss.set_ylabel("loss on answers")
    name = label(Path(record["plan"]["data"]["name"]).name)
    loss.set_title(f"{name}: {settings['kind']}, {total:,} steps", fontsize=10)
    rate.plot(steps, [entry["learning_rate"] for entry in record["losses"]], color="0.4", linewidth=1)
    rate.set_ylabel("learning rate", fontsize=8)
    rate.set_ylim(bottom=0)
    rate.set_xlabel("step")
    for axes in (loss, rate):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


def smoothed(values: list[float]) -> list[float]:
    """A running mean over a tenth of the run, at the beginning over what there is."""
    width = max(1, len(values) // 10)
    windows = (values[max(0, end - width) : end] for end in range(1, len(values) + 1))
    return [sum(window) / len(window) for window in windows]
