"""How fast likelihoods are scored: extsub beside lm-evaluation-harness and beside a loop without batches.

    python benchmarks/evaluation.py [--data FOLDER] [--rounds 3] [--json FILE]

The model is random and has a LoRA adapter; nothing is downloaded. FOLDER has truthfulqa_mc_task.json and
halueval_qa_sample.jsonl; without it the texts are made up, of similar lengths. All that is compared is measured in one
run, and the contenders take turns, so that a noisy machine disturbs all of them. It fails if they do not score alike.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from extsub.inference.encoding import Request
from extsub.inference.language_model import LanguageModel, load_base
from extsub.inference.requests import Question, request
from extsub.models.adapter_handle import find
from extsub.models.prompts import Prompt, user_message
from extsub.models.source import find_model
from machine import apart, processor
from scorers import HARNESS, LOOP, TRIED, Measured, Spent, Workload, by_extsub, measure

TRUTHFULQA, HALUEVAL = "truthfulqa_mc_task.json", "halueval_qa_sample.jsonl"
LENGTHS = {"question": (4, 18), "choice": (4, 16), "choices": (4, 13), "right": (1, 4), "wrong": (5, 17)}
"""in words, of made-up texts: about TruthfulQA's and HaluEval's"""
DOCUMENT, SUMMARY = 800, 60
"""in tokens, about"""
LORA = LoraConfig(
    task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules=["q_proj", "v_proj"], init_lora_weights=False
)
BATCH_SIZES = (1, 8, 64)

NOTES = """\
Medians of {rounds} rounds; *×* is the median of the ratios within a round, of {clock}. Timed is everything from texts
in memory to log-likelihoods, with {threads} thread(s). An item is a question with all its choices, or a pair.
lm-evaluation-harness was given the best of the batch sizes {tried}; it moves the newline at the end of a prompt to
the answers, so after the extsub template its log-likelihoods have one token more, on which MC1 and MC2 do not depend.
Memory (TruthfulQA, qa prompt): a fresh process's highest, beyond what it held once the model was loaded."""


class Texts:
    """Words as frequent as in the data, or as in a language."""

    def __init__(self, folder: Path | None) -> None:
        self._chance = random.Random(0)
        if folder:
            self._mc = json.loads((folder / TRUTHFULQA).read_text(encoding="utf-8"))
            self._pairs = list(map(json.loads, (folder / HALUEVAL).read_text(encoding="utf-8").splitlines()))
            self._words = " ".join(row["knowledge"] for row in self._pairs).split()
        else:
            syllables = [first + second for first in "bdfgklmnprst" for second in "aeiou"]
            lexicon = ["".join(self._chance.choices(syllables, k=self._chance.randint(1, 4))) for _ in range(20_000)]
            frequency = [1 / rank for rank in range(1, len(lexicon) + 1)]
            self._words = self._chance.choices(lexicon, frequency, k=100_000)
            self._mc = [self._made_up_choices() for _ in range(817)]
            names = {"question": "question", "right_answer": "right", "hallucinated_answer": "wrong"}
            self._pairs = [{name: self._text(*LENGTHS[of]) for name, of in names.items()} for _ in range(500)]

    def _text(self, least: int, most: int) -> str:
        return " ".join(self._chance.choices(self._words, k=self._chance.randint(least, most)))

    def _made_up_choices(self) -> dict[str, Any]:
        count = self._chance.randint(*LENGTHS["choices"])
        choices = {self._text(*LENGTHS["choice"]): int(number < count / 2) for number in range(count)}
        return {"question": self._text(*LENGTHS["question"]), "mc1_targets": {}, "mc2_targets": choices}

    @property
    def all(self) -> list[str]:
        """for the tokenizer to learn from"""
        asked = [" ".join([row["question"], *row["mc1_targets"], *row["mc2_targets"]]) for row in self._mc]
        preset = [_request("", [], "qa").prompt] * 100  # or made-up words would leave it in single letters
        return [*asked, *(" ".join(map(str, row.values())) for row in self._pairs), " ".join(self._words), *preset]

    def choices(self, prompt: Prompt, count: int) -> tuple[dict[int, Request], dict[int, list[bool]]]:
        """TruthfulQA's MC1 and MC2 choices; one that is in both is scored once."""
        rows = self._chance.sample(self._mc, min(count, len(self._mc)))
        both = [{**row["mc2_targets"], **row["mc1_targets"]} for row in rows]
        requests = [_request(row["question"], list(choices), prompt) for row, choices in zip(rows, both, strict=True)]
        return dict(enumerate(requests)), {
            n: [bool(label) for label in choices.values()] for n, choices in enumerate(both)
        }

    def pairs(self, count: int) -> tuple[dict[int, Request], dict[int, list[bool]]]:
        """HaluEval's right answer and its hallucinated one."""
        rows = self._chance.sample(self._pairs, min(count, len(self._pairs)))
        answers = ("right_answer", "hallucinated_answer")
        requests = [_request(row["question"], [row[name] for name in answers], "extsub") for row in rows]
        return dict(enumerate(requests)), {number: [True, False] for number in range(len(rows))}

    def summaries(self, count: int, tokenizer: Any) -> tuple[dict[int, Request], dict[int, list[bool]]]:
        """Long documents with two short texts each."""
        sample = " ".join(self._chance.choices(self._words, k=1000))
        rate = 1000 / len(tokenizer(sample)["input_ids"])
        document, summary = ((round(tokens * rate),) * 2 for tokens in (DOCUMENT, SUMMARY))
        requests = [
            _request(self._text(*document), [self._text(*summary) for _ in range(2)], "extsub") for _ in range(count)
        ]
        return dict(enumerate(requests)), {number: [True, False] for number in range(count)}


