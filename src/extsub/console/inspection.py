"""What ``extsub inspect`` shows: an adapter, or how two compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from extsub.adapters.codec import Codec
from extsub.adapters.codecs import READERS
from extsub.console.summaries import MOST_ROWS, print_end, print_facts, print_notes
from extsub.errors import counted
from extsub.formatting import in_bytes
from extsub.printing import print_table, say

if TYPE_CHECKING:
    from extsub.inspection.inspect import AdapterInfo, PairInfo


def print_inspection(info: AdapterInfo | PairInfo, adapter: str, anti_expert: str | None, plot: Path | None) -> None:
    """Print what ``extsub inspect`` found."""
    from extsub.inspection.inspect import PairInfo

    if isinstance(info, PairInfo):
        print_pair(info)
        print_end([plot] if plot else [], ("combine", adapter, anti_expert or "", "--output", "better"))
    else:
        print_adapter(info)
        if not info.problem:
            print_end([], ("inspect", adapter, "ANTI_EXPERT", "--plot", "pair.png"))


def print_adapter(info: AdapterInfo) -> None:
    """Print what one adapter is."""
    say(f"{info.name}: {info.kind or 'not PEFT'} adapter of {info.base or 'an unnamed base'}")
    codec = READERS.get(info.kind or "")
    ranks = sorted({module.rank for module in info.modules})
    scalings = sorted({module.scaling for module in info.modules})
    rows = {
        "task": info.task_type,
        "commit": info.commit,
        "size": f"{counted(info.tensors, 'tensor')}, {info.parameters:,} parameters, {info.dtype}, "
        f"{in_bytes(info.bytes)}"
        if info.dtype
        else in_bytes(info.bytes),
        "modules": _kinds(info) if info.modules else None,
        "rank": _range(ranks) if codec and codec.ranked and ranks else None,
        "scaling": _range(scalings) if codec and codec.ranked and scalings else None,
        "combine": f"no: {info.problem}" if info.problem else _can(codec),
    }
    print_facts(rows, 10)
    print_notes(info.notes)


def _can(codec: Codec | None) -> str:
    return "yes, by the paper's heuristic" if codec and codec.caution else "yes, exactly"


def _kinds(info: AdapterInfo) -> str:
    """Modules counted by the last part of their name, with their shape."""
    counts: dict[str, int] = {}
    for module in info.modules:
        kind = f"{module.name.rpartition('.')[2]} {'x'.join(str(size) for size in module.shape)}"
        counts[kind] = counts.get(kind, 0) + 1
    return f"{len(info.modules)}: " + ", ".join(f"{count} {kind}" for kind, count in counts.items())


def _range(values: list[Any]) -> str:
    return f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} to {values[-1]:g}"


def print_pair(info: PairInfo) -> None:
    """Print how two adapters compare: a table, modules with the largest norm ratio first."""
    print_adapter(info.expert)
    print_adapter(info.anti_expert)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("module", no_wrap=True, overflow="ellipsis")
    for name in ("|e|", "|a|", "|a|/|e|", "row cosine", "shared", "largest |a|/|e| of a row"):
        table.add_column(name, justify="right")
    for module in info.modules[:MOST_ROWS]:
        values = (module.expert_norm, module.anti_norm, module.ratio, module.mean_row_cosine)
        shared = "-" if module.shared_energy is None else f"{module.shared_energy:.0%}"
        largest = "-" if module.largest_row_ratio is None else f"{module.largest_row_ratio:.3g}"
        table.add_row(module.name, *("-" if value is None else f"{value:.3g}" for value in values), shared, largest)
    say()
    print_table(table)
    if len(info.modules) > MOST_ROWS:
        say(f"... and {counted(len(info.modules) - MOST_ROWS, 'further module')}; --json has all")
    zero = sum(module.zero_expert_rows for module in info.modules)
    if zero:
        say(f"zero rows of the expert: {zero:,} of {sum(module.rows for module in info.modules):,}")
    say("shared: the part of the anti-expert that ext-sub keeps; the rest is subtracted")
    print_notes(info.notes)
