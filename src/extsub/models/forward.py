"""A model's forward pass: logits only where they are wanted, and whether there was too little memory for it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


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
