"""Whether what was measured is of this adapter: by hashes, operation and strength, not by names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from extsub.errors import ExtSubError
from extsub.escaping import brief
from extsub.report.reading import Sweep

HASHES = ("weights_sha256", "config_sha256")


def position_of(sweep: Sweep, adapter: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """The label of the position of a sweep that an adapter is.

    Args:
        adapter: its hashes.
        record: what its ``extsub.json`` holds; empty for one that was trained.

    Raises:
        ExtSubError: the adapter is none of the sweep's positions.
    """
    expert, *anti_experts = sweep.record["made_of"]["adapters"]
    if are_same(adapter, expert):
        return "expert"
    if len(anti_experts) == 1 and are_same(adapter, anti_experts[0]):
        return "anti-expert"
    inputs = record.get("inputs", [])
    if not inputs or not are_same(inputs[0], expert) or not _are_same_set(inputs[1:], anti_experts):
        raise ExtSubError(
            f"the sweep is of {brief(expert['name'])} and {brief(', '.join(given['name'] for given in anti_experts))}, "
            "which by their hashes are not what this adapter was made from"
        )
    if record["deficiency"]:
        raise ExtSubError("this is the deficiency, which no sweep has asked: push the result")
    alphas = {given["alpha"] for given in inputs[1:]}
    points = {label: point for label, point in sweep.positions.items() if point["operation"] == record["operation"]}
    for label, point in points.items():
        if alphas == {point["alpha"]} and point.get("profile") == record.get("profile"):
            return label
    strengths = " and ".join(f"{alpha:g}" for alpha in sorted(alphas))
    there = ", ".join(f"{point['alpha']:g}" for point in points.values() if "profile" not in point) or "none"
    spread = " by a profile" if "profile" in record else ""
    raise ExtSubError(
        f"the sweep has not asked {brief(record['operation'])} at α {strengths}{spread}, which this adapter is; its "
        f"strengths of it are {brief(there)}"
    )


def _are_same_set(some: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> bool:
    """Whether these are the same adapters, in any order."""
    left = list(others)
    for adapter in some:
        if (match := next((other for other in left if are_same(adapter, other)), None)) is None:
            return False
        left.remove(match)
    return not left


def are_same(record: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two records are of one adapter. Older ones have no hash of the config."""
    known = [name for name in HASHES if record.get(name) and other.get(name)]
    return HASHES[0] in known and all(record[name] == other[name] for name in known)
