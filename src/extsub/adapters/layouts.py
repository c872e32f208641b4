"""How LoRA's two factors lie in a file: one layout for each kind of layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from extsub.adapters.adapter import PREFIX, Layout
from extsub.arrays import Array


class FactorLayout(Layout, Protocol):
    """A layout that stores two factors."""

    def unpack(self, A: Array, B: Array) -> tuple[Array, Array]:
        """The factors (B, A) of the delta in stored tensors, before scaling."""
        ...


@dataclass(frozen=True)
class Linear(FactorLayout):
    """Linear and Conv1D: A (r, columns), B (rows, r)."""

    def unpack(self, A: Array, B: Array) -> tuple[Array, Array]:
        return B, A

    def pack(self, name: str, B: Any, A: Any) -> dict[str, Any]:
        return _pair(name, A, B)


@dataclass(frozen=True)
class Embedding(FactorLayout):
    """A (r, tokens), B (dim, r). A row is a token, as in the weight, so that a tied head stays tied."""

    def unpack(self, A: Array, B: Array) -> tuple[Array, Array]:
        return A.mT, B.mT

    def pack(self, name: str, B: Any, A: Any) -> dict[str, Any]:
        return {f"{PREFIX}{name}.lora_embedding_A": B.mT, f"{PREFIX}{name}.lora_embedding_B": A.mT}


@dataclass(frozen=True)
class Conv(FactorLayout):
    """A (r, in, *kernel), B (out, r, 1, ...): the columns are in * kernel."""

    window: tuple[int, ...]
    """(in, *kernel)"""

    def unpack(self, A: Array, B: Array) -> tuple[Array, Array]:
        return B.reshape(len(B), -1), A.reshape(len(A), -1)

    def pack(self, name: str, B: Any, A: Any) -> dict[str, Any]:
        ones = [1] * (len(self.window) - 1)
        return _pair(name, A.reshape(-1, *self.window), B.reshape(*B.shape, *ones))


@dataclass(frozen=True)
class Experts(FactorLayout):
    """Fused MoE parameters: A (experts * r, columns) expert by expert, B (rows, r * experts) rank by rank."""

    count: int

    def unpack(self, A: Array, B: Array) -> tuple[Array, Array]:
        return _experts_first(B.reshape(len(B), -1, self.count)), A.reshape(self.count, -1, A.shape[1])

    def pack(self, name: str, B: Any, A: Any) -> dict[str, Any]:
        return _pair(name, A.reshape(-1, A.shape[-1]), _experts_last(B).reshape(B.shape[1], -1))


def _experts_first(B: Array) -> Array:
    """(rows, ranks, experts) as (experts, rows, ranks). ``swapaxes`` is what numpy and torch call alike."""
    return B.swapaxes(1, 2).swapaxes(0, 1)


def _experts_last(B: Any) -> Any:
    """(experts, rows, ranks) as (rows, ranks, experts)."""
    return B.swapaxes(0, 1).swapaxes(1, 2)


def _pair(name: str, A: Any, B: Any) -> dict[str, Any]:
    return {f"{PREFIX}{name}.lora_A.weight": A, f"{PREFIX}{name}.lora_B.weight": B}
