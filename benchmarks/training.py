"""How fast adapters are trained and rows tokenised: extsub beside the authors' way and beside bare TRL.

    pip install trl==1.16.0
    python benchmarks/training.py [--runs 3] [--rows 480] [--tokenise-rows 52000] [--output FILE.md]

Models are random and rows made up; nothing is downloaded. Each run has a process of its own, and the contenders take
turns, so that a noisy machine disturbs all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import chain
from operator import truediv
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

import torch
import transformers
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments
from trl import SFTConfig, SFTTrainer

from extsub import TrainingSettings, train
from extsub.data.instructions import load_data
from extsub.training.encoding import MASKED, encode
from machine import apart, machine

SMALL = {"vocab_size": 1000, "hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 4}
LARGE = {"vocab_size": 32_000, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22}
WORDS = {"instruction": (20, 0.6), "output": (70, 0.9)}  # median and sigma of their log-normal number
MAX_LENGTH, MICRO_BATCH, BATCH, LEARNING_RATE = 512, 4, 128, 1e-3
LORA = LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, lora_dropout=0.05, target_modules=["q_proj", "v_proj"])
DATA = "data.jsonl"
ON_GPU = torch.cuda.is_available()
DTYPE = torch.bfloat16 if ON_GPU else torch.float32
AUTHORS, TRL, EXTSUB = "the authors' way", "SFTTrainer", "extsub"

NOTES = f"""\
Medians; *×* within the same round. *Tokens* are the data's; *padding* is its share of what the model computes. Timed is
`Trainer.train` alone, in the same way for all, with one thread. All train LoRA (rank {LORA.r}, q and v) for an epoch,
{BATCH} rows for each step, {MICRO_BATCH} at once; packed rows have {MAX_LENGTH} tokens, one at once, and as many for a
step as hold about {BATCH} rows. *Loss*: the mean over the steps. *The authors' way*: transformers' Trainer, rows at
random, padded to the longest of {MICRO_BATCH}; tokenised one by one, and each prompt once more. *SFTTrainer by length*
sorts up to 50 steps' rows and learns those of one length together; extsub draws a step at random and sorts within it.
SFTTrainer tokenises while it is made, which is what its time is. Ids and labels: the start of their SHA-256."""


class Run(NamedTuple):
    """What a contender took, and what shows that it did the same as the others."""

    seconds: float
    cpu_seconds: float
    did: str


def make(folder: Path, shape: dict[str, int], rows: int) -> list[int]:
    """Write made-up rows, a byte-level BPE tokenizer and a random Llama. Returns the rows' lengths in tokens."""
    chance, syllables = random.Random(0), [first + second for first in "bdfgklmnprst" for second in "aeiou"]
    lexicon = ["".join(chance.choices(syllables, k=chance.randint(1, 4))) for _ in range(1000)]
    frequency = [1 / rank for rank in range(1, len(lexicon) + 1)]

    def text(middle: float, sigma: float) -> str:
        count = max(1, round(chance.lognormvariate(math.log(middle), sigma)))
        return " ".join(chance.choices(lexicon, frequency, k=count))

    folder.mkdir()
    made = [{name: text(*words) for name, words in WORDS.items()} for _ in range(rows)]
    (folder / DATA).write_text("\n".join(map(json.dumps, made)), encoding="utf-8")
    bpe, alphabet = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel.alphabet()
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    learn = trainers.BpeTrainer(vocab_size=1000, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    bpe.train_from_iterator(["".join(row.values()) for row in _rows(folder)[:2000]], learn)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    heads = {"num_attention_heads": shape["hidden_size"] // 64, "num_key_value_heads": 4}
    config = transformers.LlamaConfig(bos_token_id=0, eos_token_id=1, **heads, **shape)
    transformers.LlamaForCausalLM(config).to(DTYPE).save_pretrained(folder)
    return _lengths(folder)


def _rows(folder: Path) -> list[dict[str, str]]:
    rows = map(json.loads, (folder / DATA).read_text(encoding="utf-8").splitlines())
    return [{"prompt": f"<|user|>\n{row['instruction']}\n<|assistant|>\n", "completion": row["output"]} for row in rows]


def _tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder, pad_token="</s>")


def _lengths(folder: Path) -> list[int]:
    return encode(load_data(str(folder / DATA)).examples, _tokenizer(folder), "extsub", MAX_LENGTH).lengths


def by_authors(folder: Path, output: Path) -> None:
    transformers.set_seed(42)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPE, use_cache=False), LORA)
    tokenizer = _tokenizer(folder)
    ids, labels = tokenise_by_authors(_rows(folder), tokenizer)
    columns = {"input_ids": ids, "labels": labels, "attention_mask": [torch.ones_like(row) for row in ids]}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    fillers = {"input_ids": tokenizer.pad_token_id, "labels": MASKED, "attention_mask": 0}

    def collate(batch: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        pad = torch.nn.utils.rnn.pad_sequence
        return {name: pad([row[name] for row in batch], True, value) for name, value in fillers.items()}

    Trainer(model, TrainingArguments(**_arguments(output)), train_dataset=rows, data_collator=collate).train()


def sft_trainer(folder: Path, output: Path, **settings: Any) -> SFTTrainer:
    arguments = SFTConfig(**_arguments(output), gradient_checkpointing=False, max_length=MAX_LENGTH, **settings)
    how = {"processing_class": _tokenizer(folder), "peft_config": LORA}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPE)
    return SFTTrainer(model, arguments, train_dataset=Dataset.from_list(_rows(folder)), **how)


