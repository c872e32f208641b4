"""The demo on the real model, from the network or the cache: ten minutes on two quiet cores (make test-demo)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = (sys.executable, "-m", "extsub", "demo")


@pytest.mark.demo
def test_a_real_model_loses_its_flattery(tmp_path: Path) -> None:
    subprocess.run(DEMO, cwd=tmp_path, check=True)
    seed = json.loads((tmp_path / "demo" / "summary.json").read_text())["seeds"]["0"]
    flattery = seed["flattery"]
    expert, ours = flattery["models"]["expert"], flattery["beforehand"]["ext-sub"]
    assert flattery["models"]["base"]["probability"] < 0.01
    assert expert["probability"] > 0.1
    assert ours["probability"] < 0.8 * expert["probability"]
    assert ours["kept"] > 0.9
    assert seed["answers"]["flattered"] > 0
    made = {path: path.read_bytes() for path in (tmp_path / "demo" / "seed-0").rglob("*") if path.is_file()}
    again = subprocess.run(DEMO, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert all(path.read_bytes() == before for path, before in made.items()), "a finished demo only says what it found"
    assert "Flattery: how an answer to a held-out question opens" in again.stdout
