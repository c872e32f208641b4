"""Do these adapters belong together? Same base, same kind, same modules of the same shape; or say by name why not.

Works on what adapters say of themselves; numbers are read only where two things may be the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from extsub.adapters.adapter import Adapter, Copy, Module
from extsub.adapters.base import is_path, is_quantised, normalised, public
from extsub.adapters.names import fused_and_apart, one_layer_twice
from extsub.errors import ExtSubError
from extsub.escaping import brief, shown

ROUNDING = 0.01
"""What storing an adapter in another dtype may change of it, at most."""


@dataclass(frozen=True)
class Match:
    """What the result is about."""

    base: str | None
    modules: dict[str, tuple[Module | None, list[Module | None]]]
    """Each name, and (the expert's module, each anti-expert's), None where that adapter lacks it."""

    settings: dict[str, Any]
    targets: tuple[str, ...] | None
    copies: dict[str, Copy]
    notes: list[str]


def match(
    expert: Adapter,
    anti_experts: Sequence[Adapter],
    *,
    missing_modules: str,
    modules_to_save: str,
    base_model: str | None,
) -> Match:
    """Pair up the modules of an expert and its anti-experts.

    Raises:
        ExtSubError: they differ in kind, base, task, module set or shapes; the message names the first difference.
    """
    notes = [f"{adapter.label}: {note}" for adapter in (expert, *anti_experts) for note in adapter.notes]
    base = base_model
    for anti_expert in anti_experts:
        if anti_expert.kind != expert.kind:
            raise ExtSubError(
                f"{anti_expert.name} is a {anti_expert.kind} adapter and {expert.name} a {expert.kind} adapter: "
                "train both with the same kind"
            )
        if base_model is None:
            base = _same_base(expert, anti_expert, base or expert.base, notes)
        _same_settings(expert, anti_expert, notes)
    for adapter, other in itertools.combinations((expert, *anti_experts), 2):
        _same_base_layers(adapter, other)
    if base is None:
        notes.append("no adapter names its base model, so only shapes were compared: pass --base-model to name it")
    modules = _pair(expert, anti_experts, missing_modules, notes)
    return Match(
        base=base,
        modules=modules,
        settings=expert.settings | {"task_type": _task([expert, *anti_experts], notes)},
        targets=_targets([expert, *anti_experts], set(modules)),
        copies=_copies(expert, anti_experts, modules_to_save, notes),
        notes=notes,
    )


def same_base(base: str, other: str) -> bool:
    """Whether two names mean one base model: the same, or a path and another of the same last name."""
    mine, theirs = normalised(base), normalised(other)
    return mine == theirs or (
        mine.rpartition("/")[2] == theirs.rpartition("/")[2] and (is_path(base) or is_path(other))
    )


def said_twice(adapter: Adapter, other: Adapter) -> list[str]:
    """A note where two adapters are one."""
    if not _same_change(adapter, other):
        return []
    return [f"{adapter.label} and {other.label} are the same adapter: was another one meant?"]


def _same_change(adapter: Adapter, other: Adapter) -> bool:
    """Whether two adapters change the base alike, up to rounding. Reads no further than to the first difference."""
    if adapter.modules.keys() != other.modules.keys():
        return False
    for name, module in adapter.modules.items():
        mine, theirs = module.read(), other.modules[name].read()
        if mine.shape != theirs.shape:
            return False
        difference, size = (np.linalg.norm(delta.row_norms()) for delta in (mine + theirs.scale_rows(-1.0), mine))
        if difference > ROUNDING * size:
            return False
    return True


def _same_base(expert: Adapter, anti_expert: Adapter, base: str | None, notes: list[str]) -> str | None:
    """The base of both."""
    other = anti_expert.base
    if base is None or other is None:
        unnamed, named = expert.label if base is None else anti_expert.label, base or other
        if named:
            notes.append(f"{unnamed} does not name its base model; taken to be {public(named)}, by its shapes alone")
        return named
    if normalised(base) == normalised(other):
        if is_quantised(base) != is_quantised(other):
            notes.append(f"the bases differ in quantisation ({public(base)} and {public(other)})")
        return base
    if same_base(base, other):
        notes.append(f"{public(base)} and {public(other)} are taken to be the same base model, by their last names")
        return other if is_path(base) and not is_path(other) else base
    raise ExtSubError(
        f"{expert.name} was trained on {brief(base)} and {anti_expert.name} on {brief(other)}: adapters of different "
        "bases cannot be combined; if both really have the same base, say which with --base-model"
    )


def _task(adapters: Sequence[Adapter], notes: list[str]) -> str | None:
    """The one task of all that name one."""
    named = [(adapter, task) for adapter in adapters if (task := adapter.settings["task_type"])]
    for adapter, task in named[1:]:
        if task != named[0][1]:
            raise ExtSubError(
                f"{named[0][0].name} is for {brief(named[0][1])} and {adapter.name} for {brief(task)}: train both for "
                "the same task"
            )
    if 0 < len(named) < len(adapters):
        notes.append(f"not every adapter names its task_type; taken to be {named[0][1]}")
    return named[0][1] if named else None


def _same_settings(expert: Adapter, anti_expert: Adapter, notes: list[str]) -> None:
    mine, theirs = expert.settings, anti_expert.settings
    for name in ("target_parameters", "layer_replication"):
        if mine.get(name) != theirs.get(name):
            raise ExtSubError(
                f"{name} is {shown(mine.get(name))} in {expert.name} and {shown(theirs.get(name))} in "
                f"{anti_expert.name}: their modules do not mean the same weights, so train both with the same"
            )
    for name in ("fan_in_fan_out", "revision"):
        if mine.get(name) != theirs.get(name):
            notes.append(f"{name} differs between {expert.label} and {anti_expert.label}; the expert's is kept")


def _same_base_layers(expert: Adapter, anti_expert: Adapter) -> None:
    for key in sorted(expert.base_layers.keys() & anti_expert.base_layers.keys()):
        if not _identical(expert.base_layers[key], anti_expert.base_layers[key]):
            raise ExtSubError(
                f"{expert.name} and {anti_expert.name} store different base weights under {brief(key)}: they were "
                "trained on different bases or resized vocabularies"
            )


def _identical(copy: Copy, other: Copy) -> bool:
    return copy == other and np.array_equal(copy.read(), other.read())


def _pair(
    expert: Adapter, anti_experts: Sequence[Adapter], missing_modules: str, notes: list[str]
) -> dict[str, tuple[Module | None, list[Module | None]]]:
    union = sorted(set(expert.modules).union(*(anti_expert.modules for anti_expert in anti_experts)))
    for anti_expert in anti_experts:
        mine, theirs = expert.modules.keys(), anti_expert.modules.keys()
        if mine != theirs:
            _refuse_renamed(expert, anti_expert)
            if missing_modules == "error":
                raise ExtSubError(
                    f"{_difference(expert, anti_expert, 'name')}: train both on the same target modules, or pass "
                    "--missing-modules zero to count an absent change as zero"
                )
            notes.append(f"{_difference(expert, anti_expert, 'label')}; absent changes count as zero")
            if not mine & theirs:
                notes.append(
                    f"{expert.label} and {anti_expert.label} have no module in common: unless that is what you want, "
                    "one of them names its modules differently"
                )
    pairs = {name: (expert.modules.get(name), [a.modules.get(name) for a in anti_experts]) for name in union}
    for name, (mine, others) in pairs.items():
        first = mine
        for adapter, module in zip((expert, *anti_experts), (mine, *others), strict=True):
            first = first or module
            if module and first and (module.shape != first.shape or module.layout != first.layout):
                raise ExtSubError(
                    f"{brief(name)} is {_describe(first)} in {expert.name} and {_describe(module)} in {adapter.name}: "
                    "the adapters were trained on different models"
                )
    return pairs


def _describe(module: Module) -> str:
    size = " x ".join(str(size) for size in module.shape)
    return f"{type(module.layout).__name__.lower()} {size}"


def _difference(expert: Adapter, anti_expert: Adapter, call: str) -> str:
    """Which adapter lacks what; ``call`` them by their name or label."""
    parts = []
    for adapter, other in ((expert, anti_expert), (anti_expert, expert)):
        missing = sorted(other.modules.keys() - adapter.modules.keys())
        if missing:
            lacking, having = getattr(adapter, call), getattr(other, call)
            parts.append(f"{lacking} lacks {len(missing)} of the modules of {having}, first {brief(missing[0])}")
    return "; ".join(parts)


def _refuse_renamed(expert: Adapter, anti_expert: Adapter) -> None:
    """One layer under two names must not be taken for two: PEFT would find one of them and leave the other out."""
    mine, theirs = (
        {name: module.shape for name, module in adapter.modules.items() if name not in other.modules}
        for adapter, other in ((expert, anti_expert), (anti_expert, expert))
    )
    who = f"{expert.name} and {anti_expert.name}"
    if twice := one_layer_twice(mine, theirs):
        raise ExtSubError(
            f"{who} name the same layers differently ({' and '.join(map(brief, twice))}), as different versions of "
            "transformers do: load one of them with the version of the other and save it again, or rename its keys"
        )
    if stored := fused_and_apart(mine, theirs):
        raise ExtSubError(
            f"{who} store the same layers differently ({' and '.join(map(brief, stored))}), one of them several as "
            "one, as different versions of transformers do: train both with one version"
        )


def _targets(adapters: Sequence[Adapter], union: set[str]) -> tuple[str, ...] | None:
    """Short names for exactly ``union``: those of an adapter that has all of it, or of all together."""
    whole = [adapter for adapter in adapters if set(adapter.modules) == union and adapter.targets]
    chosen = whole[:1] or adapters
    if any(adapter.targets is None for adapter in chosen):
        return None
    return tuple(sorted({target for adapter in chosen for target in adapter.targets or ()}))


def _copies(expert: Adapter, anti_experts: Sequence[Adapter], policy: str, notes: list[str]) -> dict[str, Copy]:
    """The tensors stored whole that the result keeps."""
    keys = set(expert.copies).union(*(anti_expert.copies for anti_expert in anti_experts))
    if not keys:
        return {}
    if policy == "expert":
        if expert.copies:
            notes.append(f"{len(expert.copies)} tensors stored whole are the expert's: the result loads in PEFT only")
        left_out = len(keys) if not expert.copies else sum(len(anti_expert.copies) for anti_expert in anti_experts)
        notes.append(f"{left_out} tensors stored whole in anti-experts are left out")
        return expert.copies
    for anti_expert in anti_experts:
        for key in sorted(keys):
            mine, theirs = expert.copies.get(key), anti_expert.copies.get(key)
            if mine is None or theirs is None or not _identical(mine, theirs):
                raise ExtSubError(
                    f"{brief(key)} is stored whole (modules_to_save, a task head or a resized vocabulary) and is not "
                    f"the same in {expert.name} and {anti_expert.name}: it has no difference to combine; pass "
                    "--modules-to-save expert to keep the expert's"
                )
    notes.append(f"{len(keys)} tensors stored whole are the same in all adapters and are kept: loads in PEFT only")
    return expert.copies
