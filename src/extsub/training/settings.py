"""What can be set about a training run, with the authors' ``train_peft.sh`` as defaults. Knows nothing heavy."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from extsub.errors import ExtSubError
from extsub.files.disk import check_writable
from extsub.list_options import COMMAS, PAIRS
from extsub.models.prompts import TemplateOption
from extsub.models.source import find_model
from extsub.settings import Dtype, accept_plain_values, json_values, option

Kind = Literal["lora", "ia3", "prefix", "p-tuning", "prompt"]
PEFT_TYPES: dict[Kind, str] = {
    "lora": "LORA",
    "ia3": "IA3",
    "prefix": "PREFIX_TUNING",
    "p-tuning": "P_TUNING",
    "prompt": "PROMPT_TUNING",
}
"""Our name of each kind, and PEFT's."""
PROMPT_LEARNING = ("prefix", "p-tuning", "prompt")
"""Kinds whose virtual tokens stand before every sequence, so that sequences cannot share a row."""

WHAT = Parameter(group=Group("Model and data", sort_key=1))
ADAPTER = Parameter(group=Group("Adapter", sort_key=2))
LEARNING = Parameter(group=Group("Learning", sort_key=3))
MEMORY = Parameter(group=Group("Memory and speed", sort_key=4))
RUN = Parameter(group=Group("Run", sort_key=5))

