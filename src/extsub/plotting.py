"""What all pictures have in common: which files they may become, how they get there, and how others' words look."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extsub.errors import ExtSubError
from extsub.escaping import line
from extsub.extras import require
from extsub.files.disk import check_writable
from extsub.files.writing import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
UNDATED = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
"""What must be left out for the same bytes every time."""
TRUETYPE = 42
"""Fonts in a PDF that journals take, and in which text can be searched."""
LONGEST = 60
"""The most characters of a label."""


def check_picture(path: Path) -> None:
    """Before any work: can this file become a picture?

    Raises:
        ExtSubError: ``path`` is neither .png, .svg nor .pdf, its folder is read-only, or matplotlib is missing.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ExtSubError(f"{path}: a plot is a .png, .svg or .pdf file, found {path.suffix or 'no ending'!r}")
    check_writable(path.parent)
    require("matplotlib.figure", "plot")


@contextlib.contextmanager
def drawing(size: float) -> Generator[None]:
    """Whatever is drawn within: text as it is, without TeX, also where the font lacks a letter; always the same bytes.

    Args:
        size: of the letters, in points.
    """
    import matplotlib

    settings: Any = {"font.size": size, "text.parse_math": False, "text.usetex": False}
    with (
        matplotlib.rc_context({**settings, "svg.hashsalt": "extsub", "pdf.fonttype": TRUETYPE}),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        yield


def label(text: str) -> str:
    """Others' words for a picture: on one line, and short enough to leave room for the rest."""
    text = line(text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]}…{text[-LONGEST // 2 :]}"


def save_picture(figure: Figure, path: Path) -> None:
    """Write a figure as a picture; the same figure gives the same bytes.

    Raises:
        ExtSubError: the disk refuses.
    """
    suffix, drawn = path.suffix.lower(), io.BytesIO()
    figure.savefig(drawn, dpi=150, format=suffix.removeprefix("."), metadata=UNDATED.get(suffix))
    write_whole(path, drawn.getvalue())
