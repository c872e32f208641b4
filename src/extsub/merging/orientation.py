"""Which way round a checkpoint stores a square weight, where its shape cannot tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from extsub.adapters.experts import READS, WRITES
from extsub.errors import ExtSubError
from extsub.escaping import brief
from extsub.merging.checkpoint import Tensor


class Orientation:
    """What the other tensors of a checkpoint say of the way round that a square one is stored."""

    def __init__(self, tensors: Mapping[str, Tensor], config: Mapping[str, Any], name: str) -> None:
        self._tensors, self._name = tensors, name
        parts = (config, *(part for part in config.values() if isinstance(part, dict)))
        self._hidden = {part["hidden_size"] for part in parts if isinstance(part.get("hidden_size"), int)}
        self._inputs_first: dict[str, set[bool]] = {}
        for key, tensor in tensors.items():
            layer = key.removesuffix(".weight")
            bias = tensors.get(f"{layer}.bias")
            if key.endswith(".weight") and bias and len(tensor.shape) == 2 and len({*tensor.shape, *bias.shape}) == 2:
                for parent in _parents(layer):
                    self._inputs_first.setdefault(parent, set()).add(tensor.shape[1] == bias.shape[0])

    def is_conv1d(self, key: str) -> bool:
        """Whether a layer's weight is (inputs, outputs), as in GPT-2's Conv1D; such a layer has a bias.

        A bias has as many numbers as there are outputs: the layer's own, or of those nearest to it, tells.

        Raises:
            ExtSubError: the nearest ones disagree.
        """
        layer = key.removesuffix(".weight")
        if f"{layer}.bias" not in self._tensors:
            return False
        for parent in _parents(layer):
            if said := self._inputs_first.get(parent):
                if len(said) == 1:
                    return next(iter(said))
                raise ExtSubError(
                    f"{self._name}: {brief(key)} is square, and the layers beside it are stored both ways: extsub "
                    "cannot tell which way this one is"
                )
        return False

    def has_inputs_first(self, key: str) -> bool:
        """Whether a parameter of fused experts is (experts, inputs, outputs): what the others of its layer tell.

        Raises:
            ExtSubError: they do not.
        """
        owner = key.rpartition(".")[0]
        for other, tensor in self._tensors.items():
            parent, _, leaf = other.rpartition(".")
            reads, writes = bool(READS.search(leaf)), bool(WRITES.search(leaf))
            if parent == owner and len(tensor.shape) == 3 and tensor.shape[1] != tensor.shape[2] and reads != writes:
                first, last = (size in self._hidden for size in tensor.shape[1:])
                if first != last:
                    return first if reads else last
        raise ExtSubError(
            f"{self._name}: {brief(key)} holds square matrices, and no other parameter of its layer tells whether they "
            "are stored as (inputs, outputs)"
        )


def _parents(layer: str) -> list[str]:
    """The layer itself, and all that it is in, the nearest first."""
    parts = layer.split(".")
    return [".".join(parts[:length]) for length in range(len(parts), -1, -1)]
