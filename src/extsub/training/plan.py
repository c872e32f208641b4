"""What a run will be, known before any weight is loaded: data, steps, tokens, parameters, memory."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from extsub.data.instructions import Data, load_data
from extsub.errors import ExtSubError, counted
from extsub.extras import require
from extsub.models.base import ModelName, choose_dtype, find_model, load_config, load_tokenizer, positions
from extsub.models.prompts import usual_template
from extsub.training.encoding import ChunkProgress, EncodedExamples, encode, to_dataset
from extsub.training.kinds import parameters, sketch
from extsub.training.sampler import LengthOrderedBatches
from extsub.training.settings import PROMPT_LEARNING, TrainingSettings
from extsub.training.trial import try_architecture

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

BYTES = {"4bit": 0.55, "8bit": 1.05}
"""Bytes of a parameter of a quantised base: its bits, and roughly its part of the scales."""
FEW_STEPS = 10
TOO_HIGH = 0.8
"""The part of the estimate that is really taken, where the estimate of memory is too high."""
WITHIN, BESIDE = 12.5, 4.0
"""Numbers that a layer keeps of each token, per hidden unit and per unit of the feed-forward."""
ADAPTED, DROPPED = 0.95, 1.65
"""The same per input and output of an adapted module, without and with dropout of its inputs."""


@dataclass(frozen=True)
class Plan:
    """A run that was prepared. ``to_dict`` has the figures; the rest is what the run itself needs."""

    settings: TrainingSettings
    """The settings, with the template that ``auto`` means for this tokenizer."""
    model: ModelName
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    data: Data
    rows: EncodedExamples
    order: LengthOrderedBatches
    dtype: torch.dtype
    processes: int
    micro_batch: int
    accumulation: int
    steps: int
    trainable: int
    base: int
    """Parameters of the base."""
    is_tried: bool
    """Whether a tiny model of the architecture was tried (``trial.py``)."""

    @property
    def tokens(self) -> int:
        """Tokens of one epoch, without padding."""
        return sum(self.rows.lengths)

    @property
    def loss_tokens(self) -> int:
        """Tokens of one epoch that the loss is taken on."""
        return self.tokens - sum(self.rows.answers)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about the data, in sentences."""
        notes, kept = [*self.model.notes, *self.data.notes, *self.rows.notes], self.settings.max_length
        if self.rows.truncated:
            notes.append(
                f"{counted(self.rows.truncated, 'row')} of over {kept} tokens: the end is cut off (--max-length)"
            )
        if self.rows.dropped:
            notes.append(f"left out, since the prompt alone fills {kept} tokens: {counted(self.rows.dropped, 'row')}")
        if self.micro_batch < self.settings.micro_batch_size and len(self.order.lengths) > self.micro_batch:
            notes.append(
                f"{counted(self.micro_batch, 'row')} at once on each device, so that {self.settings.batch_size} divide"
            )
        if not self.is_tried:
            apart = ", and packed rows apart" if self.settings.packing else ""
            notes.append(f"whether {self.config.model_type} reads tokens in order{apart} is tried once it is loaded")
        if self.steps < FEW_STEPS:
            steps = counted(self.steps, "step")
            notes.append(f"{steps} will teach little: lower --batch-size, or raise --epochs or --learning-rate")
        return tuple(notes)

    def example(self) -> tuple[str, str]:
        """(what is masked, what the loss is taken on) of the first row, as the model sees it."""
        row, start = self.rows.tokens[0], self.rows.answers[0]
        return str(self.tokenizer.decode(row[:start])), str(self.tokenizer.decode(row[start:]))

    def memory(self) -> dict[str, int]:
        """An estimate in bytes for one device, without what libraries and CUDA take (some hundred megabytes).

        Measured as the growth of resident memory on a CPU, for Llamas of 512 to 576 hidden units with rows of 73 and
        446 tokens, adapters on two and on all modules, with and without dropout: the estimate was within a tenth in
        float32, and up to a fifth too high in bfloat16. Gradient checkpointing, virtual tokens and the bytes of a
        quantised base are not measured. Korthikanti et al. (2022, eq. 2) count 17 numbers a hidden unit for GPT's
        plainer layers with a fused attention.
        """
        config, precision = self.config.get_text_config(), self.dtype.itemsize
        virtual = self.settings.virtual_tokens if self.settings.kind in PROMPT_LEARNING else 0
        tokens, layers = self.micro_batch * (max(self.order.lengths) + virtual), config.num_hidden_layers
        inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
        layer = tokens * (precision * (WITHIN * config.hidden_size + BESIDE * inner) + self._adapted() / layers)
        if self.settings.gradient_checkpointing:  # the inputs of all layers, and one layer with its gradients
            activations = tokens * config.hidden_size * precision * layers + 2 * layer
        else:
            activations = layers * layer
        parts = {
            "base model": int(self.base * BYTES.get(self.settings.quantize or "", precision)),
            "adapter, gradients, AdamW": self.trainable * 4 * 4,
            "activations": int(activations),
        }
        return {**parts, "together": sum(parts.values())}

    def _adapted(self) -> float:
        """Bytes that adapted modules keep of each token beside the base, in all layers; adapters compute in float32."""
        if self.settings.kind in PROMPT_LEARNING:
            return 0.0
        is_lora = self.settings.kind == "lora"
        size = self.trainable / (self.settings.rank if is_lora else 1)  # LoRA: inputs and outputs; IA3: either
        return 4 * size * (DROPPED if is_lora and self.settings.lora_dropout else ADAPTED)

    def to_save_memory(self) -> str:
        """What somebody with too little can try."""
        settings, ways = self.settings, []
        if self.micro_batch > 1:
            ways.append(f"--micro-batch-size {self.micro_batch // 2}")
        if settings.kind != "prefix" and not settings.gradient_checkpointing:
            ways.append("--gradient-checkpointing")
        ways.append(f"--max-length {max(self.order.lengths) // 2}")
        if not settings.quantize:
            ways.append("--quantize 4bit")
        return f"try {', or '.join(ways)}"

    def check_memory(self) -> None:
        """Where no GPU is: whether the memory that is free may do, swap included.

        Raises:
            ExtSubError: less is free than a run takes even where the estimate is too high (``TOO_HIGH``).
        """
        import psutil  # accelerate needs it too
        import torch

        if torch.accelerator.is_available():
            return
        needed, free = self.memory()["together"], psutil.virtual_memory().available + psutil.swap_memory().free
        if TOO_HIGH * needed > free:
            raise ExtSubError(
                f"too little memory: about {needed / 1e9:.1f} GB are needed, and {free / 1e9:.1f} GB are free: "
                f"{self.to_save_memory()}"
            )

    def to_dict(self) -> dict[str, Any]:
        """The figures, as JSON values."""
        masked, loss_on = self.example()
        return {
            "model": self.model.name,
            "kind": self.settings.kind,
            "template": self.settings.template,
            "data": {
                "name": self.data.name,
                "sha256": self.data.sha256,
                "rows": len(self.rows.tokens),
                "empty_answers": self.data.empty_answers,
                "duplicates": self.data.duplicates,
                "truncated": self.rows.truncated,
                "dropped": self.rows.dropped,
            },
            "steps": self.steps,
            "processes": self.processes,
            "micro_batch_size": self.micro_batch,
            "accumulation": self.accumulation,
            "packed_rows": len(self.order.lengths) if self.settings.packing else None,
            "tokens_per_epoch": self.tokens,
            "loss_tokens_per_epoch": self.loss_tokens,
            "padding": self.order.padded(self.micro_batch) / self.tokens - 1 if not self.settings.packing else 0.0,
            "longest": max(self.order.lengths),
            "trainable_parameters": self.trainable,
            "base_parameters": self.base,
            "dtype": str(self.dtype).removeprefix("torch."),
            "memory_estimate": self.memory(),
            "example": {"masked": masked, "loss_on": loss_on},
            "notes": list(self.notes),
        }


