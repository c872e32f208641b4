"""One step of a model without any numbers (torch's meta device): who fails in it, and which layers it goes past."""

from __future__ import annotations

import copy
import re
import traceback
from typing import TYPE_CHECKING, NamedTuple

import torch

from extsub.adapters.names import last_part

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PretrainedConfig, PreTrainedModel


class Step(NamedTuple):
    """A way to try it. Which of them needs numbers to go on is not the same for all architectures."""

    mask: bool
    cache: bool


STEPS = (Step(mask=False, cache=True), Step(mask=True, cache=False))


class Failure(NamedTuple):
    """Why a step fails."""

    error: Exception
    of_adapter: bool
    """Raised to go on with the model alone."""


def bare(config: PretrainedConfig, attention: str | None = "eager") -> PreTrainedModel:
    """The model alone, as it goes farthest without numbers: experts in bfloat16, masks that need not be looked at."""
    from transformers import AutoModelForCausalLM

    own = copy.deepcopy(config)  # which attention is taken is written there
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(own, dtype=torch.bfloat16, attn_implementation=attention)


def failure(model: PeftModel, config: PretrainedConfig) -> Failure | None:
    """Why a step of the model with its adapter fails; None where it does not, or cannot be known without numbers."""
    error: Exception | None = None
    for step in STEPS:
        error = _attempt(model, step)
        if error is None:
            return None
        if _needs_numbers(error):
            continue
        with model.disable_adapter():
            alone = _attempt(model, step)
        if alone is None or _place(alone) != _place(error):
            return Failure(error, of_adapter=True)
    assert error is not None
    if _needs_numbers(error):
        return None
    other = _attempt(bare(config, None), STEPS[0])  # the attention that is taken for training may be content
    return Failure(error, of_adapter=False) if other is not None and not _needs_numbers(other) else None


def idle(model: PeftModel) -> set[str]:
    """The last names of adapted layers that the model goes past, as far as that is known without numbers. Mamba takes
    the weights of dt_proj, and not what the layer gives."""
    if all(_attempt(model, step, backward=True) for step in STEPS):
        return set()
    reached: dict[str, bool] = {}
    for name, layer in model.named_modules():
        if hasattr(layer, "base_layer"):
            last = last_part(name)
            reached[last] = reached.get(last, False) or any(weight.grad is not None for weight in layer.parameters())
    return {name for name, is_reached in reached.items() if not is_reached}


def _attempt(model: PeftModel | PreTrainedModel, step: Step, *, backward: bool = False) -> Exception | None:
    tokens = torch.zeros(1, 2, dtype=torch.long, device="meta")
    try:
        mask = torch.ones_like(tokens) if step.mask else None
        logits = model(input_ids=tokens, attention_mask=mask, use_cache=step.cache).logits
        if backward and logits.requires_grad:
            logits.sum().backward()
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        return error
    return None


def _place(error: Exception) -> tuple[type, str, int | None]:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return type(error), last.filename, last.lineno


def _needs_numbers(error: Exception) -> bool:
    """Whether a step failed for want of numbers, and not because shapes or kinds do not fit."""
    said = str(error)
    if isinstance(error, RuntimeError):
        return not re.search(r"[Ss]izes? of (the )?(tensor|expanded)|expanded size|broadcast a dimension", said)
    return "meta" in said
