"""A base model and its tokenizer, from a folder or the hub: checked and loaded. No remote code is run."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from extsub.errors import ExtSubError
from extsub.escaping import line
from extsub.extras import require
from extsub.hub import GATED
from extsub.models.source import ADAPTER, ModelName
from extsub.settings import Dtype

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def load_config(model: ModelName) -> PretrainedConfig:
    """The config of a model, which has its architecture and no weights.

    Raises:
        ExtSubError: it is not there, cannot be reached, needs code of its own, or is not a causal language model.
    """
    transformers = require("transformers", "train")
    with _told_from_adapter(model), explained(model.given):
        config = transformers.AutoConfig.from_pretrained(**model.arguments)
    if type(config) not in transformers.AutoModelForCausalLM._model_mapping:
        raise ExtSubError(f"{model.given}: {config.model_type} is not a causal language model")
    if type(config) in transformers.AutoModelForMaskedLM._model_mapping and not getattr(config, "is_decoder", True):
        raise ExtSubError(
            f"{model.given}: {config.model_type} sees both sides of a token: it is not a causal language model"
        )
    return config


def load_tokenizer(model: ModelName, config: PretrainedConfig) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with one of its own tokens for padding: nothing is added, so no vocabulary grows.

    Raises:
        ExtSubError: there is none, it is not a fast one, it has no end token, or it has more tokens than the model.
    """
    transformers = require("transformers", "train")
    with explained(model.given, "tokenizer"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(**model.arguments)
    if not tokenizer.is_fast:
        raise ExtSubError(f"{model.given}: no fast tokenizer (tokenizer.json): convert it with transformers")
    check_words(model, tokenizer)
    if tokenizer.eos_token_id is None:
        raise ExtSubError(f"{model.given}: the tokenizer names no end token (eos_token), so no answer could end")
    size = config.get_text_config().vocab_size
    if tokenizer.eos_token_id >= size:
        raise ExtSubError(
            f"{model.given}: the end token has id {tokenizer.eos_token_id}, and the model {size} tokens: "
            "the tokenizer belongs to another model"
        )
    # Which one hardly matters: padding is masked by position. Often [PAD] was added after the model was made.
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= size:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_words(model: ModelName, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer without words: transformers makes one for many architectures where its files are missing.

    Raises:
        ExtSubError: it knows special tokens alone.
    """
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        raise ExtSubError(f"{model.given}: the tokenizer could not be loaded: its files are missing (tokenizer.json)")


def load_model(model: ModelName, dtype: torch.dtype, quantize: str | None = None) -> PreTrainedModel:
    """The model with its weights: the whole of it on this process's device when quantised, otherwise on the CPU.

    Args:
        quantize: ``4bit`` (NF4, double quantisation, QLoRA's) or ``8bit``, by bitsandbytes.

    Raises:
        ExtSubError: the weights cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    arguments: dict[str, Any] = {"dtype": dtype}
    if quantize:
        require("bitsandbytes", "quantize")
        if quantize == "4bit":
            how = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=dtype,
                bnb_4bit_quant_storage=dtype,  # one dtype for all, or FSDP cannot shard it
            )
        else:
            how = BitsAndBytesConfig(load_in_8bit=True)
        arguments["quantization_config"] = how
        arguments["device_map"] = {"": torch.cuda.current_device() if torch.cuda.is_available() else "cpu"}
    try:
        with _told_from_adapter(model), explained(model.given, "weights"):
            return AutoModelForCausalLM.from_pretrained(**model.arguments_alone, **arguments)
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise ExtSubError(
            f"{model.given}: the weights have other shapes than config.json says: are both whole?"
        ) from error


def choose_dtype(name: Dtype) -> torch.dtype:
    """The dtype of this name; ``auto`` is bfloat16 on a GPU that has it, float32 elsewhere."""
    import torch

    if name != "auto":
        return getattr(torch, name)
    return torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float32


def quickest_dtype() -> Dtype:
    """The dtype in which this machine scores fastest: bfloat16 where its GPU or processor multiplies it, else float32.

    A processor without such instructions was seen to multiply matrices 50 times as slowly in bfloat16 as in float32.
    """
    import torch

    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    known = getattr(torch.cpu, "get_capabilities", dict)()
    return "bfloat16" if known.get("avx512_bf16") or known.get("amx_bf16") else "float32"


def positions(config: PretrainedConfig) -> int | None:
    """The longest sequence that the model allows, in tokens; None where it has no limit."""
    known = config.get_text_config()
    return getattr(known, "max_position_embeddings", getattr(known, "max_seq_len", None))  # the latter is MPT's


@contextmanager
def _told_from_adapter(model: ModelName) -> Generator[None]:
    """What could not be loaded may be an adapter; of a repository that is known only when it fails."""
    try:
        yield
    except ExtSubError as error:
        if not model.holds_adapter:
            raise
        raise ExtSubError(
            f"{error}; an adapter is there ({ADAPTER}): pass it as --adapter if you mean it, or else move it away"
        ) from error


@contextmanager
def explained(name: str, what: str = "model") -> Generator[None]:
    """Turn errors of transformers and of the hub into one sentence each.

    Args:
        name: of the model, as the user wrote it.
        what: is loaded in this block.

    Raises:
        ExtSubError: in place of what transformers, safetensors and huggingface_hub raise.
    """
    from huggingface_hub import errors as hub
    from safetensors import SafetensorError

    try:
        yield
    except hub.GatedRepoError as error:
        raise ExtSubError(GATED.format(name=name)) from error
    except (OSError, ValueError, KeyError, SafetensorError, hub.HFValidationError) as error:
        text = " ".join(str(error).split())
        if "trust_remote_code" in text:
            text = "it needs code of its own, and extsub runs no remote code"
        raise ExtSubError(f"{name}: the {what} could not be loaded: {line(text[:300]).rstrip('.')}") from error