def plan_training(settings: TrainingSettings, progress: ChunkProgress | None = None) -> Plan:
    """Check everything that can be checked without weights: whether the adapter fits the model's architecture first.

    Raises:
        ExtSubError: the data, the model, the tokenizer, or how they fit, is at fault.
    """
    require("trl", "train")
    _check_reporting(settings)
    model = find_model(settings.model)
    config = load_config(model)
    sketched = sketch(settings, config)
    trainable, base = parameters(sketched)
    data = load_data(settings.data, settings.field)
    dtype = choose_dtype(settings.dtype)
    architecture: Any = sketched.get_base_model()
    is_tried = try_architecture(architecture, settings, dtype)
    tokenizer = load_tokenizer(model, config)
    template = usual_template(tokenizer) if settings.template == "auto" else settings.template
    settings = replace(settings, template=template)
    arguments: dict[str, Callable] = {"progress": progress} if progress else {}
    rows = encode(data.examples, tokenizer, template, settings.max_length, places=data.places, **arguments)
    _check_length(settings, config, rows)
    _check_vocabulary(settings, config, rows)
    lengths = rows.lengths
    if settings.packing:
        lengths = [len(row) for row in to_dataset(rows, settings.max_length)["input_ids"]]
    steps = _steps(settings, len(lengths))
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    micro_batch, accumulation = _share(settings, processes)
    order = LengthOrderedBatches(lengths, settings.batch_size, micro_batch * processes, settings.seed)
    return Plan(
        settings=settings,
        model=model,
        config=config,
        tokenizer=tokenizer,
        data=data,
        rows=rows,
        order=order,
        dtype=dtype,
        processes=processes,
        micro_batch=micro_batch,
        accumulation=accumulation,
        steps=steps,
        trainable=trainable,
        base=base,
        is_tried=is_tried,
    )


