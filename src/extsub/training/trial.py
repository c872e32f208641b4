"""What a model must do before it is trained, tried on a few tokens: read each token without those after it, and keep
packed rows apart."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor

from extsub.errors import ExtSubError
from extsub.models.forward import is_out_of_memory
from extsub.probing.comparison import FAILURES, Rounding
from extsub.probing.twin import tokens_for, twin
from extsub.training.batches import end_to_end

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from extsub.training.settings import TrainingSettings

ROWS = (5, 17, 12)
"""Lengths of packed rows in tokens: one within a twin's window, two beyond it."""


def try_architecture(model: PreTrainedModel, settings: TrainingSettings, dtype: torch.dtype) -> bool:
    """Try a tiny twin of a model, in float32 and as training computes.

    Args:
        model: may be on the meta device.

    Returns:
        whether that was possible: if not, ``try_model`` should be given the model once it has weights

    Raises:
        ExtSubError: the model is not to be trained, or not with these settings.
    """
    small, tried = twin(model, _device()), False
    if small is None:
        return False
    for precision in dict.fromkeys((torch.float32, dtype)):
        try:
            if _sees(small.to(precision)):
                try_model(small, settings)
                tried = True
        except FAILURES as error:
            if is_out_of_memory(error):
                raise
    return tried


def try_model(model: PreTrainedModel, settings: TrainingSettings) -> None:
    """Try a model that has weights.

    Raises:
        ExtSubError: it is not to be trained, or not with these settings.
    """
    kind, was = f"{settings.model}: {model.config.model_type}", model.training
    try:
        if not _is_causal(model.eval()):
            raise ExtSubError(f"{kind} sees both sides of a token: it is not a causal language model")
        if settings.packing and (fault := _packing_fault(model)):
            raise ExtSubError(f"{kind} cannot be trained with --packing: {fault}; leave out --packing")
    finally:
        model.train(was)


def _device() -> torch.device:
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None:
        return torch.device("cpu")
    return torch.device(accelerator.type, int(os.environ.get("LOCAL_RANK", "0")))


def _logits(model: PreTrainedModel, tokens: Sequence[int] = (), **more: Any) -> Tensor:
    """(tokens, vocabulary)"""
    more.setdefault("input_ids", torch.tensor([tokens], device=model.device))
    with torch.no_grad(), torch.autocast(model.device.type, model.dtype, enabled=model.dtype != torch.float32):
        return model(**more, use_cache=False).logits[0]


def _rounding(model: PreTrainedModel, tokens: Sequence[int]) -> tuple[Rounding, Tensor]:
    """(what rounding does to the logits of a text, the logits)"""
    alone = _logits(model, tokens)
    return Rounding.of(model, model.dtype, lambda: _logits(model, tokens), alone), alone


def _is_causal(model: PreTrainedModel) -> bool:
    tokens = tokens_for(model, 32)
    text, other = tokens[:24], tokens[:16] + tokens[24:]
    rounding, alone = _rounding(model, text)
    return rounding.explains(_logits(model, other)[:16], alone[:16], everywhere=True)


def _sees(model: PreTrainedModel) -> bool:
    """Whether a token changes what is said later: without that nothing would show."""
    text = tokens_for(model, 24)
    rounding, alone = _rounding(model, text)
    return not rounding.explains(_logits(model, [text[-1], *text[1:]])[1:], alone[1:])


def _packing_fault(model: PreTrainedModel) -> str | None:
    """Why rows packed into one are not what they are alone."""
    tokens = tokens_for(model, sum(ROWS))
    rows = [row.tolist() for row in torch.tensor(tokens).split(ROWS)]
    rounding, _ = _rounding(model, rows[1])
    alone = [_logits(model, row) for row in rows]
    model.train()  # some models then compute otherwise
    if not all(map(rounding.explains, [_logits(model, row) for row in rows], alone)):
        model.eval()  # dropout: nothing could be compared
    batch = end_to_end([[{"input_ids": row, "labels": row} for row in rows]])
    del batch["labels"]
    try:
        packed = _logits(model, **send_to_device(batch, model.device))
    except FAILURES as error:
        if is_out_of_memory(error):
            raise
        return " ".join(str(error).split())[:200].rstrip(".")
    if all(map(rounding.explains, packed.split(ROWS), alone)):
        return None
    return "what it says of a row depends on the rows before it"
