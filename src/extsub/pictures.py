"""What all pictures have in common: which files they may become, and how they get there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from extsub.errors import ExtSubError
from extsub.extras import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg")


def check_picture(path: Path) -> None:
    """Before any work: can this file become a picture?

    Raises:
        ExtSubError: ``path`` is neither .png nor .svg, or matplotlib is missing.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ExtSubError(f"{path}: a plot is a .png or .svg file, found {path.suffix or 'no ending'!r}")
    require("matplotlib", "plot")
    require("matplotlib.figure", "plot")


def save_picture(figure: Figure, path: Path) -> None:
    """Write it; the same figure gives the same bytes.

    Raises:
        ExtSubError: the disk refuses.
    """
    try:
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
    except OSError as error:
        raise ExtSubError(f"{path} could not be written: {error.strerror}") from error
