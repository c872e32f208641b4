"""The tables of a report, for a page and for Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from extsub.evaluation.compare import CONTROLS, control_of
from extsub.report.matched import Matched, level_of
from extsub.report.reading import MODELS, Sweep, measured
from extsub.report.wording import OVER_PLAIN, aim, arrowed, change, figure, number, p_value, score
from extsub.sweeping.budget import ScoreName
from extsub.sweeping.grid import COMPANIONS
from extsub.sweeping.selection import judged
from extsub.tables import Cell, Table, TableRow

ARROWS = "↑ higher is better, ↓ lower is better."


def figure_cell(known: Any) -> Cell:
    """A cell with a figure and its interval; a dash where there is none."""
    if known is None:
        return Cell("–")
    known = known if isinstance(known, dict) else known.to_dict()
    return Cell(*figure(known["value"], known["ci95"]))


def change_cells(difference: Any, name: ScoreName) -> tuple[Cell, Cell]:
    """Two cells: a difference, and what it means."""
    if difference is None:
        return Cell("–"), Cell("–")
    difference = difference if isinstance(difference, dict) else difference._asdict()
    word = judged(difference, name.measure)
    return Cell(*change(difference["value"], difference["ci95"])), Cell(word or "–", p_value(difference["p"]))


def alpha_cell(alpha: float | None) -> Cell:
    """A cell with a strength."""
    return Cell("" if alpha is None else f"{alpha:g}")


def beside(sweep: Sweep) -> Table:
    """A table of the result beside its models, the other operations at the same and at half strength, and controls."""
    main, result = sweep.main, sweep.result
    names = [name for name in (sweep.target, sweep.plain, sweep.ability) if name]
    note = f" _plain: {OVER_PLAIN}, n = {sweep.on_half(result, sweep.plain).n}." if sweep.plain else ""
    table = Table(
        f"Beside {main}",
        "On the half of the items that did not choose the strength. In brackets: 95 % intervals; each p is for its own "
        f"line. {ARROWS}{note}",
        head_beside(sweep, names),
        1,
    )
    alpha = sweep.alpha(result) or 0.0
    wanted: list[tuple[str, float | None, str | None]] = [(label, None, label) for label in MODELS]
    wanted.append((main, alpha, result))
    wanted += [(name, alpha * part, sweep.find(name, alpha * part)) for name, part in COMPANIONS]
    for operation, strength, label in wanted:
        head = (Cell(operation), alpha_cell(strength))
        if label is None:
            table.rows.append(TableRow((*head, *[Cell("not in the grid")], *[Cell("")] * (len(names) + 3)), "missing"))
            continue
        kind = "chosen" if label == result else "model" * (strength is None)
        table.rows.append(TableRow((*head, *cells_beside(sweep, label, names)), kind))
    return table


def head_beside(sweep: Sweep, names: Sequence[ScoreName]) -> tuple[str, ...]:
    """The head of a table over a point with its strength and its ``cells_beside``."""
    return "model", "α", *map(arrowed, names), "against the expert", "verdict", f"{sweep.main} against it", "verdict"


def cells_beside(sweep: Sweep, label: str, names: Sequence[ScoreName]) -> Iterator[Cell]:
    """A point's figures on the half of the items that did not choose; then, in the target, its difference from the
    expert, and the result's from it, each with its verdict."""
    against = None if label == "expert" else sweep.change("expert", label, sweep.target)
    ours = None if label == sweep.result else sweep.change(label, sweep.result, sweep.target)
    yield from (figure_cell(sweep.on_half(label, name)) for name in names)
    yield from change_cells(against, sweep.target)
    yield from change_cells(ours, sweep.target)


