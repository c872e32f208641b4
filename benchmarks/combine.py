"""How long combining takes, how much memory, how exact the result is: extsub beside other ways, and the I/O floor.

    python benchmarks/combine.py [--shapes 7b 8b 70b] [--runs 3] [--output FILE.md]

Each run has a process of its own, so that its peak memory is its own, and the contenders take turns, so that a noisy
machine disturbs all of them. Inputs are in the page cache; every output is waited for until it is on the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from commands import NUMPY, OURS, TORCH, Spent, spent
from contenders import CONTENDERS, MODULES, WEIGHTS, Measurement, Pair, bare, error, measure
from machine import apart, machine
from made_up import SHAPES, Shape, make_adapter

LAYERS = {
    "7b": {"peft_svd": 1},
    "8b": {"dense": 2, "peft_svd": 1},
    "70b": {"dense": 1, "peft_cat": 1, "peft_svd": 0},
}
"""How many layers are measured where all would take too long or too much memory; 0 is none."""

SLOW = 20.0
"""Seconds; what takes longer is run once."""

NOTES = f"""\
Medians. *× floor*: the time relative to the floor's in the same round. *Peak memory*: above a process that only imports
torch. *Error*: relative, Frobenius norm, of what was written against dense float64 (the larger one of
{" and ".join(MODULES)} of the first layer). *~*: measured on a few layers and multiplied; memory grows by what must be
held for every layer. What took over {SLOW:.0f} s was run once.

PEFT has one weight for each adapter, not for each row: it computes {WEIGHTS[0]}·expert {WEIGHTS[1]:+}·anti-expert, the
nearest it can express to Ext-Sub, and is compared with that. Its time is loading both adapters, combining and saving;
the base model, which it needs in memory (a real, uninitialised one here), is counted in neither time nor memory."""

COMMAND_NOTES = """\
Whole commands, started anew each time: Python's start, imports, reading, writing, waiting for the disk; extsub also
hashes its inputs, verifies and writes a card. *Floor*: read both files and write as many bytes with safetensors. *Peak
memory*: of the whole process. Ratios are medians over rounds in which all three took turns."""

GROWTH = ("8b", (8, 16, 32))
"""The shape, and numbers of its layers, that show how extsub grows."""


@dataclass(frozen=True)
class Row:
    """One line of a table, a number for each run. Extrapolated to all layers where not all were measured."""

    name: str
    layers: int
    """Measured."""

    of: int
    seconds: list[float]
    ratios: list[float]
    """Of the seconds, to the floor's in the same round."""

    peak: list[int]
    """Bytes above a process that only imports torch."""

    size: list[int]
    error: float | None

    def markdown(self) -> str:
        about = "~" if self.layers < self.of else ""
        cells = [
            self.name + (f" ({self.layers} of {self.of} layers)" if about else ""),
            f"{about}{median(self.seconds):,.2f} s",
            f"{about}{median(self.ratios):,.1f}",
            f"{about}{_megabytes(median(self.peak))}",
            f"{about}{_megabytes(median(self.size))}",
            f"{self.error:.1e}" if self.error is not None else "–",
            str(len(self.seconds)),
        ]
        return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument(
        "--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), help="besides the floor"
    )
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/combine.md"))
    arguments = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what pip installs is compiled
    skipped = dict.fromkeys(CONTENDERS.keys() - {"floor", *arguments.contenders}, 0)
    layers = {name: LAYERS[name] | skipped for name in arguments.shapes}
    baseline = apart(bare)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        tables = {
            name: _table(SHAPES[name], layers[name], scratch / name, arguments.runs, baseline)
            for name in arguments.shapes
        }
        commands = {name: _commands(SHAPES[name], scratch / f"{name}-commands", arguments.runs) for name in tables}
        growth = _growth(scratch / "growth", arguments.runs, baseline)
        start_up = _start_up(scratch / "start-up")
    text = _markdown(tables, commands, growth, start_up)
    content = {
        "machine": _machine(),
        "bare_torch_bytes": baseline,
        "shapes": {name: [asdict(row) for row in rows] for name, rows in tables.items()},
        "commands": {
            name: {contender: [row._asdict() for row in rows] for contender, rows in each.items()}
            for name, each in commands.items()
        },
        "growth": {parameters: asdict(row) for parameters, row in growth.items()},
        "start_up": start_up,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(text, encoding="utf-8")
    arguments.output.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(text, end="")


def _table(shape: Shape, layers: dict[str, int], folder: Path, runs: int, baseline: int) -> list[Row]:
    """Measure the contenders with so many layers (all, where not said) in turns."""
    pairs = {
        name: _pair(replace(shape, layers=layers.get(name, shape.layers)), folder)
        for name in CONTENDERS
        if layers.get(name) != 0
    }
    measured: dict[str, list[Measurement]] = {name: [] for name in pairs}
    errors: dict[str, float | None] = {}
    for run in range(runs):
        for name, pair in pairs.items():
            if run and max(measured[name][0].seconds.values()) > SLOW:
                continue
            measured[name].append(apart(measure, name, pair))
            _progress(f"{shape.name}, {pair.shape.layers} layers, run {run + 1}: {measured[name][-1].seconds}")
            if name not in errors:
                errors[name] = apart(error, name, pair)
            shutil.rmtree(pair.output)
            os.sync()
    shutil.rmtree(folder)
    (floor,) = measured["floor"][0].seconds
    floors = [run.seconds[floor] for run in measured["floor"]]
    return [
        _row(label, pairs[name].shape.layers, shape.layers, runs, floors, baseline, errors[name])
        for name, runs in measured.items()
        for label in runs[0].seconds
    ]


def _row(
    label: str,
    layers: int,
    of: int,
    measured: list[Measurement],
    floors: list[float],
    baseline: int,
    error: float | None,
) -> Row:
    scale = of / layers
    seconds = [scale * run.seconds[label] for run in measured]
    return Row(
        name=label,
        layers=layers,
        of=of,
        seconds=seconds,
        ratios=[mine / floor for mine, floor in zip(seconds, floors, strict=False)],
        peak=[run.peak - baseline + round((scale - 1) * run.held) for run in measured],
        size=[round(scale * run.size) for run in measured],
        error=error,
    )


def _pair(shape: Shape, folder: Path) -> Pair:
    """Two made-up adapters; those of fewer layers have the first layers of the whole ones."""
    place = folder / str(shape.layers)
    pair = Pair(shape, place / "expert", place / "anti", place / "output")
    if not place.exists():
        _progress(f"making a pair of {shape.name}, {shape.layers} layers")
        for seed, adapter in enumerate((pair.expert, pair.anti_expert)):
            apart(make_adapter, shape, adapter, seed)
        os.sync()
    return pair


def _commands(shape: Shape, folder: Path, runs: int) -> dict[str, list[Spent]]:
    """Whole commands in turns; the first round fills the page cache and does not count."""
    pair = _pair(shape, folder)
    measured: dict[str, list[Spent]] = {TORCH: [], NUMPY: [], OURS: []}
    for run in range(runs + 1):
        for name, rows in measured.items():
            rows.append(spent(name, pair))
            _progress(f"{shape.name}, {name}, run {run}: {rows[-1].seconds:.2f} s")
    shutil.rmtree(folder)
    return {name: rows[1:] for name, rows in measured.items()}


def _growth(folder: Path, runs: int, baseline: int) -> dict[int, Row]:
    """extsub's row by the number of parameters of one input."""
    shape, layers = SHAPES[GROWTH[0]], GROWTH[1]
    pairs = [_pair(replace(shape, layers=count), folder) for count in layers]
    measured: dict[int, list[Measurement]] = {count: [] for count in layers}
    for run in range(runs):
        for pair in pairs:
            measured[pair.shape.layers].append(apart(measure, "extsub", pair))
            _progress(f"growth, {pair.shape.layers} layers, run {run + 1}")
            shutil.rmtree(pair.output)
            os.sync()
    label = list(measured[layers[0]][0].seconds)[-1]
    return {
        pair.shape.parameters: _row(label, count, count, measured[count], [], baseline, None)
        for pair in pairs
        for count in [pair.shape.layers]
    }


def _start_up(folder: Path) -> dict[str, Any]:
    """Wall time of ``extsub --help`` and of an empty Python, and what ``extsub combine`` imports of the heavy ones."""
    seconds: dict[str, list[float]] = {"extsub --help": [], "python -c pass": []}
    for _ in range(5):
        for name, command in {"extsub --help": ["-m", "extsub", "--help"], "python -c pass": ["-c", "pass"]}.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, capture_output=True)
            seconds[name].append(time.perf_counter() - start)
    pair = _pair(replace(SHAPES["7b"], layers=1), folder)
    command = [sys.executable, "-X", "importtime", "-m", "extsub", "combine"]
    command += [str(pair.expert), str(pair.anti_expert), "--output", str(pair.output)]
    log = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in log.splitlines() if "|" in line}
    if "numpy" not in imported:
        raise RuntimeError("the import log shows no numpy: it was not understood")
    heavy = sorted(imported & {"torch", "peft", "transformers"})
    return {name: median(times) for name, times in seconds.items()} | {"combine imports": heavy}


