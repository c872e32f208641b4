"""What lies in a folder: whether all that people read is whole, whether the figures are those of an undisturbed run,
and whether anything is left over.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

TIMES = ("seconds", "cpu_seconds", "tokens_per_second", "resumed_from_step")
"""differ from run to run"""
TOLERANCE = 1e-5
"""of figures: items that are asked after an interruption are not in the same batches"""
ROUNDED = 1e-2
"""of figures in texts"""
NUMBER = re.compile(r"-?\d+\.\d+(?:e[+-]?\d+)?")
WORK = ("checkpoints", "stages.json")
"""what an unfinished run keeps under a name that is not hidden"""


def contents(folder: Path) -> dict[str, Any]:
    """Every file under its path: values where it is JSON, bytes otherwise. A folder without files is there, too."""
    tree: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir():
            if not any(path.iterdir()):
                tree[f"{name}/"] = None
        else:
            tree[name] = _content(path)
    return tree


def _content(path: Path) -> Any:
    raw = path.read_bytes()
    try:
        if path.suffix == ".json":
            return json.loads(raw)
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in raw.decode().splitlines()]
        if path.suffix in (".csv", ".html", ".md", ".svg"):
            return raw.decode()
    except ValueError:
        pass
    return raw


def difference(ours: Any, theirs: Any, where: str = "") -> str | None:
    """The first thing in which two values differ, times aside."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        if ours.keys() != theirs.keys():
            return f"{where}: {sorted(map(str, ours.keys() ^ theirs.keys()))[0]} is only in one"
        pairs = [(f"{where}/{name}", value, theirs[name]) for name, value in ours.items() if name not in TIMES]
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        pairs = [(f"{where}[{place}]", *both) for place, both in enumerate(zip(ours, theirs, strict=True))]
    elif isinstance(ours, float) and isinstance(theirs, (int, float)):
        return (
            None if math.isclose(ours, theirs, rel_tol=TOLERANCE, abs_tol=TOLERANCE) else f"{where}: {ours}, {theirs}"
        )
    elif isinstance(ours, str) and isinstance(theirs, str) and NUMBER.split(ours) == NUMBER.split(theirs):
        pairs = zip(map(float, NUMBER.findall(ours)), map(float, NUMBER.findall(theirs)), strict=True)
        far = [pair for pair in pairs if not math.isclose(*pair, rel_tol=ROUNDED, abs_tol=ROUNDED)]
        return f"{where}: {far[0]}" if far else None
    else:
        return None if ours == theirs else f"{where}: {str(ours)[:80]}, expected {str(theirs)[:80]}"
    return next((said for name, mine, other in pairs if (said := difference(mine, other, name))), None)


def half_written(tree: dict[str, Any], whole: dict[str, Any], before: dict[str, Any]) -> str | None:
    """What people would read, and is neither as an undisturbed run leaves it nor as it was before; nothing else may be
    there but what is hidden, or known to be the work of an unfinished run.
    """
    for name, content in tree.items():
        parts = name.split("/")
        if any(part.startswith(".") or part in WORK for part in parts) or name.endswith("/"):
            continue
        if _is_results(name) and isinstance(content, dict):  # of the tasks that are done
            content = _done(content, whole.get(name, {}))
        if difference(content, whole.get(name)) and difference(content, before.get(name)):
            return f"{name} is half written: {difference(content, whole.get(name))}"
    return None


def _is_results(name: str) -> bool:
    return name.rpartition("/")[2] == "results.json"


def _done(content: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    return {**content, **{part: {**whole.get(part, {}), **content.get(part, {})} for part in ("tasks", "runs")}}