def level(sweep: Sweep, pairs: list[Matched]) -> Iterator[Table]:
    """A table of the main operation against others where they are equal in one score, and in the other."""
    if not pairs or sweep.ability is None:
        return
    table = Table(
        f"At equal {score(sweep.ability)}, at equal {score(sweep.target)}",
        f"The level is what {sweep.main} has at the strength chosen for it, or the nearest that both reach. By linear "
        "interpolation along each curve from α = 0 up to its peak, on the items that did not choose the strength; the "
        "peak is the other half's. In brackets: 95 % intervals of a bootstrap over items, drawn once for all of them.",
        ("against", "at equal", "in", sweep.main, "it", "difference", "verdict"),
        3,
    )
    sides = ((sweep.ability, sweep.target), (sweep.target, sweep.ability))
    for pair in pairs:
        for (same, asked), point, word in zip(sides, (pair.at_ability, pair.at_target), pair.words, strict=True):
            level = f" {level_of(sweep, same, point)}" if point else ""
            head = Cell(pair.operation), Cell(score(same) + level)
            if point is None:
                rest = (Cell(arrowed(asked)), Cell("no level that both reach"), Cell(""), Cell(""), Cell(""))
                table.rows.append(TableRow((*head, *rest), "missing"))
                continue
            values = [Cell(*figure(*pair)) for pair in zip(point.values, point.intervals, strict=True)]
            gap = Cell(*change(point.difference, point.ci95))
            table.rows.append(TableRow((*head, Cell(arrowed(asked)), *values, gap, Cell(word))))
    yield table


def chosen(sweep: Sweep) -> Table:
    """A table of each operation at the strength chosen for it."""
    wanted = aim(sweep.record["settings"]["choose"], score(sweep.target), sweep.record["budget"])
    table = Table(
        "Each at its own strength",
        f"For each operation {wanted} on one half of the items; its figures on the other half.",
        (
            "operation",
            "α",
            arrowed(sweep.target),
            "against the expert",
            "verdict",
            *([arrowed(sweep.ability)] if sweep.ability else []),
        ),
        1,
    )
    for operation, choice in sweep.record["chosen"].items():
        if choice["position"] is None:
            text = Cell("none keeps the budget", f"closest {sweep.alpha(choice['closest']):g}")
            table.rows.append(
                TableRow((Cell(operation), Cell(""), text, *[Cell("")] * (len(table.head) - 3)), "missing")
            )
            continue
        best = choice.get("best") or choice["position"]
        beside = "" if best == choice["position"] else f"best there {sweep.alpha(best):g}"
        cells = [Cell(operation), Cell(f"{sweep.alpha(choice['position']):g}", beside), figure_cell(choice["test"])]
        cells += change_cells(choice["against_expert"], sweep.target)
        if sweep.ability:
            cells.append(figure_cell(choice["budget_test"] or sweep.on_half(choice["position"], sweep.ability)))
        table.rows.append(TableRow(tuple(cells), "chosen" if operation == sweep.main else ""))
    return table


def everything(sweep: Sweep) -> Table:
    """A table of every point with every score that can be better or worse, and what one gets without a model."""
    names = measured(sweep.record)
    table = Table(
        "All figures",
        f"On all items, with 95 % intervals. {ARROWS} Marked: the strengths chosen."
        f"{_fewer(sweep, names)}{_last(sweep)}",
        ("model", "α", *map(arrowed, names)),
        1,
    )
    picked = {choice["position"] for choice in sweep.record["chosen"].values()}
    before = ""
    for label, point in sweep.points.items():
        cells = [figure_cell(sweep.figure(label, name)) for name in names]
        kind = "chosen" if label in picked else "model" if label in MODELS else ""
        kind += " first" if point["operation"] not in (before, *MODELS) else ""
        before = point["operation"]
        table.rows.append(TableRow((Cell(before), alpha_cell(point["alpha"]), *cells), kind.strip()))
    table.rows.extend(_controls(sweep, names))
    return table


def _fewer(sweep: Sweep, names: list[ScoreName]) -> str:
    """Which scores are over plain answers, and how many items have them."""
    figures = [(name, sweep.figure("expert", name)) for name in names if name.score.endswith("_plain")]
    counts = ", ".join(f"{known['n']} for {score(name)}" for name, known in figures if known)
    return f" _plain: {OVER_PLAIN}, n = {counts}." if counts else ""


def _last(sweep: Sweep) -> str:
    """Where the methods of reference stand."""
    return f" Last: {', '.join(sweep.methods)}, for reference, with β under α." if sweep.methods else ""


def _controls(sweep: Sweep, names: list[ScoreName]) -> Iterator[TableRow]:
    for kind, text in CONTROLS.items():
        cells = []
        for name in names:
            known = sweep.positions["expert"]["tasks"][name.task]
            controls = [record for metric, record in known.items() if control_of(name.task, metric, name.score) == kind]
            cells.append(Cell(number(controls[0]["value"])) if controls else Cell(""))
        if any(cell.text for cell in cells):
            yield TableRow((Cell(text), Cell(""), *cells), "control first" if kind == "chance" else "control")
