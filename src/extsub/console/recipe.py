"""What people see of a recipe in a terminal: the plan, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from extsub.console.summaries import print_notes
from extsub.formatting import in_bytes
from extsub.printing import say
from extsub.report.wording import aim


def print_recipe_plan(plan: dict[str, Any]) -> None:
    """Print what ``extsub run --dry-run`` found: a line for each stage, and what is to be done there."""
    say(f"{plan['recipe']}, into {plan['output']}")
    width = max(len(stage["stage"]) for stage in plan["stages"])
    for stage in plan["stages"]:
        say(f"  {stage['stage']:{width}}  {'done' if stage['done'] else 'to do: ' + stage['why']}")
        for line in _estimate(stage["estimate"]):
            say(f"  {'':{width}}  {line}")


def _estimate(estimate: dict[str, Any]) -> list[str]:
    lines = []
    if "steps" in estimate:
        data, memory = estimate["data"], estimate["memory_estimate"]["together"]
        lines.append(
            f"{data['name']}: {data['rows']:,} rows, {estimate['tokens_per_epoch']:,} tokens an epoch, "
            f"{estimate['steps']:,} steps, about {in_bytes(memory)} of memory a device ({estimate['dtype']}), "
            f"template {estimate['template']}"
        )
        lines += [f"note: {note}" for note in estimate["notes"]]
    if "requests" in estimate:
        lines.append(f"{estimate['requests']:,} answers to be written by {estimate['writer']}")
    if "prompt" in estimate:
        lines.append(f"asked with --prompt {estimate['prompt']}")
    for name, task in estimate.get("tasks", {}).items():
        lines.append(f"{name}: {task['positions']:,} models x {task['items']:,} items = {task['answers']:,}")
    if estimate.get("bytes"):
        lines.append(f"writes an adapter of about {in_bytes(estimate['bytes'])}")
    return lines


def print_run(summary: Mapping[str, Any]) -> None:
    """Print what ``extsub run`` did and found."""
    made = [name for name, what in summary["stages"].items() if what == "made"]
    say(f"{summary['output']}: {', '.join(made) if made else 'nothing was to be done'}")
    result, rank = summary["result"], summary["result"]["rank"]
    size = (
        f"{result['modules']} modules{f', rank {rank}' if rank else ''}, {result['dtype']}, {in_bytes(result['bytes'])}"
    )
    rows = []
    for sweep in summary["sweeps"].values():
        chosen = sweep["chosen"]
        wanted = aim(chosen["choose"], chosen["score"], chosen["budget"])
        against = f" against {', '.join(sweep['anti_experts'])}" if len(summary["sweeps"]) > 1 else ""
        rows += [
            ("chosen", f"{chosen['operation']} at α {chosen['alpha']:g}{against}: {wanted}"),
            ("verdict", sweep["report"]["sentence"]),
            ("page", sweep["page"]),
        ]
    for name, value in [*rows, ("result", f"{result['output']}: {size}")]:
        say(f"  {name:8} {value}")
    print_notes(summary["notes"])
