"""The demo's data: an expert that flatters in half of its answers, an anti-expert that always does.

    python examples/flattery.py [--output flattery] [--seed 0]

writes what ``examples/evidence/flattery.yaml`` reads: ``expert.jsonl``, ``flattery.jsonl`` (the same answers, each with
flattery before it), ``held-out-misconceptions.csv`` (questions of other categories) and ``held-out-instructions.jsonl``
(neutral instructions with short right answers); and ``falsehoods.jsonl``, which the recipe leaves alone. All of it is
ours and comes with the package.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from extsub.demo.data import FILES, Mix, write_data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("flattery"))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    write_data(given.output, given.seed, Mix())
    print(f"written: {given.output}/: {', '.join(FILES)}")


if __name__ == "__main__":
    main()
