"""A fingerprint of a local model, whose files are too large to hash whole."""

from __future__ import annotations

import hashlib
from pathlib import Path

PROBE = 1 << 20
"""Bytes that are read at each place."""


def fingerprint(folder: Path) -> str:
    """A hash that tells a model from another in its place: of its files' sizes, and a megabyte of each at three places.

    An adapter beside it is not part of it.
    """
    digest = hashlib.sha256()
    files = [*folder.glob("*.safetensors"), *folder.glob("*.bin"), *folder.glob("*.json")]
    for path in sorted(path for path in files if path.is_file() and not path.name.startswith("adapter_")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for place in (0, size // 2, max(0, size - PROBE)):
                file.seek(place)
                digest.update(file.read(PROBE))
    return digest.hexdigest()
