"""A base model in memory, alone or with one adapter on it: what every evaluation asks."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from extsub.errors import ExtSubError
from extsub.extras import require
from extsub.inference.soundness import UNTRIED, Soundness
from extsub.inference.trial import soundness_of
from extsub.models.adapter_handle import AdapterHandle
from extsub.models.attaching import attach, detach
from extsub.models.base import choose_dtype, load_config, load_model, load_tokenizer, positions
from extsub.models.source import ModelName

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from extsub.inference.mixture import Mixture
    from extsub.settings import Dtype


@dataclass(frozen=True)
class LanguageModel:
    """A model that answers. ``module`` is called for everything; ``base`` is the model inside it, with LoRA and IA3 in
    its layers but without virtual tokens."""

    module: Any
    base: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    virtual_tokens: int = 0
    """Virtual tokens that an adapter puts in front of everything."""
    soundness: Soundness = UNTRIED
    """How it may be asked."""
    mixture: Mixture | None = None
    """Where it answers at several positions at once: what it is mixed of."""
    system: str = ""
    """What it is told before every conversation, if anything."""

    @classmethod
    def adapted(cls, module: Any, tokenizer: PreTrainedTokenizerBase) -> LanguageModel:
        """A PEFT model with its adapter, as it stands."""
        config = module.active_peft_config
        virtual = config.num_virtual_tokens if config.is_prompt_learning else 0
        return cls(module, module.get_base_model(), tokenizer, virtual)

    def tried(self) -> LanguageModel:
        """The same model, with how it may be asked.

        Raises:
            ExtSubError: it is not a causal language model.
        """
        return replace(self, soundness=soundness_of(self))

    @property
    def device(self) -> torch.device:
        return self.base.device

    @property
    def is_soft_prompt(self) -> bool:
        """Whether there are virtual tokens among the embeddings, which stand in front of padding on the left."""
        return self.virtual_tokens > 0 and self.module.active_peft_config.peft_type.value != "PREFIX_TUNING"

    @property
    def longest(self) -> int | None:
        """The longest sequence, in tokens, virtual ones apart; None without a limit."""
        limit = positions(self.base.config)
        return None if limit is None else limit - self.virtual_tokens

    def check_tokens(self, index: int, tokens: Sequence[int]) -> None:
        """Refuse tokens of item ``index`` that the model does not have.

        Raises:
            ExtSubError: the tokenizer has more of them than the model.
        """
        size = self.base.config.get_text_config().vocab_size
        if (highest := max(tokens)) >= size:
            raise ExtSubError(
                f"item {index}: the tokenizer makes token {highest} of it, and the model has {size}: the tokenizer "
                "belongs to another model"
            )

    @property
    def shares_contexts(self) -> bool:
        """Whether what was read can be continued in several ways: plain keys and values, and positions of our own."""
        from transformers.cache_utils import DynamicCache, DynamicLayer

        if self.module is not self.base and getattr(self.module.active_peft_config, "alora_invocation_tokens", None):
            return False  # an activated LoRA looks for these tokens in all that it is given at once
        known = inspect.signature(type(self.base).forward).parameters
        if not {"position_ids", "past_key_values", "attention_mask"} <= known.keys():
            return False
        layers = DynamicCache(config=self.base.config).layers
        return all(type(layer) is DynamicLayer for layer in layers)


@dataclass(frozen=True)
class Base:
    """A base model that adapters can be put on, one after the other."""

    name: ModelName
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @contextlib.contextmanager
    def with_adapter(self, adapter: AdapterHandle | None) -> Generator[LanguageModel]:
        """The base with an adapter on it (or none), until the block ends.

        Raises:
            ExtSubError: the adapter does not fit the base, or the base is not a causal language model.
        """
        if adapter is None:
            yield LanguageModel(self.model, self.model, self.tokenizer).tried()
            return
        module = attach(self.model, adapter)
        try:
            module.eval()
            yield LanguageModel.adapted(module, self.tokenizer).tried()
        finally:
            detach(module)


def load_base(name: ModelName, dtype: Dtype) -> Base:
    """The base model with its weights, on this process's device.

    Raises:
        ExtSubError: model or tokenizer are at fault (``models.base``).
    """
    require("peft", "evaluate")
    tokenizer = load_tokenizer(name, load_config(name))
    model = load_model(name, choose_dtype(dtype)).to(device()).eval()
    return Base(name, model, tokenizer)


def device() -> torch.device:
    """The device that this process computes on."""
    from accelerate import PartialState

    return torch.device(PartialState().device or "cpu")


@contextlib.contextmanager
def switched_to(model: LanguageModel, reference: AdapterHandle | None) -> Generator[LanguageModel]:
    """The model with the reference active (``attach_reference``), or without any adapter, until the block ends."""
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
