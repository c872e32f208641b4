"""What a run will be, known before any weight is loaded: data, steps, tokens, parameters, memory."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from extsub.data.instructions import Data, load_data
from extsub.errors import ExtSubError, counted
from extsub.extras import need
from extsub.models.base import choose_dtype, load_config, load_tokenizer, positions
from extsub.models.prompts import usual_template
from extsub.models.source import ModelName, find_model
from extsub.training.batches import pack
from extsub.training.encoding import ChunkProgress, EncodedExamples, encode
from extsub.training.kinds import parameters, sketch
from extsub.training.memory import memory_of
from extsub.training.sampler import LengthOrderedBatches
from extsub.training.settings import PROMPT_LEARNING, TrainingSettings
from extsub.training.trial import try_architecture

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

FEW_STEPS = 10


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
    packs: list[list[int]]
    """The numbers of the rows that are packed into one; each has its own without packing."""
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
            "memory_estimate": memory_of(self),
            "example": {"masked": masked, "loss_on": loss_on},
            "notes": list(self.notes),
        }


def plan_training(settings: TrainingSettings, progress: ChunkProgress | None = None) -> Plan:
    """Check everything that can be checked without weights: whether the adapter fits the model's architecture first.

    Raises:
        ExtSubError: the data, the model, the tokenizer, or how they fit, is at fault.
    """
    need("training", "train")
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
    packs = pack(rows.lengths, settings.max_length) if settings.packing else [[row] for row in range(len(rows.tokens))]
    steps = _steps(settings, len(packs))
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    micro_batch, accumulation = _share(settings, processes)
    lengths = [sum(len(rows.tokens[row]) for row in pack) for pack in packs]
    order = LengthOrderedBatches(lengths, settings.batch_size, micro_batch * processes, settings.seed)
    return Plan(
        settings=settings,
        model=model,
        config=config,
        tokenizer=tokenizer,
        data=data,
        rows=rows,
        packs=packs,
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
