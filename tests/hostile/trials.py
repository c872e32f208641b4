"""One trial each: a command that is killed or told to stop until it is done, that finds the disk full or read-only, or
that runs twice at once. Whatever is wrong is raised as ``Wrong``.
"""

from __future__ import annotations

import atexit
import contextlib
import random
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hostile.children import Child, run
from hostile.commands import OUT, Command, place
from hostile.looking import contents, difference, half_written
from killing import before_changes, die_before

STOPPED = {signal.SIGINT: ("interrupted", 130), signal.SIGTERM: ("terminated", 143), signal.SIGHUP: ("terminated", 129)}
PAGE = 4096
BUSY = "is being written by another run: wait for it"


class Wrong(Exception):  # noqa: N818  not an error of this program
    """What a trial found."""


@dataclass
class Undisturbed:
    """What a command leaves when nothing happens to it, and how long it takes."""

    work: Path
    whole: dict[str, Any]
    seconds: float


@dataclass
class Trial:
    """A fresh folder in which a command is tried."""

    command: Command
    undisturbed: Undisturbed
    folder: Path
    said: Path
    before: dict[str, Any]

    def start(self, again: bool) -> Child:
        return Child(self.command.later if again else self.command.first, self.folder, self.said)

    def check_whole(self) -> None:
        """Nothing that people read is half written."""
        if complaint := half_written(contents(self.folder / OUT), self.undisturbed.whole, self.before):
            raise Wrong(complaint)

    def check_done(self) -> None:
        """All is as an undisturbed run leaves it."""
        if complaint := difference(contents(self.folder / OUT), self.undisturbed.whole):
            raise Wrong(f"at the end {complaint}")

    def check_ended(self, child: Child) -> bool:
        """Whether a command is done, or was done before it was started again."""
        if child.code == 0:
            return True
        if child.code == 2 and "already exists" in child.text:
            return not difference(contents(self.folder / OUT), self.undisturbed.whole)
        raise Wrong(f"exit {child.code}: {child.text[-2000:]}")

    def finish(self) -> None:
        """Start it until it is done."""
        self.check_ended(run(self.command.later, self.folder, self.said))
        self.check_done()


@contextlib.contextmanager
def fresh_trial(command: Command, made: Path, room: Path, known: dict[str, Undisturbed]) -> Generator[Trial]:
    """A fresh folder, which is removed if nothing is wrong."""
    folder = room / f"trial-{command.name.replace(' ', '')}"
    shutil.rmtree(folder, ignore_errors=True)
    start = command.old or command.needs
    place(made, folder, known[start].work if start else None)
    yield Trial(command, known[command.name], folder, room / "said", contents(folder / OUT))
    shutil.rmtree(folder)


def killed(trial: Trial, most: int, chance: random.Random) -> Counter[str]:
    """Killed at random moments, and started again each time, until it is done."""
    count: Counter[str] = Counter()
    while True:
        child = trial.start(again=bool(count["kills"]))
        if count["kills"] < most and child.send(signal.SIGKILL, chance.uniform(0, trial.undisturbed.seconds)):
            count["kills"] += child.wait() == -signal.SIGKILL
            trial.check_whole()
            continue
        child.wait()
        if trial.check_ended(child):
            trial.check_done()
            return count


def changes_of(trial: Trial) -> int:
    """How often a command changes the disk, as far as Python does it."""
    count, result = 0, trial.said.with_suffix(".changes")

    def add() -> None:
        nonlocal count
        count += 1

    def setup() -> None:
        before_changes(add)
        atexit.register(lambda: result.write_text(str(count)))

    run(trial.command.first, trial.folder, trial.said, setup)
    return int(result.read_text())


def killed_before(trial: Trial, change: int) -> Counter[str]:
    """Killed right before a change of the disk, then started again."""
    child = run(trial.command.first, trial.folder, trial.said, lambda: die_before(change))
    trial.check_whole()
    if child.code == -signal.SIGKILL:
        trial.finish()
    elif trial.check_ended(child):  # two runs need not make the same number of changes
        trial.check_done()
    return Counter({"kills": child.code == -signal.SIGKILL})


def told_to_stop(trial: Trial, most: int, chance: random.Random) -> Counter[str]:
    """As ``killed``, by signals that a command can hear: it says what is kept, and that is true."""
    count: Counter[str] = Counter()
    sent = 0
    while True:
        number = chance.choice(list(STOPPED))
        there = contents(trial.folder / OUT)
        child = trial.start(again=sent > 0)
        heard = sent < most and child.send(number, chance.uniform(0, trial.undisturbed.seconds))
        child.wait()
        if "Traceback" in child.text:
            raise Wrong(f"{number.name}: {child.text[-3000:]}")
        sent += heard
        if not heard or child.code == 0:
            if heard:
                count["after its end"] += 1
            if trial.check_ended(child):
                trial.check_done()
                return count
        elif child.code == -number and not child.text:  # before it listens
            if complaint := difference(contents(trial.folder / OUT), there):
                raise Wrong(f"{number.name}: nothing is said, and {complaint}")
            count["before its beginning"] += 1
        elif child.code == -number:  # when it listens no more: all is written
            trial.check_done()
            count["after its end"] += 1
            return count
        else:
            count[number.name] += 1
            trial.check_whole()
            _check_sentence(trial, child, number, there)


