"""How LoRA's two factors lie in a file: one layout for each kind of layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor

from extsub.adapters.adapter import PREFIX, Layout


class FactorLayout(Layout, Protocol):
    """A layout that stores two factors."""

    def unpack(self, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        """The factors (B, A) of the delta in stored tensors, before scaling."""
        ...


@dataclass(frozen=True)
class Linear:
    """Linear and Conv1D: A (r, columns), B (rows, r)."""

    factored: ClassVar[bool] = True

    def unpack(self, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        return B, A

    def pack(self, name: str, B: Tensor, A: Tensor) -> dict[str, Tensor]:
        return _pair(name, A, B)


@dataclass(frozen=True)
class Embedding:
    """A (r, tokens), B (dim, r). A row is a token, as in the weight, so that a tied head stays tied."""

    factored: ClassVar[bool] = True

    def unpack(self, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        return A.mT, B.mT

    def pack(self, name: str, B: Tensor, A: Tensor) -> dict[str, Tensor]:
        return {f"{PREFIX}{name}.lora_embedding_A": B.mT, f"{PREFIX}{name}.lora_embedding_B": A.mT}


@dataclass(frozen=True)
class Conv:
    """A (r, in, *kernel), B (out, r, 1, ...): the columns are in * kernel."""

    factored: ClassVar[bool] = True

    window: tuple[int, ...]
    """(in, *kernel)"""

    def unpack(self, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        return B.flatten(1), A.flatten(1)

    def pack(self, name: str, B: Tensor, A: Tensor) -> dict[str, Tensor]:
        ones = [1] * (len(self.window) - 1)
        return _pair(name, A.unflatten(-1, self.window), B.unflatten(-1, [B.shape[-1], *ones]))


@dataclass(frozen=True)
class Experts:
    """Fused MoE parameters: A (experts * r, columns) expert by expert, B (rows, r * experts) rank by rank."""

    factored: ClassVar[bool] = True

    count: int

    def unpack(self, A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
        return B.unflatten(1, (-1, self.count)).permute(2, 0, 1), A.unflatten(0, (self.count, -1))

    def pack(self, name: str, B: Tensor, A: Tensor) -> dict[str, Tensor]:
        return _pair(name, A.flatten(0, 1), B.permute(1, 2, 0).flatten(1))


def _pair(name: str, A: Tensor, B: Tensor) -> dict[str, Tensor]:
    return {f"{PREFIX}{name}.lora_A.weight": A, f"{PREFIX}{name}.lora_B.weight": B}
