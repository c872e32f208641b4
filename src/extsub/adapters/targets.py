"""Which names to write as ``target_modules`` and ``modules_to_save``, when the base model is not there to ask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from extsub.adapters import config as fields
from extsub.adapters.adapter import PREFIX, Adapter, Module
from extsub.adapters.keys import HEADS
from extsub.adapters.names import ends_of, last_part, runs_of


def short_targets(config: Mapping[str, Any], modules: Mapping[str, Module], where: str) -> tuple[str, ...] | None:
    """The names in ``target_modules`` that expand to exactly ``modules`` on this base, if that is sure.

    A list says so by having made this adapter, unless layers were filtered; a pattern or nothing does not.
    """
    targets = config.get("target_modules")
    if any(config.get(name) for name in ("layers_to_transform", "layers_pattern", "exclude_modules")):
        return None
    if targets == "all-linear":  # every linear layer but the head, so the last parts of their names say the same
        targets = sorted({last_part(name) for name in modules})
        return tuple(targets) if not any(target.isdigit() for target in targets) else None
    if targets is None or isinstance(targets, str):
        return None
    reachable = {end for name in modules for end in ends_of(name)}
    used = {name for name in fields.names(config, "target_modules", where) if name in reachable}
    reached = all(not used.isdisjoint(ends_of(name)) for name, module in modules.items() if not module.parameter)
    return tuple(sorted(used)) if reached else None


def written_targets(adapter: Adapter) -> list[str]:
    """What to write as ``target_modules``: the short names where they are sure, full names otherwise."""
    if adapter.targets is not None:
        return list(adapter.targets)
    modules = [name for name, module in adapter.modules.items() if not module.parameter]
    return sorted({name.partition(".base_layer.")[0] for name in modules})


def saved_names(adapter: Adapter) -> list[str] | None:
    """What to write as ``modules_to_save`` so that PEFT puts the copies where they belong."""
    runs = {run for key in adapter.copies for run in runs_of(key.removeprefix(PREFIX))}
    return sorted(runs & {*adapter.saved, *HEADS}) or None
