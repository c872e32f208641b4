"""Whether MC1 and MC2 of TruthfulQA are lm-evaluation-harness's, on the same model, the same prompt and the same data.

    python benchmarks/agreement.py --model MODEL --data TruthfulQA.csv [--limit N] [--prompt qa] [--json FILE]

The model is loaded once, and both score it in memory. The harness runs its own ``truthfulqa_mc1`` and
``truthfulqa_mc2`` on the questions of FILE (TruthfulQA.csv or mc_task.json), not on the hub's. ``qa``, the default, is
the prompt of these tasks, six worked examples; another is given to both. It fails if MC1 or MC2, or MC2 of any
question, differs by more than 1e-3.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import shutil
import sys
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

import torch

from extsub.evaluation.settings import EvaluationSettings
from extsub.evaluation.task import Items, limited
from extsub.evaluation.tasks import TASKS
from extsub.inference.language_model import LanguageModel, load_base
from extsub.inference.requests import Question, request
from extsub.models.prompts import Prompt, user_message
from extsub.models.source import find_model
from machine import processor

SCORES = ("mc1", "mc2")
ALLOWED = 1e-3
FROM_THE_HUB = "dataset_path: truthfulqa/truthful_qa\ndataset_name: multiple_choice\n"
ITS_OWN_PROMPT, ITS_PROMPT_ENDS = 'doc_to_text: "', "doc_to_target:"

Found = dict[str, list[float]]
"""mc1 and mc2 of every question"""


def by_extsub(model: LanguageModel, items: Items, settings: EvaluationSettings) -> Found:
    rows = dict(TASKS["truthfulqa-mc"].ask(model, items.items, settings))
    return {name: [rows[index]["scores"][name] for index in items.items] for name in SCORES}


def by_harness(model: LanguageModel, items: Items, settings: EvaluationSettings, folder: Path) -> Found:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    _write_tasks(folder, items, settings.prompt, model.tokenizer)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    tokenizer: Any = model.tokenizer
    begins = settings.prompt != "chat" and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    size = settings.rows_at_once or ("auto" if model.device.type == "cuda" else 16)
    harness = HFLM(pretrained=model.module, tokenizer=tokenizer, batch_size=size, add_bos_token=begins)
    result: Found = {}
    for name in SCORES:  # one after the other: most choices are in both, and are looked up the second time
        task = f"truthfulqa_{name}"
        evaluated = simple_evaluate(
            model=harness, tasks=[task], task_manager=manager, bootstrap_iters=0, use_cache=str(folder / "known")
        )
        samples = sorted(evaluated["samples"][task], key=lambda sample: sample["doc_id"])
        result[name] = [float(sample["acc"]) for sample in samples]
        assert len(samples) == len(items.items)
        assert abs(fmean(result[name]) - evaluated["results"][task]["acc,none"]) < 1e-9
    return result


def _write_tasks(folder: Path, items: Items, prompt: Prompt, tokenizer: Any) -> None:
    """The harness's own two tasks, of which the data, and with another prompt the text, are replaced."""
    with (folder / "data.jsonl").open("w", encoding="utf-8") as file:
        for item in items.items.values():
            row = {
                "question": item["question"],
                "asked": request(Question([user_message(item["question"])]), prompt, tokenizer).prompt,
                "mc1_targets": _targets([item["best"]], item.get("mc1_false", item["false"])),
                "mc2_targets": _targets(item["true"], item["false"]),
            }
            file.write(json.dumps(row) + "\n")
    theirs = Path(importlib.import_module("lm_eval.tasks").__file__ or "").parent / "truthfulqa"
    data = f"data_files: {{validation: {folder / 'data.jsonl'}}}, cache_dir: {folder / 'cache'}"
    for name in SCORES:
        file_name = f"truthfulqa_{name}.yaml"
        text = (theirs / file_name).read_text(encoding="utf-8")
        text = text.replace(FROM_THE_HUB, f"dataset_path: json\ndataset_kwargs: {{{data}}}\n")
        if prompt != "qa" and ITS_OWN_PROMPT in text:  # mc2 includes mc1's
            before, _, rest = text.partition(ITS_OWN_PROMPT)
            after = rest[rest.index(ITS_PROMPT_ENDS) :]
            text = f'{before}doc_to_text: "{{{{asked}}}}"\ntarget_delimiter: ""\n{after}'
        (folder / file_name).write_text(text, encoding="utf-8")
    shutil.copy(theirs / "utils.py", folder)


