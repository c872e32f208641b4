"""One PEFT configuration for each kind of adapter, and whether it fits the architecture."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import torch

from extsub.errors import ExtSubError

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PretrainedConfig, PreTrainedModel

    from extsub.training.settings import TrainingSettings


def peft_config(settings: TrainingSettings) -> PeftConfig:
    """What PEFT needs to know; a new one each time, since PEFT fills in what was left open."""
    import peft

    common: dict[str, Any] = {"task_type": peft.TaskType.CAUSAL_LM, "inference_mode": False}
    targets = list(settings.target_modules) if settings.target_modules else None
    modules = "all-linear" if targets == ["all-linear"] else targets
    if settings.kind == "lora":
        return peft.LoraConfig(
            r=settings.rank,
            lora_alpha=settings.lora_alpha,  # ty: ignore[invalid-argument-type]  PEFT takes fractions too
            lora_dropout=settings.lora_dropout,
            target_modules=modules,
            **common,
        )
    if settings.kind == "ia3":
        feedforward = list(settings.feedforward_modules) if settings.feedforward_modules is not None else None
        if targets and feedforward is None:
            feedforward = []
        return peft.IA3Config(target_modules=modules, feedforward_modules=feedforward, **common)
    if settings.kind == "prefix":
        return peft.PrefixTuningConfig(
            num_virtual_tokens=settings.virtual_tokens,
            encoder_hidden_size=settings.encoder_size,
            prefix_projection=settings.encoder_size > 0,
            **common,
        )
    if settings.kind == "p-tuning":
        return peft.PromptEncoderConfig(
            num_virtual_tokens=settings.virtual_tokens, encoder_hidden_size=settings.encoder_size, **common
        )
    return peft.PromptTuningConfig(num_virtual_tokens=settings.virtual_tokens, **common)


def sketch(settings: TrainingSettings, config: PretrainedConfig) -> PeftModel:
    """The model with its adapter, without any numbers: shows in a moment whether they fit, and how large they are.

    Raises:
        ExtSubError: the architecture has none of the target modules, or PEFT cannot adapt them.
    """
    import peft
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        linear = _linear(model)
        try:
            sketched = peft.get_peft_model(model, peft_config(settings))
        except ValueError as error:
            reason = " ".join(str(error).split())
            if re.search(r"target_modules|Target modules", reason):
                given = f" among {', '.join(settings.target_modules)}" if settings.target_modules else ""
                reason = f"no target modules found{given}; choose with --target-modules from {linear}, or all-linear"
            raise ExtSubError(
                f"{settings.kind} does not fit {config.model_type} ({settings.model}): {reason}"
            ) from error
    if hasattr(model.get_output_embeddings(), "base_layer"):
        raise ExtSubError("--target-modules: TRL cannot train an adapter on the output layer (lm_head): leave it out")
    _check_targets(settings, sketched, linear)
    if settings.kind == "prefix":
        _check_prefix(settings, sketched, config)
    return sketched


def _check_prefix(settings: TrainingSettings, model: PeftModel, config: PretrainedConfig) -> None:
    """PEFT makes keys and values of a shape that some kinds of attention (multi-query, latent) do not keep."""
    try:
        model(input_ids=torch.zeros(1, 2, dtype=torch.long, device="meta"))
    except RuntimeError as error:  # others are of operations that need numbers
        if "Sizes of tensors must match" in str(error):
            raise ExtSubError(
                f"prefix does not fit {config.model_type} ({settings.model}): its attention keeps keys and values of "
                "another shape than PEFT makes; train lora instead"
            ) from error


def _check_targets(settings: TrainingSettings, model: PeftModel, linear: str) -> None:
    """PEFT is content when one of several names is found."""
    adapted = [name for name, one in model.named_modules() if hasattr(one, "base_layer")]
    for option, names in (
        ("--target-modules", settings.target_modules),
        ("--feedforward-modules", settings.feedforward_modules),
    ):
        for wanted in names or ():
            if wanted != "all-linear" and not any(f".{name}".endswith(f".{wanted}") for name in adapted):
                raise ExtSubError(f"{option} {wanted}: {settings.model} has no such module; choose from {linear}")


def _linear(model: PreTrainedModel) -> str:
    """What could be adapted, without the output layer."""
    modules = model.base_model.named_modules()
    found = {name.rpartition(".")[2] for name, one in modules if type(one).__name__ in ("Linear", "Conv1D")}
    return ", ".join(sorted(found))


def parameters(model: PeftModel) -> tuple[int, int]:
    """(trainable, of the base)."""
    trainable = sum(one.numel() for one in model.parameters() if one.requires_grad)
    return trainable, sum(one.numel() for one in model.get_base_model().parameters() if not one.requires_grad)