def _markdown(
    tables: dict[str, list[Row]],
    commands: dict[str, dict[str, list[Spent]]],
    growth: dict[int, Row],
    start_up: dict[str, Any],
) -> str:
    lines = [_machine(), "", "### Whole commands", ""]
    lines += ["| | | time | × floor with torch | × floor with numpy | peak memory |", "|---|---|--:|--:|--:|--:|"]
    for shape, each in commands.items():
        for name, rows in each.items():
            ratios = (
                median(ours.seconds / other.seconds for ours, other in zip(rows, each[floor], strict=True))
                for floor in (TORCH, NUMPY)
            )
            cells = [
                SHAPES[shape].name,
                name,
                f"{median(run.seconds for run in rows):.2f} s",
                *(f"{ratio:.2f}" for ratio in ratios),
            ]
            lines.append(f"| {' | '.join(cells)} | {_megabytes(median(run.peak for run in rows))} |")
    lines += ["", COMMAND_NOTES, ""]
    for name, rows in tables.items():
        shape = SHAPES[name]
        lines += [
            f"### {shape.name}: 2 adapters of {shape.parameters / 1e6:,.1f} M parameters, {shape.layers} layers",
            "",
        ]
        lines += ["| | time | × floor | peak memory | file | error | runs |", "|---|--:|--:|--:|--:|--:|--:|"]
        lines += [row.markdown() for row in rows]
        lines += [""]
    lines += [NOTES, ""]
    points = [
        f"{parameters / 1e6:,.1f} M parameters {median(row.seconds):.2f} s and {_megabytes(median(row.peak))}"
        for parameters, row in growth.items()
    ]
    lines += [f"Growth ({SHAPES[GROWTH[0]].name}, {', '.join(map(str, GROWTH[1]))} layers): {'; '.join(points)}.", ""]
    heavy = " and ".join(start_up["combine imports"]) or "no torch"
    lines += [
        f"Start-up: `extsub --help` {start_up['extsub --help']:.2f} s, "
        f"`python -c pass` {start_up['python -c pass']:.2f} s. `extsub combine` imports {heavy}."
    ]
    return "\n".join(lines) + "\n"


def _machine() -> str:
    return f"{machine('extsub', 'torch', 'safetensors', 'peft')}."


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"


def _progress(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
