"""What the methods of reference cost at run time, beside the expert alone: icd, dexperts and prompt (docs/sweep.md).

    python benchmarks/references.py [--model BASE --expert EXPERT --anti-expert ANTI_EXPERT] [--rounds 5] [--json FILE]

Greedy answers to some prompts, one at a time and all together, and the scoring of choices, with the models in turn in
every round; CPU seconds of one thread, which other work on the machine disturbs little, the least over the rounds, and
their ratio to the expert's. Expert and Ext-Sub are two positions of the dial and cost the same: by how much they differ
is the error. Unless adapters are given, on a random Llama, made on the spot.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from transformers.utils import logging

from extsub import SweepSettings, load_adapter
from extsub.distributed import process_group
from extsub.evaluation.run import silent
from extsub.evaluation.tasks.truthfulqa import SYSTEM
from extsub.inference import generation
from extsub.inference.language_model import LanguageModel
from extsub.inference.requests import Question, choose, request
from extsub.models.prompts import user_message
from extsub.models.source import find_model
from extsub.sweeping.grid import SweepPoint
from extsub.sweeping.references import METHODS
from extsub.sweeping.runner import Runner
from machine import processor
from sweep import make

POINTS = (
    SweepPoint("expert"),
    SweepPoint("ext-sub", 1.0),
    SweepPoint("icd", 1.0),
    SweepPoint("dexperts", 1.0),
    SweepPoint("prompt"),
)
QUESTIONS = ("Who named the old river?", "What is said of the bridge?", "Where is the capital?", "Is the stone old?")
CHOICES = ("Nobody knows who did.", "It is said to be far.", "The river, in the old country.", "No, it never was.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder or hub id, with --expert and --anti-expert")
    parser.add_argument("--expert")
    parser.add_argument("--anti-expert")
    parser.add_argument("--prompt", choices=("extsub", "chat"), default="extsub")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    generation.ends_of = lambda *_: set()  # nobody ends early: all answers have the same number of tokens
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not given.model:
            make(folder, questions=1)
        names = [given.model or folder / "base", given.expert or folder / "expert"]
        seconds = measured(*map(str, (*names, given.anti_expert or folder / "anti-expert")), folder / "swept", given)
    print(f"{processor()}; torch {torch.__version__}; CPU seconds; {given.rounds} rounds\n")
    print(f"{given.prompts} prompts, {given.new_tokens} new tokens each; x: against the expert\n")
    print("| | passes | one at a time | x | together | x | scoring | x |\n|---|--:|--:|--:|--:|--:|--:|--:|")
    for point in POINTS:
        method, cells = METHODS.get(point.operation), []
        for what, spent in seconds[point.label].items():
            cells.append(f"{spent:.2f} s | {spent / seconds['expert'][what]:.2f}")
        print(f"| {point.operation} | {method.passes if method else 1} | {' | '.join(cells)} |")
    if given.json:
        given.json.write_text(json.dumps(seconds, indent=2) + "\n")


def measured(
    model: str, expert: str, anti_expert: str, output: Path, given: argparse.Namespace
) -> dict[str, dict[str, float]]:
    """CPU seconds of each way to ask, at each point."""
    settings = SweepSettings(
        tasks="truthfulqa-mc", output=output, dtype="float32", references=tuple(METHODS), system=SYSTEM
    )
    adapters = [load_adapter(expert), load_adapter(anti_expert)]
    runner = Runner(find_model(model), {}, adapters, [], {}, settings, process_group(), silent)
    runner._ask_at(SweepPoint("expert"), [], lambda _: None)  # loads all
    spent: dict[str, dict[str, list[float]]] = {}
    for _ in range(given.rounds + 1):
        for point in POINTS:
            with runner._at(point) as asked:
                for what, ask in ways(asked, given).items():
                    begun = time.process_time()
                    ask()
                    spent.setdefault(point.label, {}).setdefault(what, []).append(time.process_time() - begun)
    # Without the first round, which warms up.
    return {label: {what: min(times[1:]) for what, times in each.items()} for label, each in spent.items()}


def ways(model: LanguageModel, given: argparse.Namespace) -> dict[str, Callable[[], object]]:
    asked = {n: [user_message(f"{QUESTIONS[n % len(QUESTIONS)]} ({n})")] for n in range(given.prompts)}
    choices = {n: Question(messages, CHOICES) for n, messages in asked.items()}
    prompts = {
        n: request(question, given.prompt, model.tokenizer, model.system).prompt for n, question in choices.items()
    }
    special = given.prompt != "chat"

    def answers(batch_size: int | None) -> None:
        more = {"max_new_tokens": given.new_tokens, "special_tokens": special, "batch_size": batch_size}
        list(generation.generate_answers(model, prompts, **more))

    return {
        "one at a time": lambda: answers(1),
        "together": lambda: answers(None),
        "scoring": lambda: list(choose(model, choices, given.prompt, None)),
    }


if __name__ == "__main__":
    main()
