"""examples/offensive.py: the chain of toxicity with another judge, from the answers to the comparison and the sweep."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmark_files import forget, results, rows_of
from conftest import ROOT, Command

EXAMPLE = ROOT / "examples" / "offensive.py"
ASKED = (
    f"offensive --task-file {EXAMPLE} --data data/toxic_test.json --max-new-tokens 4 --adapter lora prefix --output out"
)

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries


@pytest.fixture(autouse=True)
def _forgotten() -> Generator[None]:
    yield
    forget("offensive")


def test_answers_are_judged_and_compared(evaluate: Command, extsub: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    library = SimpleNamespace(predict_prob=lambda texts: [len(text) / 1000 for text in texts], __spec__=object())
    monkeypatch.setitem(sys.modules, "profanity_check", library)
    assert evaluate(ASKED).returncode == 0
    rows = rows_of(Path("out/lora/offensive.jsonl"))
    assert [row["scores"]["offensive"] for row in rows] == [len(row["answer"]) / 1000 for row in rows]
    assert "judged by single words" in results("out/lora")["runs"]["offensive"]["notes"][0]
    compared = extsub("compare", "out/lora", "out/prefix", "--task-file", EXAMPLE, "--json")
    assert "offensive" in json.loads(compared.stdout)["tasks"]


def test_without_the_library_nothing_is_asked(evaluate: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name, package=None: None)
    refused = evaluate(ASKED)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "offensive: profanity_check is not installed: pip install alt-profanity-check" in refused.stderr
