"""What all pictures have in common: which files they may become, and how they get there."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from extsub.disk import check_writable, write_whole
from extsub.errors import ExtSubError
from extsub.extras import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")


def check_picture(path: Path) -> None:
    """Before any work: can this file become a picture?

    Raises:
        ExtSubError: ``path`` is neither .png nor .svg, its folder is read-only, or matplotlib is missing.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ExtSubError(f"{path}: a plot is a .png or .svg file, found {path.suffix or 'no ending'!r}")
    check_writable(path.parent)
    require("matplotlib", "plot")
    require("matplotlib.figure", "plot")


def save_picture(figure: Figure, path: Path) -> None:
    """Write it; the same figure gives the same bytes.

    Raises:
        ExtSubError: the disk refuses.
    """
    suffix, drawn = path.suffix.lower().removeprefix("."), io.BytesIO()
    figure.savefig(drawn, dpi=150, format=suffix, metadata={"Date": None} if suffix == "svg" else None)
    write_whole(path, drawn.getvalue())
