"""How much memory a run takes, and what somebody can try who has less."""

from __future__ import annotations

from typing import TYPE_CHECKING

from extsub.errors import ExtSubError
from extsub.training.settings import PROMPT_LEARNING

if TYPE_CHECKING:
    from extsub.training.plan import Plan

BYTES = {"4bit": 0.55, "8bit": 1.05}
"""Bytes of a parameter of a quantised base: its bits, and roughly its part of the scales."""
TOO_HIGH = 0.8
"""The part of the estimate that is really taken, where the estimate of memory is too high."""
WITHIN, BESIDE = 12.5, 4.0
"""Numbers that a layer keeps of each token, per hidden unit and per unit of the feed-forward."""
ADAPTED, DROPPED = 0.95, 1.65
"""The same per input and output of an adapted module, without and with dropout of its inputs."""
LOGIT = 11.0
"""Bytes that a logit of an answer token takes, with what the loss and its gradient make of it."""


def memory_of(plan: Plan) -> dict[str, int]:
    """An estimate in bytes for one device, without what libraries and CUDA take (some hundred megabytes).

    Measured as the growth of resident memory on a CPU, for Llamas of 512 to 576 hidden units with rows of 73 and
    446 tokens, adapters on two and on all modules, with and without dropout, and vocabularies of 400 and 32,000:
    the estimate was within a tenth in float32, and up to a fifth too high in bfloat16. Gradient checkpointing,
    virtual tokens and the bytes of a quantised base are not measured. Korthikanti et al. (2022, eq. 2) count 17
    numbers a hidden unit for GPT's plainer layers with a fused attention.
    """
    config, precision = plan.config.get_text_config(), plan.dtype.itemsize
    virtual = plan.settings.virtual_tokens if plan.settings.kind in PROMPT_LEARNING else 0
    tokens, layers = plan.micro_batch * (max(plan.order.lengths) + virtual), config.num_hidden_layers
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    layer = tokens * (precision * (WITHIN * config.hidden_size + BESIDE * inner) + _adapted(plan) / layers)
    if plan.settings.gradient_checkpointing:  # the inputs of all layers, and one layer with its gradients
        activations = tokens * config.hidden_size * precision * layers + 2 * layer
    else:
        activations = layers * layer
    answers = (sum(len(plan.rows.tokens[row]) - plan.rows.answers[row] for row in pack) for pack in plan.packs)
    parts = {
        "base model": int(plan.base * BYTES.get(plan.settings.quantize or "", precision)),
        "adapter, gradients, AdamW": plan.trainable * 4 * 4,
        "activations": int(activations),
        "logits": int(plan.micro_batch * max(answers) * config.vocab_size * LOGIT),
    }
    return {**parts, "together": sum(parts.values())}


def _adapted(plan: Plan) -> float:
    """Bytes that adapted modules keep of each token beside the base, in all layers; adapters compute in float32."""
    if plan.settings.kind in PROMPT_LEARNING:
        return 0.0
    is_lora = plan.settings.kind == "lora"
    size = plan.trainable / (plan.settings.rank if is_lora else 1)  # LoRA: inputs and outputs; IA3: either
    return 4 * size * (DROPPED if is_lora and plan.settings.lora_dropout else ADAPTED)


def to_save_memory(plan: Plan) -> str:
    """What somebody with too little memory can try."""
    settings, ways = plan.settings, []
    if plan.micro_batch > 1:
        ways.append(f"--micro-batch-size {plan.micro_batch // 2}")
    if settings.kind != "prefix" and not settings.gradient_checkpointing:
        ways.append("--gradient-checkpointing")
    ways.append(f"--max-length {max(plan.order.lengths) // 2}")
    if not settings.quantize:
        ways.append("--quantize 4bit")
    return f"try {', or '.join(ways)}"


def check_memory(plan: Plan) -> None:
    """Check, where there is no GPU, whether the memory that is free may do, swap included.

    Raises:
        ExtSubError: less is free than a run takes even where the estimate is too high (``TOO_HIGH``).
    """
    import psutil  # accelerate needs it too
    import torch

    if torch.accelerator.is_available():
        return
    needed, free = memory_of(plan)["together"], psutil.virtual_memory().available + psutil.swap_memory().free
    if TOO_HIGH * needed > free:
        raise ExtSubError(
            f"too little memory: about {needed / 1e9:.1f} GB are needed, and {free / 1e9:.1f} GB are free: "
            f"{to_save_memory(plan)}"
        )
