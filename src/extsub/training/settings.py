"""What can be set about a training run, with the authors' ``train_peft.sh`` as defaults. Knows nothing heavy."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from extsub.adapters.staging import check_writable
from extsub.data import check_fields
from extsub.errors import ExtSubError
from extsub.models import find_model
from extsub.rows import find_file

Kind = Literal["lora", "ia3", "prefix", "p-tuning", "prompt"]
PROMPT_LEARNING = ("prefix", "p-tuning", "prompt")
"""kinds whose virtual tokens stand before every sequence, so that sequences cannot share a row"""

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
"""settings that not every kind has"""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Everything that decides what an adapter becomes. The defaults are the authors' (``train_peft.sh``)."""

    model: str
    """The base model: a folder, or a hub id (owner/name or owner/name@revision)."""

    data: str
    """Instruction data: a .json, .jsonl, .csv or .parquet file, or a dataset of the hub."""

    output: Path
    """The folder to write."""

    kind: Kind = "lora"
    """What to train."""

    field: dict[str, str] | None = None
    """What the data calls our fields: instruction=question output=right_answer."""

    template: Literal["extsub", "chat", "none"] = "extsub"
    """The text around a prompt: the authors' <|user|>...<|assistant|>, the tokenizer's chat template, or none."""

    epochs: float = 2.0
    """How often every row is seen."""

    learning_rate: float = 2e-5
    """The highest; it falls linearly to 0."""

    warmup: float = 0.03
    """Part of the steps in which the learning rate rises."""

    weight_decay: float = 0.0
    """AdamW's."""

    batch_size: int = 128
    """Rows for one step of the optimizer, over all devices together."""

    micro_batch_size: int = 4
    """Rows that one device takes at once: changes memory and speed, not the result."""

    max_length: int = 1024
    """Tokens; what is longer loses its end."""

    packing: bool = False
    """Put several rows into one of max_length tokens (LoRA, IA3); batch_size then counts packed rows."""

    seed: int = 42
    """Of the first weights, the order of rows, and dropout."""

    rank: int = 16
    """LoRA's."""

    lora_alpha: float = 32
    """LoRA's scaling is lora_alpha / rank."""

    lora_dropout: float = 0.05
    """LoRA's."""

    target_modules: tuple[str, ...] | None = None
    """Modules to adapt (LoRA, IA3), or all-linear; PEFT's choice for the architecture unless given."""

    feedforward_modules: tuple[str, ...] | None = None
    """Those of the target modules whose input IA3 scales instead of their output."""

    virtual_tokens: int = 2
    """Of prefix, p-tuning and prompt."""

    encoder_size: int = 256
    """Width of the network that makes the virtual tokens of prefix (0: none) and p-tuning."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the base model: bfloat16 on a GPU that has it, else float32. The adapter is trained in float32."""

    quantize: Literal["4bit", "8bit"] | None = None
    """Load the base model in 4 or 8 bits (QLoRA; needs bitsandbytes)."""

    gradient_checkpointing: bool = False
    """Compute activations twice to keep fewer: less memory, slower."""

    checkpoint_steps: int = 50
    """Save what --resume needs after as many steps; the last two are kept."""

    report_to: tuple[str, ...] = ()
    """Where transformers should report too: tensorboard, wandb, ..."""

    def __post_init__(self) -> None:
        """Refuse what cannot be, before anything is read.

        Raises:
            ExtSubError: a setting is out of range, or belongs to another kind of adapter; data or model are not there,
                or the output cannot be made.
        """
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
        defaults = {one.name: one.default for one in fields(self)}
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
        return json.loads(json.dumps({**asdict(self), "output": str(self.output)}))


WHY_NOT = {
    "packing": "its virtual tokens would stand before the first of the packed rows only",
    "gradient_checkpointing": "a second forward pass would append to the prefix",
}


def option(name: str) -> str:
    """The command line's spelling."""
    return "--" + name.replace("_", "-")
