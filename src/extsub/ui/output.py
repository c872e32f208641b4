"""Where the page may write: a folder of a plain name, in the folder that was given when it started."""

from __future__ import annotations

import os
import re
from pathlib import Path

from extsub.errors import ExtSubError
from extsub.escaping import shown
from extsub.files.disk import check_writable

NAME = re.compile(r"\w(?:[\w.-]{0,98}\w)?")
"""A name that is neither a path nor an option: letters, digits and underscores, with dots and dashes inside."""


def check_folder(folder: Path) -> None:
    """Check before any work that adapters can be written below the folder.

    Raises:
        ExtSubError: it is a file, or read-only.
    """
    if folder.exists() and not folder.is_dir():
        raise ExtSubError(f"--output {folder} is a file: give the folder below which the page may write")
    check_writable(folder)


def place_of(folder: Path, name: str) -> Path:
    """Where an adapter of this name is written.

    Raises:
        ExtSubError: it is not a plain name.
    """
    if not NAME.fullmatch(name):
        raise ExtSubError(
            f"{shown(name)} is not a name for a folder in {folder}: use up to 100 letters, digits and underscores, "
            "with dots and dashes between them"
        )
    return folder / name


def check_free(place: Path) -> None:
    """Check that nothing is there, so that nothing is replaced and no link is followed.

    Raises:
        ExtSubError: something is there already.
    """
    if os.path.lexists(place):
        raise ExtSubError(f"{place} already exists: type another name")
