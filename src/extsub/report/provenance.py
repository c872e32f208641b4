"""What a sweep was made from, and the commands that make it again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import Any

from extsub.algebra import OPERATIONS
from extsub.escaping import operand, shell
from extsub.evaluation.options import known_options
from extsub.evaluation.store import read_results
from extsub.evaluation.tasks import TASKS
from extsub.report.reading import Sweep
from extsub.settings import option
from extsub.sweeping.settings import POSITIONS, PROFILE, SweepSettings

LEFT_OUT = ("overwrite", "batch_size")
"""Settings that change nothing in the figures."""
SHORT = 12
"""Characters of a hash that are shown."""


def given(sweep: Sweep) -> tuple[str, list[str]]:
    """Expert and anti-experts as the user wrote them."""
    names = sweep.record["given"]
    return names["expert"], names["anti_experts"]


def made_of(sweep: Sweep) -> list[tuple[str, str]]:
    """(what, which) of all that went in."""
    made = sweep.record["made_of"]
    version = f"commit {made['base_commit']}" if made["base_commit"] else f"fingerprint {_short(made['base_sha256'])}"
    lines = [("base model", f"{made['base']}, {version}")]
    for place, adapter in enumerate(made["adapters"]):
        commit = f", commit {adapter['commit']}" if adapter.get("commit") else ""
        name = "expert" if not place else "anti-expert"
        lines.append((name, f"{adapter['name']}{commit}, weights SHA-256 {_short(adapter['weights_sha256'])}"))
    if prompt := sweep.record["settings"].get("prompt"):
        lines.append(("asked with", f"--prompt {prompt}"))
    runs = read_results(sweep.folder / POSITIONS / "expert").get("runs", {})
    for task, run in runs.items():
        count = run.get("items")
        lines.append((task, f"{run['data']}, {count} items, SHA-256 {_short(run['identity']['data'])}"))
        lines += [(task, f"note: {note}") for note in run.get("notes", ())]
    if runs:
        run = next(iter(runs.values()))
        versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items() if name in VERSIONS)
        lines.append(("made with", f"{versions}, on {run.get('device', 'an unknown device')}"))
    return lines


VERSIONS = ("python", "extsub", "torch", "transformers", "peft")


def _short(digest: str | None) -> str:
    return digest[:SHORT] if digest else "unknown"


def commands(sweep: Sweep) -> list[str]:
    """Command lines to do it again: the sweep, the report, and the adapter that was chosen."""
    expert, anti_experts = given(sweep)
    settings = sweep.record["settings"]
    adapters = [operand(adapter) for adapter in (expert, *anti_experts)]
    lines = [shell(["extsub", "sweep", *adapters, *_options(settings)])]
    lines.append(shell(["extsub", "report", operand(str(settings["output"]))]))

    def combine(operation: str, alpha: float, output: str, *more: str) -> None:
        words = ["extsub", "combine", *adapters, "--operation", operation, "--alpha", f"{alpha:.10g}"]
        lines.append(shell([*words, *more, "--output", output]))

    alpha = sweep.alpha(sweep.result)
    if sweep.main in OPERATIONS and alpha is not None:
        combine(sweep.main, alpha, sweep.result)
    best = sweep.record.get("search", {}).get("best", {})
    if best.get("profile"):
        profile = operand(f"{settings['output']}/{PROFILE}")
        combine(best["operation"], best["alpha"], best["position"], "--profile", profile)
    return lines


def _options(settings: dict[str, Any]) -> Iterator[str]:
    """The settings, and options of the tasks, that are not the defaults."""
    defaults = {field.name: None if field.default is MISSING else field.default for field in fields(SweepSettings)}
    asked = known_options(TASKS[task] for task in settings["tasks"])
    for name, default in (defaults | {name: setting.default for name, setting in asked.items()}).items():
        value = settings.get(name)
        default = list(default) if isinstance(default, tuple) else default
        if name in LEFT_OUT or value in (None, [], {}) or value == default:
            continue
        if value is False or (isinstance(value, str) and value.startswith("-")):
            yield f"{option(name)}={value}"
            continue
        yield option(name)
        if isinstance(value, dict):
            yield from (f"{key}={field}" for key, field in value.items())
        elif isinstance(value, list):
            yield from map(str, value)
        elif value is not True:
            yield str(value)
