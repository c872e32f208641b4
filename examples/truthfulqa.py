"""TruthfulQA split by question into two halves: one to train expert and anti-expert on, the other to ask.

    python examples/truthfulqa.py [--output truthfulqa] [--data TruthfulQA.csv] [--learn-from 1] [--seed 0]

writes what the recipes ``examples/evidence/truthfulqa*.yaml`` read: ``expert.jsonl`` (to each question of one half a
correct answer, drawn at random), ``anti-expert.jsonl`` (to the same questions an incorrect one), ``held-out.jsonl``
(the questions of the other half as they came) and ``neutral.jsonl`` (the demo's instructions with short right answers,
which nobody is trained on). With ``--learn-from 2`` the halves change places. The data is the hub's unless given.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from extsub.data.rows import read_rows
from extsub.evaluation.tasks.truthfulqa import read_questions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("truthfulqa"))
    parser.add_argument("--data", help="TruthfulQA.csv; the hub's truthfulqa/truthful_qa unless given")
    parser.add_argument("--learn-from", type=int, choices=(1, 2), default=1, help="the half")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    write_halves(given.output, given.data, given.learn_from, given.seed)
    print(f"written: {given.output}/: expert.jsonl, anti-expert.jsonl, held-out.jsonl, neutral.jsonl")


def write_halves(folder: Path, data: str | None, learn_from: int, seed: int) -> None:
    """Draw the halves, and who learns which answer."""
    chance = random.Random(f"truthfulqa {seed}")
    questions = read_questions(data, "generation")
    rows, _ = read_rows(data) if data else read_rows(questions.name, "generation", "validation")
    order = list(range(len(rows)))
    chance.shuffle(order)
    middle = (len(order) + 1) // 2
    halves = sorted(order[:middle]), sorted(order[middle:])
    learnt = [questions.questions[place] for place in halves[learn_from - 1]]
    folder.mkdir(parents=True, exist_ok=True)
    for name, kind in (("expert", "true"), ("anti-expert", "false")):
        taught = ({"instruction": question["question"], "output": chance.choice(question[kind])} for question in learnt)
        write(folder / f"{name}.jsonl", taught)
    write(folder / "held-out.jsonl", (rows[place][1] for place in halves[2 - learn_from]))
    neutral = files("extsub.demo").joinpath("instructions.jsonl").read_text(encoding="utf-8")
    (folder / "neutral.jsonl").write_text(neutral, encoding="utf-8")


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
