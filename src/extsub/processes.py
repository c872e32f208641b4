"""Which process of a distributed run this is, before any library of processes is loaded."""

from __future__ import annotations

import os


def is_main_process() -> bool:
    """Whether this process is the one that speaks and writes."""
    return os.environ.get("RANK", "0") == "0"
