"""Combined adapters on disk, as ``extsub combine`` writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from extsub.adapters.load import load_adapter
from extsub.adapters.save import save_adapter
from extsub.combination import combine

ALPHA = 1.0
"""of all that are combined here: set beforehand, not chosen"""


def write_combined(folder: Path, operation: str, anti_experts: Sequence[str], output: Path) -> None:
    """Combine a seed's expert with anti-experts, unless that is done.

    Args:
        folder: of the seed, with the adapters.
        anti_experts: names of their folders in it.
    """
    if not output.exists():
        adapters = [load_adapter(str(folder / name)) for name in ("expert", *anti_experts)]
        save_adapter(combine(*adapters, operation=operation, alpha=ALPHA), output)
