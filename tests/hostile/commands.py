"""The commands that are tried, each on tiny models that are made on the spot."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import benchmark_files
import reference
import tiny_models

OUT = "work"
"""the folder that every command writes into; all else is only read"""

RECIPE = """
model: base
output: work/out
training: {rank: 4, epochs: 1, batch_size: 8, learning_rate: 2e-3, max_length: 64, checkpoint_steps: 2}
expert: {data: good.jsonl}
anti_experts: {wrong: {data: bad.jsonl, learning_rate: 4e-3}}
sweep:
  tasks: [truthfulqa-mc, perplexity]
  data: [data, perplexity=data/rows.jsonl]
  operations: [ext-sub]
  alphas: "0.5,1"
  score: mc2
  budget: perplexity <= 2 * expert
result: {rank: 6}
"""


@dataclass(frozen=True)
class Command:
    """One command and how it is started again after it was stopped."""

    name: str
    words: str
    again: str = ""
    """what is added then"""
    needs: str | None = None
    """another command, whose output must be there"""
    old: str | None = None
    """a command whose output it replaces"""
    resumes: bool = True
    """whether it goes on from what was done"""

    @property
    def first(self) -> list[str]:
        """as it is started at first"""
        return self.words.split()

    @property
    def later(self) -> list[str]:
        """as it is started again"""
        return [*self.words.split(), *self.again.split()]


COMBINE = f"combine expert anti-expert -o {OUT}/out"
EVALUATE = (
    f"evaluate truthfulqa-mc halueval-qa toxicity --model base --adapter lora prefix --data data --output {OUT}/out"
)
SWEEP = f"sweep expert anti-expert --model base --tasks truthfulqa-mc perplexity --alphas 0.5,1 --output {OUT}/out"
TRAIN = f"train --model base --data good.jsonl --output {OUT}/out --batch-size 4 --epochs 1 --max-length 64"
COMMANDS = {
    command.name: command
    for command in (
        Command("combine", COMBINE, resumes=False),
        Command("combine strengths", f"{COMBINE} --alpha 0.5,1", resumes=False),
        Command("combine --overwrite", f"{COMBINE} --alpha 0.5 --overwrite", old="combine", resumes=False),
        Command("combine strengths --overwrite", f"{COMBINE} --alpha 1,2 --overwrite", old="combine strengths",
                resumes=False),
        Command("merge", f"merge base expert -o {OUT}/out --max-shard-size 50KB", resumes=False),
        Command("export", f"export gguf expert --base base --output {OUT}/out.gguf", resumes=False),
        Command("train", f"{TRAIN} --checkpoint-steps 2 --dtype float32", again="--resume"),
        Command("evaluate", f"{EVALUATE} --toxicity-model judge --max-new-tokens 6"),
        Command("generate", f"generate --model base --adapter lora --prompts prompts.jsonl --max-new-tokens 6 "
                f"--batch-size 2 --output {OUT}/out.jsonl"),
        Command("sweep", f"{SWEEP} --data data perplexity=data/rows.jsonl --operations ext-sub,subtract"),
        Command("run", "run recipe.yaml"),
        Command("report", f"report {OUT}/out", needs="sweep", resumes=False),
    )
}  # fmt: skip


def make(folder: Path) -> Path:
    """Models, adapters and data, made once."""
    benchmark_files.everything(folder)
    for seed, name in ((5, "expert"), (6, "anti-expert")):
        reference.adapter(folder / "base", folder / name, "lora", seed)
    rows = benchmark_files.rows_of(tiny_models.instructions(folder / "good.jsonl"))
    benchmark_files.lines(folder / "bad.jsonl", [{**row, "output": f"nobody knows {row['output']}"} for row in rows])
    benchmark_files.lines(folder / "prompts.jsonl", [{"number": number, **row} for number, row in enumerate(rows[:12])])
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


def place(made: Path, folder: Path, start: Path | None = None) -> Path:
    """A folder in which a command can run: links to all that it reads, and ``work`` as it is to find it."""
    folder.mkdir(parents=True)
    for path in made.iterdir():
        (folder / path.name).symlink_to(path)
    if start is not None:
        shutil.copytree(start, folder / OUT, symlinks=True)
    else:
        (folder / OUT).mkdir()
    return folder
