"""Methods of reference beside the result: what one would do without touching weights, and what that costs."""

from __future__ import annotations

from extsub.report.reading import Sweep
from extsub.report.tables import ARROWS, Cell, Table, TableRow, alpha_cell, cells_beside, head_beside
from extsub.report.wording import OVER_PLAIN
from extsub.sweeping.references import METHODS


def references(sweep: Sweep) -> list[Table]:
    """A table of every strength of each method of reference; no table where none was asked."""
    if not sweep.methods:
        return []
    main, result = sweep.main, sweep.result
    names = [name for name in (sweep.target, sweep.plain, sweep.ability) if name]
    system = sweep.record["settings"].get("system")
    told = f" The message: “{system}”" if "prompt" in sweep.methods and system else ""
    formulas = "; ".join(f"{name} is {METHODS[name].formula}" for name in sweep.methods)
    table = Table(
        "Without touching weights",
        f"For reference, and not to be combined, since no adapter holds what these do: {formulas}. β stands under α. "
        f"Passes: forward passes for each token; {main} takes one, as the expert does. On the half of the items that "
        "did not choose the strength; “same rule” marks the β that the rule for α takes on the other. In brackets: "
        f"95 % intervals. {ARROWS}{f' _plain: {OVER_PLAIN}.' if sweep.plain else ''}{told}",
        (*head_beside(sweep, names), "passes"),
        1,
    )
    taken = {choice["position"] for choice in sweep.record["compared"].values()}
    for label in ("expert", result, *sweep.references):
        point = sweep.points[label]
        strength = alpha_cell(point["alpha"])
        if label in taken and point["alpha"] is not None:
            strength = Cell(strength.text, "same rule")
        cells = (
            Cell(point["operation"]),
            strength,
            *cells_beside(sweep, label, names),
            Cell(str(point.get("passes", 1))),
        )
        table.rows.append(TableRow(cells, {"expert": "model", result: "chosen"}.get(label, "")))
    return [table]
