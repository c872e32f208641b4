"""Try to break the commands: ``python -m hostile`` in ``tests``.

    python -m hostile [--kills 100] [--changes 40] [--signals 60] [--times 20] [--only train,run] [--parts kills]

Models are tiny and made on the spot; nothing is downloaded. All commands are forked from one process that has done the
imports, so the clock of a kill starts where a command starts, and not with seconds of imports. Disks are mounted, which
needs root; elsewhere those trials are left out. A folder in which something went wrong is kept. Do not change the
source while it runs: templates are read late.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
warnings.simplefilter("ignore")  # of the libraries

from hostile.children import run, warm  # noqa: E402
from hostile.commands import COMMANDS, OUT, Command, make, place  # noqa: E402
from hostile.looking import contents, difference  # noqa: E402
from hostile.trials import (  # noqa: E402
    Trial,
    Undisturbed,
    Wrong,
    changes_of,
    fresh_trial,
    killed,
    killed_before,
    mounted,
    on_full_disk,
    on_read_only_disk,
    told_to_stop,
    twice,
)

PARTS = ("kills", "changes", "signals", "full", "readonly", "twice")


def main() -> None:
    """All trials, and a table of what they found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="of each command")
    parser.add_argument("--changes", type=int, default=40, help="of the disk, before which each command is killed")
    parser.add_argument("--signals", type=int, default=60, help="of each command")
    parser.add_argument(
        "--times", type=int, default=20, help="each command finds the disk full, and runs twice at once"
    )
    parser.add_argument("--only", default=",".join(COMMANDS))
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    room = Path(tempfile.mkdtemp(prefix="hostile-"))
    made = make(room / "made")
    known = undisturbed(made, room, given.only.split(","))
    wrong = 0
    for part in given.parts.split(","):
        if part in ("full", "readonly") and not can_mount(room):
            print(f"{part}: left out, nothing can be mounted here")
            continue
        for name in given.only.split(","):
            bench = Bench(COMMANDS[name], made, room, known, random.Random(f"{given.seed} {part} {name}"))
            begun = time.perf_counter()
            wrong += bench.try_out(part, given)
            counts = ", ".join(f"{number} {what}" for what, number in sorted(bench.count.items()))
            print(f"| {part} | {name} | {counts} | {bench.wrong} | {time.perf_counter() - begun:.0f} s |", flush=True)
    if wrong:
        sys.exit(f"{wrong} went wrong; see {room}")
    shutil.rmtree(room)


class Bench:
    """All trials of one command."""

    def __init__(
        self, command: Command, made: Path, room: Path, known: dict[str, Undisturbed], chance: random.Random
    ) -> None:
        self.command, self.made, self.room, self.known, self.chance = command, made, room, known, chance
        self.count: Counter[str] = Counter()
        self.wrong = 0

    def try_out(self, part: str, given: argparse.Namespace) -> int:
        """All of one part. Returns how many went wrong."""
        seconds = self.known[self.command.name].seconds
        if part == "kills":
            while self.count["kills"] < given.kills and self.wrong < 5:
                self._try(lambda trial: killed(trial, given.kills - self.count["kills"], self.chance))
        elif part == "changes":
            with fresh_trial(self.command, self.made, self.room, self.known) as trial:
                number = changes_of(trial)
            last = range(max(0, number - given.changes // 2), number)  # where outputs get their names
            others = self.chance.sample(range(last.start), min(last.start, given.changes - len(last)))
            for change in sorted({*last, *others}):
                self._try(lambda trial, change=change: killed_before(trial, change))
            self.count["changes"] = number
        elif part == "signals":
            while sum(self.count.values()) < given.signals and self.wrong < 5:
                left = given.signals - sum(self.count.values())
                self._try(lambda trial, left=left: told_to_stop(trial, left, self.chance))
        elif part == "full":
            for place in range(given.times):
                self._try(lambda trial, place=place: on_full_disk(trial, (place + self.chance.random()) / given.times))
        elif part == "readonly":
            self._try(on_read_only_disk)
        else:
            for _ in range(given.times):
                self._try(lambda trial: twice(trial, self.chance.uniform(0, seconds)))
        return self.wrong

    def _try(self, work: Callable[[Trial], Counter[str]]) -> None:
        try:
            with fresh_trial(self.command, self.made, self.room, self.known) as trial:
                self.count += work(trial)
        except Wrong as error:
            self.wrong += 1
            folder = self.room / f"trial-{self.command.name.replace(' ', '')}"
            kept = folder.rename(self.room / f"wrong-{len(list(self.room.glob('wrong-*')))}")
            print(f"WRONG {self.command.name}: {error}\n      {kept}", file=sys.stderr, flush=True)


def undisturbed(made: Path, room: Path, names: list[str]) -> dict[str, Undisturbed]:
    """What every command leaves, and how long it takes when its imports are done."""
    known: dict[str, Undisturbed] = {}
    for name in COMMANDS:
        if name not in names and not any(name in (COMMANDS[other].old, COMMANDS[other].needs) for other in names):
            continue
        command = COMMANDS[name]
        start = command.old or command.needs
        for attempt in ("warm", "whole", "same"):
            folder = place(made, room / f"{attempt}-{name.replace(' ', '')}", known[start].work if start else None)
            if attempt == "warm":
                warm(command.first, folder, room / "said")
                continue
            begun = time.perf_counter()
            child = run(command.first, folder, room / "said")
            seconds = time.perf_counter() - begun
            if child.code:
                sys.exit(f"{name}: {child.text}")
            if attempt == "whole":
                known[name] = Undisturbed(folder / OUT, contents(folder / OUT), seconds)
            elif other := difference(contents(folder / OUT), known[name].whole):
                sys.exit(f"{name} does not do the same twice: {other}")
            known[name].seconds = min(seconds, known[name].seconds)
        print(f"{name}: {known[name].seconds:.1f} s, {len(known[name].whole)} files", file=sys.stderr, flush=True)
    return known


def can_mount(room: Path) -> bool:
    """Whether disks can be made here."""
    folder = room / "mounted"
    folder.mkdir(exist_ok=True)
    try:
        with mounted(folder, "-t", "tmpfs", "none"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


if __name__ == "__main__":
    main()