def _request(question: str, choices: list[str], prompt: Prompt) -> Request:
    return request(Question([user_message(question)], tuple(choices)), prompt, None)


def make(folder: Path, texts: list[str], options: argparse.Namespace) -> None:
    """Write a byte-level BPE tokenizer of the texts, a random Llama, and a random LoRA adapter."""
    bpe, alphabet = Tokenizer(models.BPE()), pre_tokenizers.ByteLevel.alphabet()
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    special = {"special_tokens": ["<s>", "</s>"], "initial_alphabet": alphabet, "show_progress": False}
    bpe.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=options.vocabulary, **special))
    transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>").save_pretrained(
        folder
    )
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.hidden,
        intermediate_size=round(options.hidden * 2.6875),  # Llama's
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // 64,
        max_position_embeddings=4096,
        initializer_range=options.hidden**-0.5,  # large enough for answers to differ
        bos_token_id=0,
        eos_token_id=1,
    )
    model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(folder)
    get_peft_model(model, LORA).save_pretrained(folder / "adapter")


def memory(folder: Path, requests: dict[int, Request], batch_size: int, options: argparse.Namespace) -> float:
    """MB that scoring takes beyond the model. Alone in a process."""
    torch.set_num_threads(options.threads)
    with _loaded(folder, options) as model:
        on_gpu = model.device.type == "cuda"
        before = torch.cuda.memory_allocated() if on_gpu else _resident("VmRSS")
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        by_extsub(batch_size, end_token=False)(model, requests)
        return ((torch.cuda.max_memory_allocated() if on_gpu else _resident("VmHWM")) - before) / 1e6


