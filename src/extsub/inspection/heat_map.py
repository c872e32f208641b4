"""Heat maps of an expert against an anti-expert, by layer and module."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extsub.combination.profile import LAYER
from extsub.inspection.inspect import AdapterInfo, ModuleComparison, PairInfo
from extsub.plotting import check_picture, drawing, label, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_LABELLED_LAYERS = 16
"""Up to here a number fits into a cell."""


def plot_pair(info: PairInfo, path: Path) -> None:
    """Draw norm ratio and mean row cosine of every module, one column a layer, one row a kind of module.

    Raises:
        ExtSubError: ``path`` is neither .png, .svg nor .pdf, or cannot be written, or matplotlib is missing.
    """
    check_picture(path)
    from matplotlib.figure import Figure

    kinds, layers, cells = _grid(info.modules)
    width, height = 3.2 + 0.3 * max(len(layers), 12), 1.9 + 0.3 * len(kinds)
    # A figure of its own, without pyplot: no window, no global state, and the same bytes every time.
    with drawing(size=9):
        figure = Figure(figsize=(width, 2 * height), layout="constrained")
        above, below = figure.subplots(2, 1)
        ratios = [[_log2(_value(cells, kind, layer, "ratio")) for layer in layers] for kind in kinds]
        limit = max(_largest(ratios), 1.0)  # a factor of 2 at least: less than that hardly differs
        _heat_map(figure, above, ratios, kinds, layers, limit, "PuOr_r", "norm ratio |a| / |e|", _power_of_two)
        cosines = [[_value(cells, kind, layer, "mean_row_cosine") for layer in layers] for kind in kinds]
        limit = max(_largest(cosines), 0.1)  # below that, what differs is noise
        _heat_map(figure, below, cosines, kinds, layers, limit, "RdBu_r", "mean row cosine", _two_digits)
        above.set_title(f"{_title(info.anti_expert)} (a) against {_title(info.expert)} (e)", loc="left", fontsize=10)
        below.set_xlabel("layer")
        save_picture(figure, path)


def _title(adapter: AdapterInfo) -> str:
    return label(adapter.name if adapter.commit else Path(adapter.name).resolve().name)


def _grid(
    modules: list[ModuleComparison],
) -> tuple[list[str], list[str], dict[tuple[str, str], ModuleComparison]]:
    """(kinds of module, layers, comparison by (kind, layer)). A kind is what follows the layer in a name."""
    cells = {}
    for module in modules:
        layer = LAYER.search(module.name)
        kind = module.name[layer.end() :] if layer else module.name
        cells[kind or module.name, layer[1] if layer else "-"] = module
    kinds = sorted({kind for kind, _ in cells})
    layers = sorted({layer for _, layer in cells}, key=lambda layer: (layer == "-", int(layer) if layer != "-" else 0))
    return kinds, layers, cells


def _value(cells: dict[tuple[str, str], ModuleComparison], kind: str, layer: str, name: str) -> float:
    module = cells.get((kind, layer))
    value = getattr(module, name) if module else None
    return math.nan if value is None else value


def _log2(value: float) -> float:
    return math.log2(value) if value > 0 else math.nan


def _largest(values: list[list[float]]) -> float:
    return max((abs(value) for row in values for value in row if not math.isnan(value)), default=0.0)


def _two_digits(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # + 0.0: no minus before zero


def _power_of_two(exponent: float) -> str:
    value = 2**exponent
    return f"{value:.2f}" if 0.1 <= value < 10 else f"{value:.2g}"


def _heat_map(
    figure: Any,
    axes: Axes,
    values: list[list[float]],
    kinds: list[str],
    layers: list[str],
    limit: float,
    colours: str,
    measure: str,
    tick: Any,
) -> None:
    axes.set_facecolor("0.85")  # what no colour covers: not adapted, or zero
    image = axes.imshow(values, cmap=colours, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    axes.set_yticks(range(len(kinds)), [label(kind) for kind in kinds])
    step = math.ceil(len(layers) / 20)
    axes.set_xticks(range(0, len(layers), step), [label(layer) for layer in layers[::step]])
    bar = figure.colorbar(image, ax=axes, label=measure)
    bar.ax.yaxis.set_major_formatter(lambda value, _position: tick(value))
    if len(layers) <= MOST_LABELLED_LAYERS:
        for row, column in ((row, column) for row in range(len(kinds)) for column in range(len(layers))):
            value = values[row][column]
            if not math.isnan(value):
                colour = "white" if abs(value) > 0.6 * limit else "black"
                axes.text(column, row, tick(value), ha="center", va="center", color=colour, fontsize=6)
