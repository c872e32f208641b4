"""Pairs of right and hallucinated answers from HaluEval's question answering, to train an expert and an anti-expert on.

    python examples/halueval.py [--output halueval] [--data qa_data.json] [--rows 400] [--seed 0]

writes what ``examples/evidence/halueval-to-truthfulqa.yaml`` reads: ``expert.jsonl`` (questions with the right answer),
``anti-expert.jsonl`` (the same questions with the hallucinated one), ``held-out.jsonl`` (as many other pairs as they
came) and ``right.jsonl`` (their right answers: whether what the expert learnt is kept). The data is the hub's unless
given.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

from extsub.data.rows import read_rows
from extsub.evaluation.tasks.halueval import HUB
from truthfulqa import write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("halueval"))
    parser.add_argument("--data", help="qa_data.json; the hub's pminervini/HaluEval unless given")
    parser.add_argument("--rows", type=int, default=400, help="questions to train on, and as many held out")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    write_pairs(given.output, given.data, given.rows, given.seed)
    print(f"written: {given.output}/: expert.jsonl, anti-expert.jsonl, held-out.jsonl, right.jsonl")


def write_pairs(folder: Path, data: str | None, rows: int, seed: int) -> None:
    """Draw the pairs: one half is learnt, the other stays as it came."""
    every, _ = read_rows(data) if data else read_rows(HUB, "qa", "data")
    drawn = [row for _, row in random.Random(f"halueval {seed}").sample(every, min(2 * rows, len(every)))]
    learnt, held_out = drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :]
    folder.mkdir(parents=True, exist_ok=True)
    for name, part, field in (
        ("expert", learnt, "right_answer"),
        ("anti-expert", learnt, "hallucinated_answer"),
        ("right", held_out, "right_answer"),
    ):
        write(folder / f"{name}.jsonl", ({"instruction": row["question"], "output": row[field]} for row in part))
    write(folder / "held-out.jsonl", held_out)


if __name__ == "__main__":
    main()
