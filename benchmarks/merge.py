"""How long merging an adapter into its base takes, and how much memory: extsub beside PEFT, and beside a plain copy.

    python benchmarks/merge.py [--layers 5 13 29] [--runs 3] [--output FILE.md]

Whole commands, each a process of its own, in turns, so that a noisy machine disturbs all of them. Inputs are in the
page cache; every output is waited for until it is on the disk. Models are random, in bfloat16.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from commands import Spent, launched
from machine import apart, machine
from made_up import Shape, all_linear, make_adapter

HIDDEN, INTERMEDIATE, KEY_VALUE, VOCABULARY = 2048, 5632, 512, 32_000
SHAPE = Shape("TinyLlama-shaped all r16", 22, all_linear(HIDDEN, INTERMEDIATE, KEY_VALUE), 16)
COPY, PEFT, OURS = "copy the same bytes", "PEFT merge_and_unload", "extsub merge"
CODE = {
    COPY: """
import os, shutil, sys
base, _, output = sys.argv[1:]
os.mkdir(output)
for name in os.listdir(base):
    shutil.copyfile(os.path.join(base, name), os.path.join(output, name))
""",
    PEFT: """
import sys, torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
base, adapter, output = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(output)
""",
}
SYNC = """
import os
for name in os.listdir(output):
    handle = os.open(os.path.join(output, name), os.O_RDWR)
    os.fsync(handle)
    os.close(handle)
"""
"""extsub waits for the disk by itself."""

NOTES = """\
Medians over rounds in which all take turns; × copy within a round. *Peak memory*: of the whole process. The largest
tensor has 131 MB. extsub verifies sampled rows and hashes the adapter; PEFT does neither. *Difference*: the largest
between the two results, in units of the last place of bfloat16."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[5, 13, 29])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/merge.md"))
    arguments = parser.parse_args()
    rows = []
    for layers in arguments.layers:
        with tempfile.TemporaryDirectory() as folder:
            rows += _rounds(replace(SHAPE, layers=layers), Path(folder), arguments.runs)
    lines = [_machine(), "", "| parameters | | time | processor | × copy | peak memory | difference |"]
    lines += ["|--:|---|--:|--:|--:|--:|--:|"]
    text = "\n".join([*lines, *map(_markdown, rows), "", NOTES, ""])
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(text, encoding="utf-8")
    arguments.output.with_suffix(".json").write_text(json.dumps({"machine": _machine(), "rows": rows}, indent=1) + "\n")
    print(text, end="")


def _rounds(shape: Shape, folder: Path, runs: int) -> list[dict[str, Any]]:
    """One row for each contender; the first round fills the page cache and does not count."""
    parameters = apart(_make_base, shape, folder / "base")
    apart(make_adapter, shape, folder / "adapter", 1)
    os.sync()
    spent: dict[str, list[Spent]] = {COPY: [], PEFT: [], OURS: []}
    for run in range(runs + 1):
        for name, taken in spent.items():
            output = folder / name.replace(" ", "-")
            shutil.rmtree(output, ignore_errors=True)
            taken.append(_spent(name, folder, output))
            print(f"{shape.layers} layers, {name}, run {run}: {taken[-1].seconds:.2f} s", file=sys.stderr, flush=True)
    difference = apart(_difference, *(folder / name.replace(" ", "-") for name in (PEFT, OURS)))
    copies = [run.seconds for run in spent[COPY][1:]]
    return [
        {
            "parameters": parameters,
            "name": name,
            "seconds": [run.seconds for run in taken[1:]],
            "cpu_seconds": [run.cpu_seconds for run in taken[1:]],
            "ratios": [run.seconds / copy for run, copy in zip(taken[1:], copies, strict=True)],
            "peak": [run.peak for run in taken[1:]],
            "difference": difference if name == OURS else None,
        }
        for name, taken in spent.items()
    ]


def _spent(name: str, folder: Path, output: Path) -> Spent:
    files = [str(folder / "base"), str(folder / "adapter"), str(output)]
    if name == OURS:
        command = [sys.executable, "-m", "extsub", "merge", *files[:2], "--output", files[2], "--quiet"]
    else:
        command = [sys.executable, "-c", CODE[name] + SYNC, *files]
    taken = launched(name, command)
    os.sync()
    return taken


def _make_base(shape: Shape, folder: Path) -> int:
    """A random Llama with a head of its own, in one file. Returns the number of its parameters."""
    sizes = {"model.embed_tokens": (VOCABULARY, HIDDEN), "lm_head": (VOCABULARY, HIDDEN), "model.norm": (HIDDEN,)}
    for layer in range(shape.layers):
        norms = dict.fromkeys(("input_layernorm", "post_attention_layernorm"), (HIDDEN,))
        sizes |= {f"model.layers.{layer}.{name}": size for name, size in (shape.linears | norms).items()}
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f"{name}.weight": (torch.randn(size, generator=generator) / 50).bfloat16() for name, size in sizes.items()
    }
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": HIDDEN // 128,
        "num_key_value_heads": KEY_VALUE // 128,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return sum(tensor.numel() for tensor in tensors.values())


def _difference(first: Path, second: Path) -> float:
    """The largest between two models, in units of the last place."""
    largest = 0.0
    with safe_open(first / "model.safetensors", "pt") as theirs, safe_open(second / "model.safetensors", "pt") as ours:
        for key in theirs.keys():  # noqa: SIM118  not a mapping
            a, b = theirs.get_tensor(key).double(), ours.get_tensor(key).double()
            unit = torch.maximum(a.abs(), b.abs()).clamp(min=1e-30).log2().floor().exp2() * 2**-7
            largest = max(largest, float(((a - b).abs() / unit).max()))
    return largest


def _markdown(row: dict[str, Any]) -> str:
    cells = [
        f"{row['parameters'] / 1e6:,.0f} M",
        row["name"],
        f"{median(row['seconds']):,.2f} s",
        f"{median(row['cpu_seconds']):,.2f} s",
        f"{median(row['ratios']):,.2f}",
        f"{median(row['peak']) / 1e6:,.0f} MB",
        "" if row["difference"] is None else f"{row['difference']:g}",
    ]
    return f"| {' | '.join(cells)} |"


def _machine() -> str:
    threads = os.environ.get("OMP_NUM_THREADS", "as many as cores")
    return f"{machine('extsub', 'numpy', 'safetensors', 'torch', 'transformers', 'peft')}. Threads: {threads}."


if __name__ == "__main__":
    main()