def _check_reporting(settings: TrainingSettings) -> None:
    from transformers.integrations import get_available_reporting_integrations

    installed = get_available_reporting_integrations()
    for name in settings.report_to:
        if name not in (*installed, "none"):
            raise ExtSubError(f"--report-to {name}: unknown or not installed; found {', '.join(installed) or 'none'}")


def _steps(settings: TrainingSettings, rows: int) -> int:
    in_epoch = -(-rows // settings.batch_size)
    steps = max(1, math.ceil(settings.epochs * in_epoch))
    if math.ceil(settings.warmup * steps) >= steps:
        raise ExtSubError(
            f"{rows:,} rows make {steps} step of {settings.batch_size}, and the warm-up takes it: nothing would be "
            "learnt; lower --batch-size, or pass --warmup 0"
        )
    return steps


def _share(settings: TrainingSettings, processes: int) -> tuple[int, int]:
    """(rows that a device takes at once, how often before a step), so that every step has ``batch_size`` rows."""
    rows, rest = divmod(settings.batch_size, processes)
    if rest or not rows:
        raise ExtSubError(
            f"--batch-size {settings.batch_size} cannot be shared by {processes} processes: use a multiple"
        )
    micro_batch = max(size for size in range(1, min(settings.micro_batch_size, rows) + 1) if rows % size == 0)
    return micro_batch, rows // micro_batch


def _check_length(settings: TrainingSettings, config: PretrainedConfig, rows: EncodedExamples) -> None:
    longest, allowed = max(rows.lengths), positions(config)
    virtual = settings.virtual_tokens if settings.kind in PROMPT_LEARNING else 0
    if allowed is not None and virtual >= allowed:
        raise ExtSubError(f"--virtual-tokens {virtual}: {settings.model} allows {allowed} tokens, these included")
    if allowed is not None and longest + virtual > allowed:
        extra = f" and {virtual} virtual tokens" if virtual else ""
        raise ExtSubError(
            f"{settings.data}: the longest row has {longest} tokens{extra}, and {settings.model} allows {allowed}: "
            f"pass --max-length {allowed - virtual} or less"
        )


def _check_vocabulary(settings: TrainingSettings, config: PretrainedConfig, rows: EncodedExamples) -> None:
    highest, size = max(map(max, rows.tokens)), config.get_text_config().vocab_size
    if highest >= size:
        raise ExtSubError(
            f"{settings.model}: the tokenizer makes token {highest} of {settings.data}, and the model has {size}: "
            "the tokenizer belongs to another model"
        )
