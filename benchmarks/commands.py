"""Whole commands as a user waits for them, each a process of its own: extsub, and what any such program must do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import NamedTuple

from contenders import SAFETENSORS, Pair

COPY = """
import os, sys
from {library} import load_file, save_file
expert, anti, output = sys.argv[1:]
tensors = {{}}
for name, file in enumerate((expert, anti)):
    tensors.update({{f"{{name}}.{{key}}": value for key, value in load_file(file).items()}})
save_file(tensors, output)
with open(output, "rb+") as file:
    os.fsync(file.fileno())
"""
"""Reads both files, writes as many bytes, waits for the disk."""
LAUNCH = """
import os, sys, time
start = time.perf_counter()
_, status, usage = os.wait4(os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ), 0)
print(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""Starts a command from a small process, since its peak memory starts at that of its parent."""
TORCH, NUMPY, OURS = "floor with torch", "floor with numpy", "extsub combine"


class Spent(NamedTuple):
    """What a command took."""

    seconds: float
    cpu_seconds: float
    peak: int
    """The most memory of the whole process, in bytes."""


def command(name: str, pair: Pair) -> list[str]:
    if name == OURS:
        words = ("combine", pair.expert, pair.anti_expert, "--output", pair.output, "--quiet")
        return [sys.executable, "-m", "extsub", *map(str, words)]
    code = COPY.format(library="safetensors.torch" if name == TORCH else "safetensors.numpy")
    files = [str(folder / SAFETENSORS) for folder in pair[1:]]
    return [sys.executable, "-c", code, *files]


def spent(name: str, pair: Pair) -> Spent:
    """Run a command once; what it wrote is taken away."""
    if name != OURS:
        pair.output.mkdir()
    taken = launched(name, command(name, pair))
    shutil.rmtree(pair.output)
    os.sync()
    return taken


def launched(name: str, command: list[str]) -> Spent:
    """Run any command once, from a small process."""
    run = subprocess.run([sys.executable, "-c", LAUNCH, *command], capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"{name} failed with exit code {run.returncode}: {run.stderr}")
    seconds, cpu_seconds, peak = run.stdout.split()[-3:]
    return Spent(float(seconds), float(cpu_seconds), int(peak) * (1 if sys.platform == "darwin" else 1024))