def _resident(name: str) -> int:
    """Bytes of this process, as Linux has them; getrusage would count the parent's too."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))


def _loaded(folder: Path, options: argparse.Namespace) -> Any:
    return load_base(find_model(str(folder)), options.dtype).with_adapter(find(str(folder / "adapter")))


def describe(work: Workload, measured: list[Measured], said: str, clock: str) -> tuple[str, dict[str, Any]]:
    """(lines of a table, the same as data)."""
    rows, count = [], len(work.requests)
    for timed in measured:
        times = [(getattr(a, clock), getattr(b, clock)) for a, b in zip(timed.rounds, measured[0].rounds, strict=True)]
        row = {"contender": timed.contender, "rounds": [spent._asdict() for spent in timed.rounds]}
        row |= {
            f"items_per_{name[:-1]}": count / median(getattr(x, name) for x in timed.rounds) for name in Spent._fields
        }
        rows.append(row | {"times_as_long": median(theirs / ours for theirs, ours in times)})
    lines = [
        f"| {work.name if row is rows[0] else ''} | {row['contender']} | {row['items_per_cpu_second']:.1f} | "
        f"{row['items_per_second']:.1f} | {row['times_as_long']:.2f} |"
        for row in rows
    ]
    texts = sum(len(request.continuations) for request in work.requests.values())
    data = {"name": work.name, "items": count, "texts": texts, "target": work.target, "check": said, "results": rows}
    return "\n".join(lines), data


def main() -> None:
    options = _options()
    texts = Texts(options.data)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make(folder, texts.all, options)
        with _loaded(folder, options) as model:
            options.clock = "cpu_seconds" if model.device.type == "cpu" and options.threads == 1 else "seconds"
            work = [
                Workload("TruthfulQA MC, qa prompt", HARNESS, 3.0, *texts.choices("qa", options.questions)),
                Workload("TruthfulQA MC, extsub prompt", HARNESS, 1.3, *texts.choices("extsub", options.questions)),
                Workload("HaluEval QA", LOOP, 4.0, *texts.pairs(options.pairs)),
                Workload("summaries", LOOP, 4.0, *texts.summaries(options.summaries, model.tokenizer)),
            ]
            what = _what(model, options)
            described = [describe(workload, *measure(model, workload, options), options.clock) for workload in work]
        asked, _ = texts.choices("qa", 4 * options.questions)  # more than a batch of the largest size
        grown = [
            {
                "batch_size": size,
                "items": count,
                "mb": apart(memory, folder, dict(list(asked.items())[:count]), size, options),
            }
            for size in BATCH_SIZES
            for count in (len(asked) // 2, len(asked))
        ]
    checks = [
        f"{data['name']}: {data['items']} items, {data['texts']} texts; {data['check']}." for _, data in described
    ]
    notes = NOTES.format(
        rounds=options.rounds, threads=options.threads, clock=options.clock.replace("_", " "), tried=TRIED
    )
    print(what, "| | | items per CPU second | items per second | × |\n|---|---|--:|--:|--:|", sep="\n\n")
    print("\n".join(lines for lines, _ in described), *checks, sep="\n", end="\n\n")
    print("| batch size | items | memory |\n|--:|--:|--:|")
    print(
        "\n".join(f"| {row['batch_size']} | {row['items']} | {row['mb']:.0f} MB |" for row in grown), notes, sep="\n\n"
    )
    if options.json:
        data = {"what": what, "workloads": [data for _, data in described], "memory": grown}
        options.json.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the two files")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    counts = {"rounds": 3, "threads": 1, "questions": 60, "pairs": 200, "summaries": 10}
    for name, default in {**counts, "hidden": 256, "layers": 4, "vocabulary": 8000}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--batch-size", type=int, help="extsub's; found automatically if not given")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="float32")
    options = parser.parse_args()
    if not find_spec("lm_eval"):
        parser.error("lm-evaluation-harness is compared with: pip install lm-eval")
    return options


def _what(model: LanguageModel, options: argparse.Namespace) -> str:
    versions = [f"{name} {version(name)}" for name in ("extsub", "torch", "transformers", "peft", "lm_eval")]
    device = torch.cuda.get_device_name() if model.device.type == "cuda" else f"{processor()}, {os.cpu_count()} cores"
    weights = sum(weight.numel() for weight in model.base.parameters())
    output = model.base.get_output_embeddings().weight.numel()
    data = "TruthfulQA's and HaluEval's questions" if options.data else "made-up texts of similar lengths"
    return (
        f"{device}; Python {platform.python_version()}, {', '.join(versions)}.\n\n"
        f"A random Llama of {weights / 1e6:.1f} M weights ({output / 1e6:.1f} M of them the output layer) with a LoRA "
        f"adapter of rank {LORA.r}, {str(model.base.dtype).removeprefix('torch.')}; {data}."
    )


if __name__ == "__main__":
    main()