OWN: dict[str, tuple[Kind, ...]] = {
    "rank": ("lora",),
    "lora_alpha": ("lora",),
    "lora_dropout": ("lora",),
    "target_modules": ("lora", "ia3"),
    "feedforward_modules": ("ia3",),
    "virtual_tokens": PROMPT_LEARNING,
    "encoder_size": ("prefix", "p-tuning"),
    "packing": ("lora", "ia3"),
    "gradient_checkpointing": ("lora", "ia3", "p-tuning", "prompt"),
}
"""Settings that not every kind has, and the kinds that have them."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Everything that decides what an adapter becomes. The defaults are the authors' (``train_peft.sh``); only the
    template is the tokenizer's own where it has one."""

    model: Annotated[str, WHAT]
    """The base model: a folder, or a hub id (owner/name or owner/name@revision)."""

    data: Annotated[str, WHAT]
    """Instruction data: a .json, .jsonl, .csv or .parquet file, or a dataset of the hub."""

    output: Annotated[Path, WHAT]
    """The folder to write."""

    kind: Annotated[Kind, ADAPTER] = "lora"
    """What to train."""

    field: Annotated[dict[str, str] | None, WHAT, PAIRS] = None
    """What the data calls our fields: instruction=question output=right_answer."""

    template: Annotated[TemplateOption, WHAT] = "auto"
    """The text around a prompt: the tokenizer's chat template, the authors' <|user|>...<|assistant|> (extsub), or none;
    auto is chat where the tokenizer has such a template, else extsub."""

    epochs: Annotated[float, LEARNING] = 2.0
    """How often every row is seen."""

    learning_rate: Annotated[float, LEARNING] = 2e-5
    """The highest; it falls linearly to 0."""

    warmup: Annotated[float, LEARNING] = 0.03
    """Part of the steps in which the learning rate rises."""

    weight_decay: Annotated[float, LEARNING] = 0.0
    """AdamW's."""

    batch_size: Annotated[int, LEARNING] = 128
    """Rows for one step of the optimizer, over all devices together."""

    micro_batch_size: Annotated[int, MEMORY] = 4
    """Rows that one device takes at once: changes memory and speed, not the result."""

    max_length: Annotated[int, WHAT] = 1024
    """Tokens; what is longer loses its end."""

    packing: Annotated[bool, MEMORY] = False
    """Put several rows into one of max_length tokens (LoRA, IA3); batch_size then counts packed rows."""

    seed: Annotated[int, LEARNING] = 42
    """Of the first weights, the order of rows, and dropout."""

    rank: Annotated[int, ADAPTER] = 16
    """LoRA's."""

    lora_alpha: Annotated[float, ADAPTER] = 32
    """LoRA's scaling is lora_alpha / rank."""

    lora_dropout: Annotated[float, ADAPTER] = 0.05
    """LoRA's."""

    target_modules: Annotated[tuple[str, ...] | None, ADAPTER, COMMAS] = None
    """Modules to adapt (LoRA, IA3), or all-linear; PEFT's choice for the architecture unless given."""

    feedforward_modules: Annotated[tuple[str, ...] | None, ADAPTER, COMMAS] = None
    """Those of the target modules whose input IA3 scales instead of their output."""

    virtual_tokens: Annotated[int, ADAPTER] = 2
    """Of prefix, p-tuning and prompt."""

    encoder_size: Annotated[int, ADAPTER] = 256
    """Width of the network that makes the virtual tokens of prefix (0: none) and p-tuning."""

    dtype: Annotated[Dtype, MEMORY] = "auto"
    """Of the base model; auto is bfloat16 on a GPU that has it, else float32. Processors without instructions for
    bfloat16 only imitate it, many times slower. The adapter is trained in float32."""

    quantize: Annotated[Literal["4bit", "8bit"] | None, MEMORY] = None
    """Load the base model in 4 or 8 bits (QLoRA; needs bitsandbytes)."""

    gradient_checkpointing: Annotated[bool, MEMORY] = False
    """Compute activations twice to keep fewer: less memory, slower."""

    checkpoint_steps: Annotated[int, RUN] = 50
    """Save what --resume needs after as many steps; the last two are kept."""

    report_to: Annotated[tuple[str, ...], RUN, COMMAS] = ()
    """Where transformers should report too: tensorboard, wandb, ..."""

    def __post_init__(self) -> None:
        """Refuse what cannot be, before anything is read.

        Raises:
            ExtSubError: a setting is out of range, or belongs to another kind of adapter; data or model are not there,
                or the output cannot be made.
        """
        from extsub.data.instructions import check_fields  # in here, so that --help need not wait for it
        from extsub.data.rows import find_file

        accept_plain_values(self)
        for name, value, least in (
            ("batch_size", self.batch_size, 1),
            ("micro_batch_size", self.micro_batch_size, 1),
            ("max_length", self.max_length, 2),
            ("rank", self.rank, 1),
            ("virtual_tokens", self.virtual_tokens, 1),
            ("encoder_size", self.encoder_size, 1 if self.kind == "p-tuning" else 0),
            ("checkpoint_steps", self.checkpoint_steps, 1),
        ):
            if value < least:
                raise ExtSubError(f"{option(name)} {value}: expected at least {least}")
        for name, number in (("epochs", self.epochs), ("learning_rate", self.learning_rate)):
            if not 0 < number < math.inf:
                raise ExtSubError(f"{option(name)} {number}: expected a number above 0")
        for name, part in (("warmup", self.warmup), ("lora_dropout", self.lora_dropout)):
            if not 0 <= part < 1:
                raise ExtSubError(f"{option(name)} {part}: expected a part, from 0 to less than 1")
        if not 0 <= self.seed < 2**32:
            raise ExtSubError(f"--seed {self.seed}: expected 0 to 4294967295")
        if not 0 <= self.weight_decay < math.inf:
            raise ExtSubError(f"--weight-decay {self.weight_decay}: expected 0 or more")
        if not self.lora_alpha > 0:
            raise ExtSubError(f"--lora-alpha {self.lora_alpha}: expected a number above 0")
        if self.target_modules and "all-linear" in self.target_modules and len(self.target_modules) > 1:
            raise ExtSubError("--target-modules all-linear already means all of them: give it alone")
        defaults = {setting.name: setting.default for setting in fields(self)}
        for name, kinds in OWN.items():
            if self.kind not in kinds and getattr(self, name) != defaults[name]:
                reason = WHY_NOT.get(name, f"{self.kind} has no such setting")
                raise ExtSubError(f"{option(name)} is for {', '.join(kinds)}, not for {self.kind}: {reason}")
        check_fields(self.field)
        check_writable(self.output)
        find_file(self.data)
        find_model(self.model)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values: what a file gives back when it is read again."""
        return json_values(self)


WHY_NOT = {
    "packing": "its virtual tokens would stand before the first of the packed rows only",
    "gradient_checkpointing": "a second forward pass would append to the prefix",
}
