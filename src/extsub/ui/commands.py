"""The page's present position as lines for a shell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from extsub.adapters.adapter import Adapter
from extsub.adapters.card_use import serve_line
from extsub.combination import serving
from extsub.combination.combine import combine
from extsub.escaping import operand, shell
from extsub.models.position import Position


def combine_line(adapters: Sequence[str], position: Position, output: Path) -> str:
    """The command line that writes the adapter of a position."""
    words = ["extsub", "combine", *map(operand, adapters), "--operation", position.operation]
    return shell([*words, "--alpha", f"{position.alpha:.10g}", "--output", operand(str(output))])


def vllm_line(adapters: Sequence[Adapter], position: Position, output: Path) -> str | None:
    """The command line that serves the adapter once it is written; None where vLLM does not take it."""
    result = combine(*adapters, operation=position.operation)  # reads no numbers
    flags = serving.vllm(result.kind, result.modules, result.settings).get("vllm")
    return serve_line(result.base, flags, {output.name: str(output)}) if flags else None