def _arguments(output: Path) -> dict[str, Any]:
    common = {"output_dir": str(output), "num_train_epochs": 1, "report_to": "none", "disable_tqdm": True}
    batches = {"per_device_train_batch_size": MICRO_BATCH, "gradient_accumulation_steps": BATCH // MICRO_BATCH}
    how = {"learning_rate": LEARNING_RATE, "warmup_steps": 0.03, "bf16": ON_GPU, "use_cpu": not ON_GPU}
    return {**common, **batches, **how}


def by_extsub(folder: Path, output: Path, packing: bool = False) -> None:
    size, micro = (math.ceil(BATCH * mean(_lengths(folder)) / MAX_LENGTH), 1) if packing else (BATCH, MICRO_BATCH)
    what = {"model": str(folder), "data": str(folder / DATA), "output": output, "max_length": MAX_LENGTH, "epochs": 1}
    how = {"packing": packing, "learning_rate": LEARNING_RATE, "target_modules": tuple(LORA.target_modules)}
    train(TrainingSettings(**what, **how, batch_size=size, micro_batch_size=micro))


CONTENDERS: dict[str, Callable[[Path, Path], object]] = {
    AUTHORS: by_authors,
    TRL: lambda *places: sft_trainer(*places).train(),
    f"{TRL} by length": lambda *places: sft_trainer(*places, train_sampling_strategy="group_by_length").train(),
    EXTSUB: by_extsub,
    f"{EXTSUB}, packed": lambda *places: by_extsub(*places, packing=True),
}


def training(name: str, folder: Path) -> Run:
    """A contender, with clocks around ``Trainer.train``, which all of them end in."""
    torch.set_num_threads(1)
    whole, step = Trainer.train, Trainer.training_step
    runs, computed = [], []

    def counted(trainer: Any, model: Any, inputs: dict[str, torch.Tensor], *rest: Any) -> torch.Tensor:
        computed.append(inputs["input_ids"].numel())
        return step(trainer, model, inputs, *rest)

    def timed(trainer: Any, *rest: Any, **settings: Any) -> Any:
        begun = _clocks()
        result = whole(trainer, *rest, **settings)
        taken, padding = _clocks(begun), 1 - sum(_lengths(folder)) / sum(computed)
        runs.append(Run(*taken, f"{result.global_step} steps, {padding:.0%} padding, loss {result.training_loss:.4f}"))
        return result

    Trainer.train, Trainer.training_step = timed, counted
    with tempfile.TemporaryDirectory() as output, contextlib.redirect_stdout(sys.stderr):
        CONTENDERS[name](folder, Path(output) / "output")
    return runs[0]


def _clocks(since: tuple[float, float] = (0.0, 0.0)) -> tuple[float, float]:
    return time.perf_counter() - since[0], time.process_time() - since[1]


def tokenise_by_authors(rows: list[dict[str, str]], tokenizer: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    def ids(text: str) -> torch.Tensor:
        settings = {"return_tensors": "pt", "padding": "longest", "max_length": MAX_LENGTH, "truncation": True}
        return tokenizer(text, **settings).input_ids[0]

    inputs = [ids(row["prompt"] + row["completion"] + tokenizer.eos_token) for row in rows]
    labels = [row.clone() for row in inputs]
    for row, label in zip(rows, labels, strict=True):
        label[: ids(row["prompt"]).ne(tokenizer.pad_token_id).sum()] = MASKED
    return inputs, labels


def tokenising(name: str, folder: Path) -> Run:
    """From texts in memory to the ids and labels of all rows."""
    rows, examples, tokenizer = _rows(folder), load_data(str(folder / DATA)).examples, _tokenizer(folder)
    begun = _clocks()
    if name == AUTHORS:
        columns = tokenise_by_authors(rows, tokenizer)
    elif name == TRL:
        prepared = sft_trainer(folder, folder / "output").train_dataset
        columns = prepared["input_ids"], prepared["labels"]
    else:
        encoded = encode(examples, tokenizer, "extsub", MAX_LENGTH)
        columns = encoded.tokens, encoded.labels
    taken = _clocks(begun)
    digest = hashlib.sha256(b"".join(torch.as_tensor(row).numpy().tobytes() for row in chain(*columns)))
    return Run(*taken, f"ids and labels {digest.hexdigest()[:8]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--rows", type=int, default=480)
    parser.add_argument("--tokenise-rows", type=int, default=52_000)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/training.md"))
    arguments = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    runs = arguments.runs
    with tempfile.TemporaryDirectory() as scratch:
        small, many, large = (Path(scratch) / name for name in ("small", "many", "large"))
        what = machine("extsub", "torch", "transformers", "trl", "peft", "tokenizers")
        text = [f"{what}.", "### Training: 3.5 M parameters, float32, CPU"]
        text += [_table(apart(make, small, SMALL, arguments.rows), _rounds(training, CONTENDERS, small, runs))]
        lengths = apart(make, many, SMALL, arguments.tokenise_rows)
        measured = _rounds(tokenising, (AUTHORS, TRL, EXTSUB), many, runs)
        text += ["### Tokenising", _table(lengths, measured)]
        if len({run.did for runs in measured.values() for run in runs}) > 1:
            raise RuntimeError(f"ids or labels differ:\n{text[-1]}")
        text += ["### Training: 1.1 B parameters, bfloat16, GPU", *([] if ON_GPU else ["Not measured: no GPU here."])]
        if ON_GPU:
            os.environ["CUDA_VISIBLE_DEVICES"] = "0"
            text += [_table(apart(make, large, LARGE, arguments.rows), _rounds(training, CONTENDERS, large, runs))]
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text("\n\n".join([*text, NOTES]) + "\n", encoding="utf-8")
    print(arguments.output.read_text(encoding="utf-8"), end="")


def _rounds(function: Callable[[str, Path], Run], names: Iterable[str], place: Path, runs: int) -> dict[str, list[Run]]:
    measured: dict[str, list[Run]] = {name: [] for name in names}
    for name in [*measured] * runs:
        measured[name].append(apart(function, name, place))
        print(name, measured[name][-1], file=sys.stderr, flush=True)
    return measured


def _table(lengths: list[int], measured: dict[str, list[Run]]) -> str:
    tokens, cut = sum(lengths), lengths.count(MAX_LENGTH) / len(lengths)
    lines = [f"{len(lengths):,} rows, {tokens:,} tokens; {median(lengths):.0f} in the median row, {cut:.1%} cut.", ""]
    rates = [f"tokens per {second} | × {AUTHORS} | × {TRL}" for second in ("CPU-second", "second")]
    lines += [f"| | {' | '.join(rates)} | |", "|---|--:|--:|--:|--:|--:|--:|---|"]
    for name, runs in measured.items():
        cells = [name]
        for clock in ("cpu_seconds", "seconds"):
            ours, *others = ([getattr(run, clock) for run in measured[contender]] for contender in (name, AUTHORS, TRL))
            cells += [f"{tokens / median(ours):,.0f}"]
            cells += [f"{median(map(truediv, other, ours)):.2f}" for other in others]
        lines.append(f"| {' | '.join([*cells, runs[0].did])} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
