"""A base model in memory, alone or with one adapter on it: what every evaluation asks."""

from __future__ import annotations

import contextlib
import inspect
import json
import warnings
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from extsub.adapters.adapter import Source
from extsub.adapters.base import normalised
from extsub.adapters.source import find_adapter
from extsub.errors import ExtSubError, require
from extsub.models import ModelName, choose_dtype, find_model, load_config, load_model, load_tokenizer, positions

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from extsub.models import Dtype

KINDS = ("LORA", "ADALORA", "IA3", "PREFIX_TUNING", "P_TUNING", "PROMPT_TUNING")


@dataclass(frozen=True)
class LanguageModel:
    """What answers. ``module`` is called for everything; ``base`` is the model inside it, with LoRA and IA3 in its
    layers but without virtual tokens."""

    module: Any
    base: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    virtual_tokens: int = 0
    """that an adapter puts in front of everything"""

    @property
    def device(self) -> torch.device:
        return self.base.device

    @property
    def is_soft_prompt(self) -> bool:
        """Virtual tokens among the embeddings, which stand in front of padding on the left."""
        return self.virtual_tokens > 0 and self.module.active_peft_config.peft_type.value != "PREFIX_TUNING"

    @property
    def longest(self) -> int | None:
        """The longest sequence, in tokens, virtual ones apart; None without a limit."""
        limit = positions(self.base.config)
        return None if limit is None else limit - self.virtual_tokens

    @property
    def shares_contexts(self) -> bool:
        """Whether what was read can be continued in several ways: plain keys and values, and positions of our own."""
        from transformers.cache_utils import DynamicCache, DynamicLayer

        known = inspect.signature(type(self.base).forward).parameters
        if not {"position_ids", "past_key_values", "attention_mask"} <= known.keys():
            return False
        layers = DynamicCache(config=self.base.config).layers
        return all(type(layer) is DynamicLayer for layer in layers)


@dataclass(frozen=True)
class Base:
    """A base model that adapters can be put on, one after the other."""

    name: ModelName
    config: PreTrainedConfig
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @contextlib.contextmanager
    def with_adapter(
        self, adapter: AdapterName | None, reference: AdapterName | None = None
    ) -> Generator[LanguageModel]:
        """The base with an adapter on it (or none), until the block ends.

        Args:
            reference: a second adapter of the same kind, to be switched to (``switched_to``).

        Raises:
            ExtSubError: the adapter does not fit the base.
        """
        if adapter is None:
            yield LanguageModel(self.model, self.model, self.tokenizer)
            return
        module = _put_on(self.model, adapter)
        if reference is not None:
            _put_beside(module, reference, adapter)
        module.eval()
        config = module.active_peft_config
        virtual = config.num_virtual_tokens if config.is_prompt_learning else 0
        try:
            yield LanguageModel(module, module.get_base_model(), self.tokenizer, virtual)
        finally:
            if not config.is_prompt_learning:
                module.unload()
            if hasattr(self.model, "peft_config"):
                del self.model.peft_config


@dataclass(frozen=True)
class AdapterName:
    """Where an adapter is and what its config says of itself."""

    source: Source
    kind: str
    base: str | None
    revision: str | None
    template: str | None
    """it was trained with, where ``training.json`` says so"""

    @property
    def given(self) -> str:
        """as the user wrote it"""
        return self.source.name


def find(name: str) -> AdapterName:
    """An adapter in a folder or on the hub. Reads its config, not its weights.

    Raises:
        ExtSubError: nothing is there, or it is of a kind that is not evaluated.
    """
    source = find_adapter(name)
    try:
        config = json.loads(source.config.read_text(encoding="utf-8"))
        kind = str(config["peft_type"]).upper()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExtSubError(f"{name}: {source.config.name} cannot be read, or names no peft_type") from error
    if kind not in KINDS:
        raise ExtSubError(f"{name}: adapters of kind {kind} are not evaluated; of these: {', '.join(KINDS)}")
    return AdapterName(source, kind, config.get("base_model_name_or_path"), config.get("revision"), _template(source))


