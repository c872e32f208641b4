"""Which process of a distributed run this is, and whether it shows how far it is. Loads no library of processes."""

from __future__ import annotations

import os

_quiet = False


def is_main_process() -> bool:
    """Whether this process is the one that prints and writes."""
    return os.environ.get("RANK", "0") == "0"


def be_quiet(quiet: bool) -> None:
    """Show no progress from now on, or show it again."""
    global _quiet
    _quiet = quiet


def shows_progress() -> bool:
    """Whether this process shows how far it is: the main one, unless it was told to be quiet."""
    return is_main_process() and not _quiet
