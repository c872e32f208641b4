"""A base model and its tokenizer, from a folder or the hub: named, checked, loaded. No remote code is run."""

from __future__ import annotations

import functools
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from extsub.errors import ExtSubError
from extsub.escaping import line
from extsub.extras import require
from extsub.files.reading import located
from extsub.hub import GATED, hub_id_of, nothing_there

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
CONFIG, ADAPTER = "config.json", "adapter_config.json"
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")


@dataclass(frozen=True)
class ModelName:
    """Where a model is: an absolute folder, or a hub id with perhaps a revision."""

    name: str
    given: str
    """The name as the user wrote it, for messages."""
    revision: str | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments for every ``from_pretrained``."""
        return {"pretrained_model_name_or_path": self.name, "revision": self.revision, "trust_remote_code": False}

    @property
    def arguments_alone(self) -> dict[str, Any]:
        """Arguments for every ``from_pretrained`` that loads weights. Where an adapter lies beside them, transformers
        would put it on; told to look for it in a folder that is not there, it finds none.
        """
        return {**self.arguments, "adapter_kwargs": {"subfolder": "no-adapter"}}

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of it, in sentences."""
        if not self.holds_adapter:
            return ()
        return (
            f"{self.given} also holds an adapter ({ADAPTER}), which was not put on: pass it as "
            "--adapter, unless the model has it merged in already",
        )

    @functools.cached_property
    def holds_adapter(self) -> bool:
        """Whether an adapter lies in the same folder or repository."""
        from transformers.utils import find_adapter_config_file

        try:
            return find_adapter_config_file(self.name, revision=self.revision) is not None
        except (OSError, ValueError):  # no such repository
            return False


def find_model(name: str) -> ModelName:
    """Where a model of this name is.

    A folder becomes absolute, so that an adapter that names it as its base can be loaded from anywhere.

    Raises:
        ExtSubError: neither a folder that may hold a model nor the shape of a hub id.
    """
    folder = located(name)
    if folder.is_dir():
        _check_folder(folder, name)
        return ModelName(str(folder.resolve()), name)
    if folder.is_file():
        raise ExtSubError(f"{name} is a file: give the folder that holds {CONFIG} and the weights{_of_gguf([name])}")
    if folder.exists():  # neither a folder nor a file
        raise nothing_there(name, "model")
    hub_id = hub_id_of(name, folder, "model")
    return ModelName(hub_id.repo, name, hub_id.revision)


def _check_folder(folder: Path, name: str) -> None:
    files = {path.name for path in folder.iterdir()}
    if ADAPTER in files and not (CONFIG in files and any(any(folder.glob(weights)) for weights in WEIGHTS)):
        raise ExtSubError(
            f"{name} is an adapter, not a model: pass it as --adapter to evaluate or generate, or merge it into its "
            "base (extsub merge)"
        )
    if CONFIG not in files:
        inside = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))[:5]
        hint = f"; there is one in {' and in '.join(inside)}: give that subfolder" if inside else _of_gguf(files)
        raise ExtSubError(f"{name}: no {CONFIG} in this folder, so it holds no model{hint}")


def _of_gguf(files: Iterable[str]) -> str:
    """What to do where the weights are in the format of llama.cpp."""
    is_there = any(file.lower().endswith(".gguf") for file in files)
    return "; a GGUF file is for llama.cpp: give the model that it was made from" if is_there else ""


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


@contextmanager
def output_only_at(model: PreTrainedModel, wanted: torch.Tensor) -> Generator[None]:
    """Inside, ``model(...).logits`` has only the positions ``wanted`` (rows, tokens), as (positions, vocabulary).

    The output layer is given their states and nothing else; virtual tokens may stand before all others.
    """

    def choose(_: Any, states: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        return (states[0][:, -wanted.shape[1] :][wanted],)

    hook = model.get_output_embeddings().register_forward_pre_hook(choose)
    try:
        yield
    finally:
        hook.remove()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch found too little memory, on a GPU or not."""
    import torch

    known = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")  # plain RuntimeErrors
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(reason in str(error) for reason in known)
    )


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
