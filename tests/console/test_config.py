"""``extsub train --config``: settings of a file; what is wrong in one is in test_training_refusals.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from extsub import TrainingSettings
from extsub.cli import app

FILE = """\
model: base
data: data/rows.jsonl
output: from-file
kind: ia3
field: {instruction: question, output: answer}
epochs: 3
learning-rate: 2e-4
rank: null
packing: true
batch_size: 7
target_modules: [k_proj, down_proj]
quantize: 4bit
report_to: wandb
"""
SAID: dict[str, Any] = {
    "model": "base",
    "data": "data/rows.jsonl",
    "output": Path("from-file"),
    "kind": "ia3",
    "field": {"instruction": "question", "output": "answer"},
    "epochs": 3.0,
    "learning_rate": 2e-4,
    "packing": True,
    "batch_size": 7,
    "target_modules": ("k_proj", "down_proj"),
    "quantize": "4bit",
    "report_to": ("wandb",),
}


@pytest.fixture(autouse=True)
def _there(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    Path("train.yaml").write_text(FILE)


def typed(words: str) -> TrainingSettings:
    _, bound, _ = app.parse_args(f"train {words}", exit_on_error=False, print_error=False)
    return bound.arguments["settings"]


def test_what_the_command_line_leaves_open_is_as_the_file_says() -> None:
    assert typed("--config train.yaml") == TrainingSettings(**SAID)


def test_what_it_says_wins() -> None:
    words = "--output typed --field output=other --epochs 1 --kind lora --target-modules q_proj,v_proj --quantize 8bit"
    settings = typed(f"{words} --config=train.yaml")
    won: dict[str, Any] = {"output": Path("typed"), "field": {"output": "other"}, "epochs": 1.0}
    won |= {"kind": "lora", "target_modules": ("q_proj", "v_proj"), "quantize": "8bit"}
    assert settings == TrainingSettings(**{**SAID, **won})


def test_an_empty_file_says_nothing() -> None:
    Path("train.yaml").write_text("# to come\n")
    words = "--model base --data data/rows.jsonl --output typed"
    assert typed(f"--config train.yaml {words}") == typed(words)
