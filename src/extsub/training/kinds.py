"""One PEFT configuration for each kind of adapter, and whether it fits the architecture."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from extsub.adapters.names import last_part
from extsub.errors import ExtSubError
from extsub.training.rehearsal import bare, failure, idle
from extsub.training.settings import PROMPT_LEARNING

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PretrainedConfig

    from extsub.training.settings import TrainingSettings

INSTEAD = "train lora instead"


def peft_config(settings: TrainingSettings) -> PeftConfig:
    """PEFT's configuration of an adapter to train; a new one each time, since PEFT fills in what was left open."""
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

    model = bare(config)
    try:
        with torch.device("meta"):
            sketched = peft.get_peft_model(model, peft_config(settings))
    except (ValueError, NotImplementedError) as error:
        raise _misfit(settings, config, _reason(error, settings, config)) from error
    _check_targets(settings, sketched, config)
    if settings.kind in PROMPT_LEARNING:
        _check_virtual_tokens(settings, sketched, config)
    _check_step(settings, sketched, config)
    return sketched


def _misfit(settings: TrainingSettings, config: PretrainedConfig, reason: str) -> ExtSubError:
    return ExtSubError(f"{settings.kind} does not fit {config.model_type} ({settings.model}): {reason}")


def _reason(error: Exception, settings: TrainingSettings, config: PretrainedConfig) -> str:
    """Why PEFT makes no adapter, and what to do about it."""
    said = " ".join(str(error).split())[:300]
    if settings.kind in PROMPT_LEARNING:
        missing = re.search(r"Please specify `(\w+)`", said)
        return f"{f'PEFT finds no {missing[1]} in its config' if missing else said}; {INSTEAD}"
    if "lora_dropout" in said:
        return "its experts are in one tensor, which PEFT adapts without dropout alone: pass --lora-dropout 0"
    if refused := re.search(r"Module '(\w+)' is incompatible", said):
        return f"PEFT cannot adapt {refused[1]} there; {_choice(settings, config)}"
    if re.search(r"target_modules|Target modules", said):
        if settings.target_modules:
            reason = f"no target modules found among {', '.join(settings.target_modules)}"
        else:
            reason = "PEFT does not know which modules to adapt there"
        return f"{reason}; {_choice(settings, config)}"
    return said


def _choice(settings: TrainingSettings, config: PretrainedConfig) -> str:
    """The modules that can be adapted with effect: it is tried."""
    model = bare(config)
    output = model.get_output_embeddings()
    layers = model.base_model.named_modules()
    names = sorted({last_part(name) for name, layer in layers if _is_linear(layer) and layer is not output})
    together = _adapted(settings, config, *names)
    if together is None:
        names = [name for name in names if _adapted(settings, config, name)]
        together = _adapted(settings, config, *names)
    if together is not None:
        without_effect = idle(together)
        names = [name for name in names if name not in without_effect]
    every = _adapted(settings, config, "all-linear")
    fits = every is not None and (not _special(every) or not failure(every, config))
    return f"choose with --target-modules from {', '.join(names)}{', or all-linear' if fits else ''}"


def _adapted(settings: TrainingSettings, config: PretrainedConfig, *targets: str) -> PeftModel | None:
    """The model with an adapter on these modules, where PEFT makes one."""
    import peft

    wanted = replace(settings, target_modules=targets, feedforward_modules=None)
    try:
        with torch.device("meta"):
            return peft.get_peft_model(bare(config), peft_config(wanted))
    except ValueError:
        return None


def _is_linear(layer: torch.nn.Module) -> bool:
    """Whether it is one, and not a router or the like that is a Linear with a way of its own."""
    return type(layer).__name__ in ("Linear", "Conv1D")


def _special(model: PeftModel) -> list[str]:
    """The last names of adapted layers that are more than linear ones."""
    adapted = {name: layer.base_layer for name, layer in model.named_modules() if hasattr(layer, "base_layer")}
    return sorted({last_part(name) for name, layer in adapted.items() if not _is_linear(layer)})


def _check_targets(settings: TrainingSettings, model: PeftModel, config: PretrainedConfig) -> None:
    """PEFT is content when one of several names is found."""
    adapted = [name for name, layer in model.named_modules() if hasattr(layer, "base_layer")]
    for option, names in (
        ("--target-modules", settings.target_modules),
        ("--feedforward-modules", settings.feedforward_modules),
    ):
        for wanted in names or ():
            if wanted != "all-linear" and not any(f".{name}".endswith(f".{wanted}") for name in adapted):
                choice = _choice(settings, config)
                raise ExtSubError(f"{option} {wanted}: {settings.model} has no such module; {choice}")


def _check_virtual_tokens(settings: TrainingSettings, model: PeftModel, config: PretrainedConfig) -> None:
    """PEFT hands over keys and values, or puts embeddings of the hidden size among what it takes for the model's."""
    if settings.kind == "prefix":
        if "past_key_values" not in inspect.signature(model.get_base_model().forward).parameters:
            raise _misfit(settings, config, f"it takes no keys and values from outside; {INSTEAD}")
        return
    embeddings = getattr(model, "word_embeddings", None)
    if embeddings is None or embeddings.weight.shape[-1] != model.active_peft_config.token_dim:
        raise _misfit(settings, config, f"its embeddings are not those that PEFT puts virtual tokens among; {INSTEAD}")


def _check_step(settings: TrainingSettings, model: PeftModel, config: PretrainedConfig) -> None:
    """PEFT makes adapters for attention that keeps plain keys and values, and for layers that give one tensor: others
    (multi-query or latent attention, states, routers) fail in the first step."""
    if failed := failure(model, config):
        said = " ".join(str(failed.error).split())[:200]
        if not failed.of_adapter:
            raise ExtSubError(f"{settings.model}: its layers do not fit each other as config.json has them: {said}")
        if settings.kind == "prefix":
            reason = f"its layers do not keep keys and values as PEFT makes them; {INSTEAD}"
        elif settings.kind in PROMPT_LEARNING:
            reason = f"it does not take embeddings in place of tokens; {INSTEAD}"
        else:
            cannot = f"PEFT cannot adapt {', '.join(_special(model))}" if _special(model) else said
            reason = f"{cannot}; {_choice(settings, config)}"
        raise _misfit(settings, config, reason) from failed.error
    named = set(settings.target_modules or ()) - {"all-linear"}
    if named and (without_effect := sorted(named & idle(model))):
        past = f"it goes past {', '.join(without_effect)}, so that an adapter there changes nothing"
        raise _misfit(settings, config, f"{past}; {_choice(settings, config)}")


def parameters(model: PeftModel) -> tuple[int, int]:
    """How many parameters a model has: (trainable, of the base)."""
    trainable = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return trainable, sum(weight.numel() for weight in model.get_base_model().parameters() if not weight.requires_grad)
