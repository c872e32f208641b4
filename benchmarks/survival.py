"""Does the gain survive? The result merged and quantised, and truncated to a smaller rank: docs/survival.md.

    python benchmarks/survival.py --model BASE --expert DIR --anti-expert DIR --truth held-out.jsonl \\
        --ability neutral.jsonl [--alpha 1] [--limit 100] [--form full Q4_0 int8] [--output survival]

Base, expert and ext-sub are merged into full models (``extsub merge``) and asked in full, with weights of 4 bits, and
as int8; ext-sub truncated to ranks 16, 8 and 4 is asked in full. Truth is mc2 of TruthfulQA, ability the perplexity of
the answers in a file. What is done is kept in the output: an interrupted run goes on. Every model renews the page.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from extsub import EvaluationSettings, combine, load_adapter, merge, save_adapter
from extsub.evaluation.evaluate import items_of
from extsub.evaluation.task import limited
from extsub.evaluation.tasks import TASKS
from extsub.inference.batching import free_memory
from extsub.inference.language_model import LanguageModel, load_base
from extsub.models.source import find_model
from machine import processor
from survival_page import write_page

TRUTH, ABILITY = "truthfulqa-mc", "perplexity"
RANKS = (16, 8, 4)
PAGE = Path(__file__).resolve().parents[1] / "docs" / "survival.md"


def as_it_is(_: torch.nn.Module) -> None:
    pass


def q4_0(module: torch.nn.Module) -> None:
    """What llama.cpp's Q4_0 keeps of the weights: 4 bits and a common scale for every 32 numbers of a row.

    The embeddings, which are the output layer too where both are tied, are Q8_0 (llama.cpp takes Q6_K, which gguf's
    Python cannot write). Norms and biases stay as they are.
    """
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    for layer in module.modules():
        if isinstance(layer, (torch.nn.Linear, torch.nn.Embedding)):
            is_word = layer.weight.shape[0] == module.config.get_text_config().vocab_size
            kind = GGMLQuantizationType.Q8_0 if is_word else GGMLQuantizationType.Q4_0
            weight = layer.weight.detach()
            kept = dequantize(quantize(weight.float().numpy(), kind), kind)
            weight.copy_(torch.from_numpy(kept))


def int8(module: torch.nn.Module) -> None:
    """Torch's dynamic quantisation on a CPU: weights have a scale for each row, activations one for each tensor."""
    from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is to move to torchao, which has no CPU kernel of its own for this
        quantize_dynamic(module, {torch.nn.Linear: per_channel_dynamic_qconfig}, inplace=True)


FORMS: Mapping[str, Callable[[Any], None]] = {"full": as_it_is, "Q4_0": q4_0, "int8": int8}


class Asked(NamedTuple):
    """A model and the form it is asked in."""

    model: str
    form: str

    @property
    def name(self) -> str:
        return f"{self.model}, {self.form}"


def main() -> None:
    options = _options()
    settings = EvaluationSettings(
        data=(f"{TRUTH}={options.truth}", f"{ABILITY}={options.ability}"),
        limit=options.limit,
        prompt=options.prompt,
    )
    options.output.mkdir(parents=True, exist_ok=True)
    adapters, errors = _adapters(options)
    wanted = [Asked(model, form) for model in ("expert", "ext-sub") for form in options.form]
    wanted += [Asked(model, "full") for model in errors]
    wanted += [Asked("base", form) for form in options.form]
    for model in dict.fromkeys(asked.model for asked in wanted):
        forms = [asked for asked in wanted if asked.model == model and not _path(options.output, asked).exists()]
        with tempfile.TemporaryDirectory(dir=options.output) as scratch:
            folder = Path(options.model)
            if forms and model in adapters:
                folder = Path(scratch) / "merged"
                merge(options.model, adapters[model], folder)
            for asked in forms:
                print(asked.name, file=sys.stderr, flush=True)
                dtype = "float32" if asked.form == "int8" else options.dtype  # torch quantises nothing else
                values = _scores(str(folder), FORMS[asked.form], replace(settings, dtype=dtype))
                _path(options.output, asked).write_text(json.dumps(values), encoding="utf-8")
        there = {asked.name: path for asked in wanted if (path := _path(options.output, asked)).exists()}
        scores = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in there.items()}
        write_page(options.page, scores, _what(options), errors)


def _path(output: Path, asked: Asked) -> Path:
    return output / f"{asked.name.replace(', ', '-').replace(' ', '-')}.json"


def _adapters(options: argparse.Namespace) -> tuple[dict[str, Path], dict[str, float]]:
    """(the adapters to merge, the relative error of each truncation)"""
    expert, anti = load_adapter(options.expert), load_adapter(options.anti_expert)
    adapters, errors = {"expert": Path(options.expert)}, {}
    for rank in (None, *RANKS):
        name = f"rank {rank}" if rank else "ext-sub"
        adapters[name] = options.output / "adapters" / name.replace(" ", "-")
        if not adapters[name].exists():
            save_adapter(combine(expert, anti, alpha=options.alpha, rank=rank), adapters[name])
        record = json.loads((adapters[name] / "extsub.json").read_text(encoding="utf-8"))
        if record["truncation"]:
            errors[name] = record["truncation"]["relative_error"]
    return adapters, errors


def _scores(folder: str, quantise: Callable[[Any], None], settings: EvaluationSettings) -> dict[str, list[Any]]:
    """mc2 of every question, and [negative log-likelihood, tokens] of every answer."""
    tasks = [TASKS[TRUTH], TASKS[ABILITY]]
    items = {name: known.items for name, known in items_of(tasks, settings).items()}
    base = load_base(find_model(folder), settings.dtype)
    quantise(base.model)
    model = LanguageModel(base.model, base.model, base.tokenizer)
    scores = {}
    for task, score in ((TASKS[TRUTH], "mc2"), (TASKS[ABILITY], "perplexity")):
        asked = limited(task, items[task.name], settings)
        rows = dict(task.ask(model, asked, settings))
        scores[score] = [rows[index]["scores"][score] for index in asked]
    del base, model
    free_memory()
    return scores


def _what(options: argparse.Namespace) -> str:
    return (
        f"{Path(options.model).name}, {options.dtype} (int8: beside float32); ext-sub at α {options.alpha:g}; at most "
        f"{options.limit} questions and {options.limit} neutral answers that no adapter was trained on. {processor()}; "
        f"torch {torch.__version__}."
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or hub id of the base")
    parser.add_argument("--expert", required=True, help="a LoRA")
    parser.add_argument("--anti-expert", required=True, help="a LoRA")
    parser.add_argument("--truth", required=True, help="questions for truthfulqa-mc, best held out")
    parser.add_argument("--ability", required=True, help="instruction data for perplexity, best held out")
    parser.add_argument("--alpha", type=float, default=1.0)
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--form", nargs="+", choices=tuple(FORMS), default=tuple(FORMS))
    parser.add_argument("--dtype", default="float32", help="of weights that are not int8, and of all arithmetic")
    parser.add_argument("--prompt", default="chat", help="as the adapters were trained")
    parser.add_argument("--output", type=Path, default=Path("survival"))
    parser.add_argument("--page", type=Path, default=PAGE)
    return parser.parse_args()


if __name__ == "__main__":
    main()
