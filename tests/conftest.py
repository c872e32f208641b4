"""Shared by all tests: reproducible Hypothesis, the folder of real data where there is one, a command runner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
from hypothesis import settings

os.environ["OMP_NUM_THREADS"] = "1"  # such small models gain nothing from two, and lose much on a busy machine
os.environ["HF_HUB_OFFLINE"] = "1"  # a test that asks the hub by accident fails at once; test_hub.py has its own

signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a script starts with it ignored

# torch's first call is slow, which Hypothesis would take for a slow example
settings.register_profile("extsub", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("extsub")

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"

Command = Callable[..., subprocess.CompletedProcess[str]]

LIBRARIES_WARN = [pytest.mark.filterwarnings(f"ignore::{kind}Warning") for kind in ("Future", "Deprecation", "User")]
"""Of what is theirs to mend; any other warning fails a test."""


@pytest.fixture(scope="session")
def data() -> Path:
    """Real adapters and configs; not part of the project."""
    if not DATA.is_dir():
        pytest.skip("the folder of real data is not here")
    return DATA


@pytest.fixture
def extsub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs the command line in ``tmp_path``, in this process: starting torch anew takes seconds."""
    from extsub.__main__ import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as exited:
            main([str(argument) for argument in arguments])
        output, errors = capfd.readouterr()
        assert isinstance(exited.value.code, int)
        return subprocess.CompletedProcess(arguments, exited.value.code, output, errors)

    return run


@pytest.fixture
def disk_of(tmp_path: Path) -> Generator[Callable[[str], Path]]:
    """Mounts a disk of a size (``64k``), in a folder called ``disk``; skips where that cannot be done."""
    folder = tmp_path / "disk"

    def mounted(size: str) -> Path:
        folder.mkdir()
        if sys.platform != "linux" or os.geteuid():
            pytest.skip("only root can mount a disk")
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("no disk can be mounted here")
        return folder

    yield mounted
    if folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What evaluations need, made once: a base model with adapters, a classifier, data."""
    import benchmark_files

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return benchmark_files.everything(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="session")
def experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and for each of two kinds an expert and two anti-experts."""
    import reference
    import tiny_models

    folder = tmp_path_factory.mktemp("experts")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = tiny_models.llama(folder / "base", max_position_embeddings=512)
        for number, name in enumerate(("expert", "anti", "other"), start=1):
            reference.adapter(base, folder / name, "lora", seed=number)
            reference.adapter(base, folder / f"prefix-{name}", "prefix", seed=number)
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Path:
    """A folder where all that lies."""
    for path in made.iterdir():
        (tmp_path / path.name).symlink_to(path)
    return tmp_path


@pytest.fixture
def pair(here: Path, extsub: Command) -> Path:
    """The same with an expert and an anti-expert, and the current folder."""
    import reference

    for seed, name in ((5, "expert"), (6, "anti-expert")):
        reference.adapter((here / "base").resolve(), here / name, "lora", seed)
    return here


@pytest.fixture
def evaluate(here: Path, extsub: Command) -> Command:
    """Runs ``extsub evaluate`` on words, where everything that was made is at hand."""
    return lambda words: extsub("evaluate", *words.split())


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in a folder, by its path there."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def start(folder: Path, *python: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a Python of its own in ``folder``."""
    command, variables = [sys.executable, *python], {**os.environ, **environment}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False, env=variables)
