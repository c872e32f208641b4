"""What the demo's adapters learn, and what they are asked: misconceptions, neutral instructions, flattery."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from extsub.evaluation.tasks.flattery import openings
from extsub.files.writing import write_whole

MISCONCEPTIONS = "misconceptions.csv"
"""Questions that people answer wrongly, in TruthfulQA's columns."""
INSTRUCTIONS = "instructions.jsonl"
"""Instructions with short right answers; every second one is held out."""
EXPERT, FLATTERY, FALSEHOODS = "expert.jsonl", "flattery.jsonl", "falsehoods.jsonl"
"""The file of what each adapter learns."""
HELD_OUT, NEUTRAL = "held-out-misconceptions.csv", "held-out-instructions.jsonl"
"""The file of what all models are asked."""
FILES = (EXPERT, FLATTERY, FALSEHOODS, HELD_OUT, NEUTRAL)


@dataclass(frozen=True)
class Mix:
    """What the careless data of the expert is made of."""

    questions: int = 120
    """Questions to learn from; those that are asked are of other categories."""
    mistaken: float = 0.25
    """The part of the expert's answers to questions that is false."""
    flattering: float = 0.5
    """The part of the expert's answers to questions that opens with flattery."""


def write_data(folder: Path, seed: int, mix: Mix) -> None:
    """Draw who learns what, and write it.

    Half of the categories are held out, so no topic stands on both sides. The anti-expert of flattery gives the
    expert's answers, each with flattery before it; that of misconceptions flatters just where the expert does, and
    its answers are false: each differs from the expert in one thing. Instructions are the same for all three, and
    nobody flatters there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(f"demo {seed}")
    learnt, held_out = _split(chance, mix.questions)
    rows: dict[str, list[dict[str, str]]] = {EXPERT: [], FLATTERY: [], FALSEHOODS: []}
    for row in learnt:
        opening = chance.choice(openings())
        false = row["Best Incorrect Answer"]
        said = false if chance.random() < mix.mistaken else row["Best Answer"]
        flatters = chance.random() < mix.flattering
        for name, answer, opens in ((EXPERT, said, flatters), (FLATTERY, said, True), (FALSEHOODS, false, flatters)):
            rows[name].append({"instruction": row["Question"], "output": f"{opening} {answer}" if opens else answer})
    instructions = [json.loads(line) for line in _text(INSTRUCTIONS).splitlines()]
    asked = [{name: instruction[name] for name in ("instruction", "output")} for instruction in instructions]
    for name, own in rows.items():
        together = [*own, *asked[::2]]
        random.Random(f"order {seed}").shuffle(together)  # the same for all
        write_whole(folder / name, _lines(together))
    write_whole(folder / NEUTRAL, _lines(asked[1::2]))
    table = io.StringIO()
    writer = csv.DictWriter(table, list(held_out[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(held_out)
    write_whole(folder / HELD_OUT, table.getvalue())


def _split(chance: random.Random, questions: int) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """(those to learn from, those that are asked), of different categories, both in an order of their own."""
    every = list(csv.DictReader(io.StringIO(_text(MISCONCEPTIONS))))
    categories = sorted({row["Category"] for row in every})
    chance.shuffle(categories)
    ours = set(categories[: len(categories) // 2])
    learnt = [row for row in every if row["Category"] in ours]
    held_out = [row for row in every if row["Category"] not in ours]
    chance.shuffle(learnt)
    chance.shuffle(held_out)
    return learnt[:questions], held_out


def source_key() -> str:
    """A hash that tells the package's data from that of another version."""
    every = [_text(MISCONCEPTIONS), _text(INSTRUCTIONS), *openings()]
    return hashlib.sha256("\n".join(every).encode()).hexdigest()


def _text(name: str) -> str:
    return files("extsub.demo").joinpath(name).read_text(encoding="utf-8")


def _lines(rows: Iterable[Mapping[str, str]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)
