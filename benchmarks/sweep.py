"""How long a sweep takes, beside combining to disk, loading the model again and evaluating, for each position.

    python benchmarks/sweep.py [--alphas 0.25:2.25:0.25] [--questions 200] [--processes 3] [--json FILE]

On a random Llama of the demo's size with two LoRA adapters and made-up questions; nothing is downloaded. *One process*
does for every position what the authors' scripts do, without starting Python anew: write the combined adapter, load the
base model and the adapter, evaluate with the same scorer and the same batches. *Processes* starts `extsub combine` and
`extsub evaluate` for each, as one would by hand; only some positions are measured, and the time is multiplied.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import peft
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

from extsub import EvaluationSettings, SweepSettings, combine, evaluate, load_adapter, save_adapter, sweep
from extsub.sweeping.grid import parse_alphas
from machine import processor

OPERATIONS = ("ext-sub", "subtract", "contrast", "amplify")
WORDS = "the capital of a far country is said to be where no river ever met its old stone bridge".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alphas", default="0.25:2.25:0.25")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--processes", type=int, default=3, help="positions that are measured with processes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, given.questions)
        positions = [(operation, alpha) for operation in OPERATIONS for alpha in parse_alphas(given.alphas)]
        seconds, asked = swept(folder, given.alphas)
        times = {
            "extsub sweep": seconds,
            "one process": reloaded(folder, positions),
            "processes": by_hand(folder, positions[:: max(1, len(positions) // given.processes)], len(positions)),
        }
    print(f"{processor()}; torch {torch.__version__}")
    print(f"\n{len(positions)} positions and {given.questions} questions, {given.threads} thread(s)\n")
    print("| | seconds | x |\n|---|--:|--:|")
    for name, seconds in times.items():
        print(f"| {name} | {seconds:.1f} | {seconds / times['extsub sweep']:.2f} |")
    each = {name: spent / (asked if name == "extsub sweep" else len(positions)) for name, spent in times.items()}
    print(f"\nThe sweep asked {asked}: base, expert, anti-expert and what ext-sub must be compared with, too.")
    print("Seconds a position: " + ", ".join(f"{name} {spent:.2f}" for name, spent in each.items()))
    print(f"\n{at_7b(len(positions))}")
    if given.json:
        given.json.write_text(
            json.dumps({"positions": len(positions), "asked": asked, "seconds": times}, indent=2) + "\n"
        )


def at_7b(positions: int) -> str:
    """By arithmetic: bytes that are loaded for LLaMA-7B in half precision, adapters of rank 16 on q and v."""
    base, pair = 6.74e9 * 2, 2 * 4096 * 16 * 2 * 32 * 2  # weights; both factors of q and v in 32 layers
    ours, theirs = base + 2 * pair, positions * (base + 2 * pair)
    turned = 2 * 4096 * 2 * 16 * 32 * 2  # B of both adapters side by side is all that a turn writes
    return (
        f"At 7B, by arithmetic: {theirs / 1e9:,.0f} GB loaded for {positions} positions one by one, "
        f"{ours / 1e9:.1f} GB with one load, and {turned / 1e6:.0f} MB written at each turn of the dial."
    )


def make(folder: Path, questions: int) -> None:
    """A base model, two adapters and questions."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        [" ".join(WORDS)],
        trainers.BpeTrainer(vocab_size=1150, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet),
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")
    tokenizer.save_pretrained(folder / "base")
    config = LlamaConfig(
        vocab_size=1150, hidden_size=128, intermediate_size=1024, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=256, initializer_range=0.07, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    for name in ("expert", "anti-expert"):
        base = AutoModelForCausalLM.from_pretrained(folder / "base")
        lora = peft.LoraConfig(r=8, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
        peft.get_peft_model(base, lora).save_pretrained(folder / name)
    chance = random.Random(0)
    with (folder / "TruthfulQA.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["Question", "Best Answer", "Correct Answers", "Incorrect Answers"])
        for number in range(questions):
            said = [f"{' '.join(chance.choices(WORDS, k=8))} {number}{place}" for place in range(6)]
            table.writerow([f"{said[0]}?", said[1], said[1], "; ".join(said[2:])])


def swept(folder: Path, alphas: str) -> tuple[float, int]:
    settings = SweepSettings(
        tasks=("truthfulqa-mc",), data=(str(folder / "TruthfulQA.csv"),), output=folder / "swept",
        operations=OPERATIONS, alphas=alphas,
    )  # fmt: skip
    begun = time.perf_counter()
    record = sweep(str(folder / "expert"), [str(folder / "anti-expert")], settings)
    return time.perf_counter() - begun, len(record["positions"])


def reloaded(folder: Path, positions: list[tuple[str, float]]) -> float:
    begun = time.perf_counter()
    for number, (operation, alpha) in enumerate(positions):
        expert, anti_expert = (load_adapter(str(folder / name)) for name in ("expert", "anti-expert"))
        save_adapter(combine(expert, anti_expert, operation=operation, alpha=alpha), folder / f"combined-{number}")
        settings = EvaluationSettings(
            adapter=(str(folder / f"combined-{number}"),), data=(str(folder / "TruthfulQA.csv"),),
            output=folder / f"results-{number}",
        )  # fmt: skip
        evaluate(["truthfulqa-mc"], settings)
    return time.perf_counter() - begun


def by_hand(folder: Path, positions: list[tuple[str, float]], every: int) -> float:
    begun = time.perf_counter()
    for number, (operation, alpha) in enumerate(positions):
        run(
            folder, "combine", "expert", "anti-expert", "--operation", operation, f"--alpha={alpha}", "-o", f"c{number}"
        )
        data = ["--data", "TruthfulQA.csv"]
        run(folder, "evaluate", "truthfulqa-mc", *data, "--adapter", f"c{number}", "--output", f"r{number}")
    return (time.perf_counter() - begun) / len(positions) * every


def run(folder: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "extsub", *arguments], cwd=folder, check=True, capture_output=True)


if __name__ == "__main__":
    main()