def _check_sentence(trial: Trial, child: Child, number: signal.Signals, there: dict[str, Any]) -> None:
    word, code = STOPPED[number]
    last = child.text.strip().splitlines()[-1] if child.text.strip() else ""
    match, now = re.fullmatch(rf"Error: {word}; (.*)", last), contents(trial.folder / OUT)
    if child.code != code or not match:
        raise Wrong(f"{number.name}: exit {child.code}, {last!r}")
    said = match[1]
    if saved := re.match(r"([\d,]+) items? (?:is|are) saved", said):
        true = _items(now) >= int(saved[1].replace(",", ""))
    elif step := re.match(r"step (\d+) is saved", said):
        true = f"out/checkpoints/checkpoint-{step[1]}/complete" in now
    elif written := re.fullmatch(r"(\S+) is written", said):
        true = (trial.folder / written[1]).exists()
    elif "kept" in said:
        true = len(now) > 0
    else:
        true = said == "nothing was written" and not difference(_kept(now), _kept(there))
    if not true:
        raise Wrong(f"{number.name}: {said!r}, and there is {sorted(now.keys() ^ there.keys())[:5]} new or gone")


def _kept(tree: dict[str, Any]) -> dict[str, Any]:
    """Without what a run before was taking away when it was stopped, which the next one clears."""
    return {name: content for name, content in tree.items() if not name.partition("/")[0].endswith(".removed")}


def _items(tree: dict[str, Any]) -> int:
    """That are saved in the files of a task, or in its partial ones."""
    rows = {name: content for name, content in tree.items() if name.endswith((".jsonl", ".partial"))}
    seen = set()
    for name, content in rows.items():
        lines = content if isinstance(content, list) else content.split(b"\n")[1:-1]
        folder, _, file = name.rpartition("/")
        task = file.removeprefix(".").partition(".")[0]
        seen |= {(folder, task, place) for place in range(len(lines))}
    return len(seen)


@contextlib.contextmanager
def mounted(folder: Path, *options: str) -> Generator[None]:
    """A file system of its own."""
    subprocess.run(["mount", *options, str(folder)], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True, capture_output=True)


def on_full_disk(trial: Trial, part: float) -> Counter[str]:
    """A disk that has room for a part of what is written, and more when the command is started again."""
    work = trial.folder / OUT
    aside = work.rename(trial.folder / "aside")
    work.mkdir()
    new = [
        path
        for path in trial.undisturbed.work.rglob("*")
        if trial.command.old or _name(trial, path) not in trial.before
    ]
    needed = sum(-(-path.stat().st_size // PAGE) * PAGE for path in new)
    with mounted(work, "-t", "tmpfs", "-o", "size=1g", "none"):
        for path in aside.iterdir():
            (shutil.copytree if path.is_dir() else shutil.copy)(path, work / path.name)
        used = shutil.disk_usage(work).used
        _resize(work, used + max(PAGE, int(needed * part)))
        child = run(trial.command.first, trial.folder, trial.said)
        if child.code == 0:
            trial.check_done()
            return Counter({"room enough": 1})
        _check_refusal(child, "make room")
        trial.check_whole()
        _resize(work, 2**30)
        trial.finish()
    return Counter({"full": 1})


def _name(trial: Trial, path: Path) -> str:
    return str(path.relative_to(trial.undisturbed.work))


def _resize(folder: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True, capture_output=True)


def on_read_only_disk(trial: Trial) -> Counter[str]:
    """Nothing can be written; then it can."""
    work = trial.folder / OUT
    with mounted(work, "--bind", str(work)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(work)], check=True, capture_output=True)
        _check_refusal(run(trial.command.first, trial.folder, trial.said), "read-only")
    if complaint := difference(contents(work), trial.before):
        raise Wrong(f"on a read-only disk {complaint}")
    trial.finish()
    return Counter({"read-only": 1})


def _check_refusal(child: Child, word: str) -> None:
    last = child.text.strip().splitlines()[-1] if child.text.strip() else ""
    if child.code != 2 or "Traceback" in child.text or not last.startswith("Error: ") or word not in last.lower():
        raise Wrong(f"exit {child.code}: {child.text[-3000:]}")


def twice(trial: Trial, after: float) -> Counter[str]:
    """The same command once more while it runs."""
    first = trial.start(again=False)
    first.send(signal.Signals(signal.SIGCONT), after)  # which does nothing
    second = run(trial.command.later, trial.folder, trial.said.with_name("said-2"))
    first.wait()
    count: Counter[str] = Counter()
    for child in (first, second):
        if child.code == 2 and BUSY in child.text:
            count["refused"] += 1
        elif child.code != 2 or "already exists" not in child.text:
            if child.code:
                raise Wrong(f"exit {child.code}: {child.text[-2000:]}")
            count["done"] += 1
    if not count["done"]:
        raise Wrong("none of two was done")
    trial.check_done()
    return count
