"""How the strength is spread over the modules of a model: by their kind, and along the depth."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from extsub.adapters.names import last_part
from extsub.errors import ExtSubError
from extsub.escaping import brief
from extsub.files.reading import read_json

LARGEST = 1e9
"""The largest factor that a file may hold."""
LAYER = re.compile(r"(?:^|\.)(\d{1,9})(?:\.|$)")
"""Finds the number of the layer that a module is in: the first number in its name."""


@dataclass(frozen=True)
class Profile:
    """Factors of α; the plain profile leaves α as it is in every module."""

    kinds: Mapping[str, float] = field(default_factory=dict)
    """The factor of each kind of module (``q_proj``, the last part of its name); 1 for others."""
    ramp: float = 0.0
    """How the factor runs along the depth: from 1 - ramp in the first layer to 1 + ramp in the last."""

    def factors(self, modules: Iterable[str]) -> dict[str, float]:
        """The factor of each module.

        Args:
            modules: all that an adapter changes.

        Raises:
            ExtSubError: none of them is of a kind that the profile names.
        """
        names = list(modules)
        present = {last_part(name) for name in names}
        if unknown := sorted(set(self.kinds) - present):
            raise ExtSubError(
                f"profile: no module is called {brief(unknown[0])}; there are {brief(', '.join(sorted(present)))}"
            )
        layers = {name: int(match[1]) for name in names if (match := LAYER.search(name))}
        last = max(layers.values(), default=0)
        slope = {name: self.ramp * (2 * layer / last - 1) if last else 0.0 for name, layer in layers.items()}
        return {name: self.kinds.get(last_part(name), 1.0) * (1 + slope.get(name, 0.0)) for name in names}

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"kinds": dict(self.kinds), "ramp": self.ramp}


def read_profile(path: Path) -> Profile:
    """A profile that ``extsub sweep --search`` wrote, or one of your own: ``{"kinds": {"q_proj": 0.8}, "ramp": 0.1}``.

    Raises:
        ExtSubError: the file is not there, or holds something else.
    """
    try:
        content = read_json(path)
    except OSError as error:
        raise ExtSubError(f"--profile {path}: {error.strerror}") from error
    except ValueError as error:
        raise ExtSubError(f"--profile {path} is not JSON: {brief(error)}") from error
    if not isinstance(content, dict) or set(content) - {"kinds", "ramp"} or not _all_numbers(content):
        raise ExtSubError(f'--profile {path}: expected {{"kinds": {{MODULE_KIND: FACTOR}}, "ramp": NUMBER}}')
    kinds = {kind: float(factor) for kind, factor in content.get("kinds", {}).items()}
    return Profile(kinds, float(content.get("ramp", 0)))


def _all_numbers(content: dict[str, Any]) -> bool:
    kinds = content.get("kinds", {})
    if not isinstance(kinds, dict):
        return False
    numbers = [*kinds.values(), content.get("ramp", 0)]
    return all(
        isinstance(number, (int, float)) and type(number) is not bool and -LARGEST < number < LARGEST
        for number in numbers
    )
