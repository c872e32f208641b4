"""What PEFT's own model says to one text at a time, in float64: written apart from the package. And adapters to ask."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

import tiny_models
from extsub.inference.language_model import LanguageModel, load_base
from extsub.models.adapter_handle import find
from extsub.models.source import find_model

KINDS = ("lora", "ia3", "prefix", "p-tuning", "prompt")
MODELS = [
    *(f"llama-{kind}" for kind in ("base", *KINDS)),
    *("gpt2-base", "gpt2-prefix"),
    *(pytest.param(f"gpt2-{kind}", marks=pytest.mark.slow) for kind in KINDS if kind != "prefix"),
]
"""An architecture with an adapter or none, as ``evaluated_model_of`` takes them apart."""
VIRTUAL = 5


def adapter(base: Path, folder: Path, kind: str, seed: int = 1, noise: float = 0.3) -> Path:
    """An adapter of random weights for a base, in ``folder``; with ``noise`` 0 a LoRA that changes nothing."""
    common: dict[str, Any] = {"task_type": "CAUSAL_LM"}
    inputs = ["c_attn"] if "gpt2" in base.name else ["q_proj", "v_proj"]
    output = "mlp.c_proj" if "gpt2" in base.name else "down_proj"
    configs: dict[str, Any] = {
        "lora": lambda: peft.LoraConfig(r=3, target_modules=[*inputs, output], **common),
        "ia3": lambda: peft.IA3Config(target_modules=[*inputs, output], feedforward_modules=[output], **common),
        "prefix": lambda: peft.PrefixTuningConfig(num_virtual_tokens=VIRTUAL, **common),
        "p-tuning": lambda: peft.PromptEncoderConfig(num_virtual_tokens=VIRTUAL, encoder_hidden_size=16, **common),
        "prompt": lambda: peft.PromptTuningConfig(num_virtual_tokens=VIRTUAL, **common),
    }
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), configs[kind]())
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data += noise * torch.randn_like(weight)
        model.save_pretrained(folder)
    return folder


def rendered(question: str) -> str:
    """A question as the authors' script puts it."""
    return f"<|user|>\n{question}\n<|assistant|>\n"


@dataclass(frozen=True)
class EvaluatedModel:
    """A model with an adapter on it (or none), twice: ours, and PEFT's in memory of its own."""

    folder: Path
    model: LanguageModel
    module: Any
    """what PEFT or transformers made of the same files"""
    virtual: int = 0

    @property
    def tokenizer(self) -> Any:
        return self.model.tokenizer

    @property
    def is_base(self) -> bool:
        return not isinstance(self.module, peft.PeftModel)

    @property
    def longest(self) -> int:
        """tokens that the model has positions for"""
        config = self.module.config.to_dict()
        return config.get("max_position_embeddings", config.get("n_positions")) - self.virtual

    def with_tokenizer(self, tokenizer: Any) -> EvaluatedModel:
        return replace(self, model=replace(self.model, tokenizer=tokenizer))

    def logits(self, tokens: list[int]) -> Tensor:
        """(tokens, vocabulary) float64, after each token."""
        with torch.no_grad():
            ids = torch.tensor([tokens])
            output = self.module(input_ids=ids, attention_mask=torch.ones_like(ids))
        return output.logits[0, -len(tokens) :].double()

    def log_likelihood(self, tokens: list[int], start: int) -> float:
        """Of all tokens from ``start`` on."""
        each = self.logits(tokens).log_softmax(-1)
        return sum(float(each[place - 1, tokens[place]]) for place in range(start, len(tokens)))

    def encoded(self, prompt: str, answer: str, end: bool = False) -> tuple[list[int], int]:
        """(tokens of both together, the first that reaches into the answer)"""
        encoding = self.tokenizer(prompt + answer, return_offsets_mapping=True)
        tokens, offsets = encoding["input_ids"], encoding["offset_mapping"]
        start = next(place for place, (_, stop) in enumerate(offsets) if stop > len(prompt))
        return tokens + [self.tokenizer.eos_token_id] * end, start

    def plainly(self, prompt: str, answer: str, end: bool = False) -> tuple[float, int]:
        """(log-likelihood of the answer, tokens)"""
        tokens, start = self.encoded(prompt, answer, end)
        return self.log_likelihood(tokens, start), len(tokens) - start

    def greedy(self, tokens: list[int], most: int, ends: set[int]) -> tuple[list[int], bool]:
        """(the likeliest tokens, one after the other; whether one of ``ends`` came)"""
        new: list[int] = []
        while len(new) < most:
            token = int(self.logits(tokens + new)[-1].argmax())
            if token in ends:
                return new, True
            new.append(token)
        return new, False


@contextlib.contextmanager
def evaluated(base: Path, made: Path | None) -> Generator[EvaluatedModel]:
    """A base with an adapter that was made for it, or alone."""
    module: Any = AutoModelForCausalLM.from_pretrained(base)
    if made is not None:
        module = peft.PeftModel.from_pretrained(module, str(made))
    virtual = VIRTUAL if made and made.name in ("prefix", "p-tuning", "prompt") else 0
    loaded = load_base(find_model(str(base)), "float32")
    with loaded.with_adapter(find(str(made)) if made else None) as model:
        yield EvaluatedModel(base, model, module.eval(), virtual)


def evaluated_model_of(folder: Path, architecture: str, kind: str) -> contextlib.AbstractContextManager[EvaluatedModel]:
    """The small model of an architecture, alone (``base``) or with a random adapter of a kind."""
    base = folder / architecture
    if not base.exists():
        {"llama": tiny_models.llama, "gpt2": loud_gpt2}[architecture](base)
    return evaluated(base, None if kind == "base" else adapter(base, folder / f"{architecture}-{kind}" / kind, kind))


def loud_gpt2(folder: Path) -> None:
    """As it is made, every token is as likely as any other whatever it reads."""
    model = AutoModelForCausalLM.from_pretrained(tiny_models.gpt2(folder))
    for weight in model.parameters():
        if weight.dim() > 1:
            weight.data *= 8
    model.save_pretrained(folder)
