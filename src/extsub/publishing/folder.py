"""A folder that extsub wrote, as it goes to the hub: which of its files, and the card written anew."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from extsub.adapters.scores import Scores
from extsub.adapters.stated import CARD
from extsub.errors import ExtSubError
from extsub.escaping import brief

PLACE = re.compile(r"([/~]|[A-Za-z]:[\\/])[^\n]+")
"""A folder or file of this machine."""


@dataclass(frozen=True)
class WrittenFolder:
    """An adapter or a merged model that extsub wrote, on the disk."""

    path: Path
    files: tuple[str, ...]
    """What goes up beside the card: names, with / where one lies in a folder."""
    identity: tuple[str, ...]
    """Those of them that make it what it is; the others only tell of it."""
    what: str
    """What it is, in some words."""
    message: str
    """Of the commit."""
    card: Callable[[str, Scores | None], str]
    """(``owner/name``, what was measured beside what its record has) to its card there"""
    notes: list[str]
    """What should be known before others read it."""
    hashes: dict[str, str] = field(default_factory=dict)
    """What tells an adapter from any other; empty for a model."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """What ``extsub.json`` holds; empty for an adapter that was trained."""

    @property
    def left_out(self) -> list[str]:
        """What lies in the folder and does not go up."""
        ours = {CARD, *(name.partition("/")[0] for name in self.files)}
        return sorted(child.name + "/" * child.is_dir() for child in self.path.iterdir() if child.name not in ours)


def check_files(folder: Path, names: Iterable[str]) -> None:
    """Check that all of these are files of the folder's own.

    Raises:
        ExtSubError: one is missing, a link, or something else.
    """
    for name in names:
        if (folder / name).is_symlink() or not (folder / name).is_file():
            raise ExtSubError(f"{folder / name} is missing, or not a file of its own: put the file itself there")


def places_in(contents: Mapping[str, Any]) -> list[str]:
    """A note on each file that names a place on this machine.

    Args:
        contents: JSON values by the names of their files.
    """
    places = {name: next(filter(PLACE.fullmatch, _texts(content)), None) for name, content in contents.items()}
    return [
        f"{name} names {brief(place)}, a place on this machine, and goes up as it is"
        for name, place in places.items()
        if place
    ]


def _texts(value: Any) -> Iterator[str]:
    """Every text in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)