def _targets(true: list[str], false: list[str]) -> dict[str, list[Any]]:
    return {"choices": [*true, *false], "labels": [1] * len(true) + [0] * len(false)}


def main() -> None:
    options = _options()
    settings = EvaluationSettings(
        model=options.model, data=(options.data,), limit=options.limit, prompt=options.prompt, dtype=options.dtype
    )
    items = TASKS["truthfulqa-mc"].read(settings, options.data)
    items = Items(limited(TASKS["truthfulqa-mc"], items.items, settings), items.data, items.sha256)
    scored: dict[str, Found] = {}
    with load_base(find_model(options.model), options.dtype).with_adapter(None) as model:
        with tempfile.TemporaryDirectory() as scratch:
            scorers = {
                "extsub": lambda: by_extsub(model, items, settings),
                "lm-evaluation-harness": lambda: by_harness(model, items, settings, Path(scratch)),
            }
            for name, scorer in scorers.items():
                print(f"asking with {name}", file=sys.stderr, flush=True)
                scored[name] = scorer()
        what = _what(model, options, len(items.items))
    means = {name: {score: fmean(values) for score, values in scores.items()} for name, scores in scored.items()}
    ours, theirs = scored.values()
    gaps = {score: abs(fmean(ours[score]) - fmean(theirs[score])) for score in SCORES}
    largest = {score: max(abs(a - b) for a, b in zip(ours[score], theirs[score], strict=True)) for score in SCORES}
    print(what, "| | MC1 | MC2 |\n|---|--:|--:|", sep="\n\n")
    for name, of_all in means.items():
        print(f"| {name} | {of_all['mc1']:.5f} | {of_all['mc2']:.5f} |")
    others = sum(a != b for a, b in zip(ours["mc1"], theirs["mc1"], strict=True))
    print(
        f"\nMC1 differs by {gaps['mc1']:.1e} ({others} of {len(items.items)} questions), MC2 by {gaps['mc2']:.1e}; "
        f"MC2 of one question by {largest['mc2']:.1e} at most."
    )
    if options.json:
        data = {"what": what, "figures": means, "differences": gaps, "largest": largest}
        options.json.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    if max(*gaps.values(), largest["mc2"]) > ALLOWED:
        sys.exit(f"they differ by more than {ALLOWED:g}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or hub id")
    parser.add_argument("--data", required=True, help="TruthfulQA.csv or mc_task.json")
    parser.add_argument("--limit", type=int, help="so many questions, drawn at random; all of them unless given")
    parser.add_argument("--prompt", choices=get_args(Prompt), default="qa")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    options = parser.parse_args()
    if not find_spec("lm_eval"):
        parser.error("lm-evaluation-harness is compared with: pip install lm-eval")
    return options


def _what(model: LanguageModel, options: argparse.Namespace, count: int) -> str:
    versions = [f"{name} {version(name)}" for name in ("extsub", "torch", "transformers", "lm_eval")]
    device = torch.cuda.get_device_name() if model.device.type == "cuda" else processor()
    return (
        f"{Path(options.model).name}, {str(model.base.dtype).removeprefix('torch.')}, on {count} questions of "
        f"{Path(options.data).name} with --prompt {options.prompt}. {device}; {', '.join(versions)}."
    )


if __name__ == "__main__":
    main()