def _template(source: Source) -> str | None:
    try:
        return json.loads((source.folder / "training.json").read_text(encoding="utf-8"))["settings"]["template"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def base_of(given: str | None, adapters: list[AdapterName]) -> ModelName:
    """The base model: as given, or as the adapters say.

    Raises:
        ExtSubError: nobody names one, or they name different ones.
    """
    if given:
        return find_model(given)
    named = [(one.base, one.revision, one.given) for one in adapters if one.base]
    if not named:
        raise ExtSubError("no base model: give --model, a folder or a hub id (the adapter's config names none)")
    base, revision, _ = named[0]
    for other, _, name in named[1:]:
        if normalised(str(other)) != normalised(str(base)):
            raise ExtSubError(f"the adapters name different base models ({base}, and {name} {other}): say --model")
    try:
        name = find_model(str(base))
    except ExtSubError as error:
        raise ExtSubError(
            f"{error}; that is what the adapter's config names as its base: say where it is, --model"
        ) from error
    return ModelName(name.name, name.given, name.revision or revision)


def load_base(name: ModelName, dtype: Dtype) -> Base:
    """The base model with its weights, on this process's device.

    Raises:
        ExtSubError: model or tokenizer are at fault (``models.py``).
    """
    require("peft", "evaluate")
    config = load_config(name)
    tokenizer = load_tokenizer(name, config)
    model = load_model(name, choose_dtype(dtype)).to(device()).eval()
    return Base(name, config, model, tokenizer)


def device() -> torch.device:
    """This process's."""
    from accelerate import PartialState

    return torch.device(PartialState().device or "cpu")


def _put_on(model: PreTrainedModel, adapter: AdapterName) -> Any:
    """PEFT's loader turns what is missing into a warning and ignores what it does not know: here both are refused."""
    from peft import PeftModel, load_peft_weights

    folder = str(adapter.source.folder)
    with _explained(adapter), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = PeftModel.from_pretrained(model, folder)
        _check_complete(module, "default", set(load_peft_weights(folder, device="cpu")), adapter)
    return module


def _put_beside(module: Any, reference: AdapterName, adapter: AdapterName) -> None:
    from peft import load_peft_weights

    if reference.kind != adapter.kind:
        raise ExtSubError(
            f"--reference {reference.given} is {reference.kind} and {adapter.given} {adapter.kind}: two kinds cannot "
            "be in one model; compare with the base (leave --reference out)"
        )
    folder = str(reference.source.folder)
    with _explained(reference), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module.load_adapter(folder, adapter_name="reference")
        _check_complete(module, "reference", set(load_peft_weights(folder, device="cpu")), reference)
    module.set_adapter("default")


def _check_complete(module: Any, name: str, found: set[str], adapter: AdapterName) -> None:
    from peft import get_peft_model_state_dict

    expected = set(get_peft_model_state_dict(module, adapter_name=name, save_embedding_layers=False))
    if missing := sorted(expected - found):
        raise ExtSubError(
            f"{adapter.given}: {len(missing)} tensors are missing, first {missing[0]}: its base is another"
        )
    if unknown := sorted(found - expected):
        raise ExtSubError(
            f"{adapter.given}: {len(unknown)} tensors fit nowhere in this base, first {unknown[0]}: say which --model"
        )


@contextlib.contextmanager
def _explained(adapter: AdapterName) -> Generator[None]:
    try:
        yield
    except (RuntimeError, ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        said = " ".join(str(error).split())[:300]
        raise ExtSubError(f"{adapter.given}: the adapter does not fit its base model: {said}") from error


@contextlib.contextmanager
def switched_to(model: LanguageModel, reference: AdapterName | None) -> Generator[LanguageModel]:
    """The model with the reference adapter active, or without any adapter, until the block ends."""
    if model.module is model.base:
        yield model
    elif reference is None:
        with model.module.disable_adapter():
            yield LanguageModel(model.base, model.base, model.tokenizer)
    else:
        model.module.set_adapter("reference")
        try:
            yield model
        finally:
            model.module.set_adapter("default")
