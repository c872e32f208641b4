"""The α dial: an expert and its anti-experts on a loaded base model, added up anew at every turn, in place.

Every operation is two numbers per row (docs/method.md): at a turn the rows of a few small tensors are scaled, and
nothing is read, combined on disk, or put into the model again. The model says what it would say with the combined
adapter.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from extsub.adapters.adapter import Adapter, Layout
from extsub.adapters.save import save_adapter
from extsub.algebra import Delta, Operation, Weight, spread_alpha
from extsub.arrays import Array
from extsub.combination.combination import Combination
from extsub.combination.combine import combine
from extsub.combination.operations import operation_of
from extsub.combination.profile import Profile
from extsub.errors import ExtSubError
from extsub.models.adapter_handle import find
from extsub.models.attaching import attach, detach
from extsub.models.layer_names import Base, places, tensors_of
from extsub.models.tensors import to_torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Dial:
    """``Dial(model, expert, anti_expert).set("ext-sub", 0.5)``, then ask ``dial.module``.

    A turn costs time in proportion to the adapters' numbers: microseconds for each module of a small model, tens of
    them at 4096 rows and rank 32. Values are computed in float32 and kept in the dtype that PEFT has them in.
    """

    module: Any
    """The PEFT model: what to ask, at the present position."""
    anti_experts: int
    """How many there are."""

    def __init__(self, model: PreTrainedModel, expert: Adapter, *anti_experts: Adapter) -> None:
        """Attach to a base model in memory; the dial stands at the expert.

        Raises:
            ExtSubError: the adapters do not belong together or do not fit the model, or they store modules whole.
        """
        whole = joined(expert, *anti_experts)
        assert isinstance(whole.origin, Combination)
        with tempfile.TemporaryDirectory() as folder:
            save_adapter(whole, Path(folder) / "both")
            self.module = attach(model, find(str(Path(folder) / "both")))
        self.module.eval()
        tensors = _tensors(self.module, whole)
        self._layers = [
            _Layer.of(name, module.layout, *whole.origin.deltas(name), tensors)
            for name, module in whole.modules.items()
        ]
        self.anti_experts = len(anti_experts)
        self.set_parts(1.0)

    def set(
        self,
        operation: str | Operation = "ext-sub",
        alpha: float | Sequence[float] = 1.0,
        profile: Profile | None = None,
    ) -> None:
        """Set the dial to what ``combine`` would give, with the same words.

        Raises:
            ExtSubError: there is no such operation, alpha is not finite or not one for each anti-expert, or the
                profile names a kind of module that is not there.
        """
        operation = operation_of(operation)
        alphas = spread_alpha(alpha, self.anti_experts)
        factors = profile.factors(layer.name for layer in self._layers) if profile else {}
        for layer in self._layers:
            expert, *antis = layer.norms
            x, ys = 1.0, []
            for norms, strength in zip(antis, alphas, strict=True):
                more, y = operation.weights(expert, norms, strength * factors.get(layer.name, 1.0))
                x = x + more
                ys.append(y)
            layer.write([x, *ys])

    def set_parts(self, expert: float, *anti_experts: float) -> None:
        """Set the dial to ``expert * e + sum_j anti_experts[j] * a_j``.

        (0) is the base, (1) the expert, (0, 1) the anti-expert.
        """
        rest = [0.0] * (self.anti_experts - len(anti_experts))
        for layer in self._layers:
            layer.write([expert, *anti_experts, *rest])

    def keep(self) -> Callable[[], None]:
        """Remember the present position: what is returned turns back to it by copying, in a quarter of the time."""
        kept = [(target, target.clone()) for layer in self._layers for target in layer.targets.values()]

        def turn_back() -> None:
            with torch.no_grad():
                for target, value in kept:
                    target.copy_(value)

        return turn_back

    def remove(self) -> None:
        """Leave the base model as it was."""
        detach(self.module)


def joined(expert: Adapter, *anti_experts: Adapter) -> Adapter:
    """All adapters of a dial in one. Reads no numbers.

    Raises:
        ExtSubError: they do not belong together, or they store modules whole.
    """
    whole = combine(expert, *anti_experts, operation="subtract", alpha=1.0, dtype="float32")
    if whole.copies:
        raise ExtSubError(f"{expert.name} stores modules whole ({next(iter(whole.copies))}): no dial can scale them")
    return whole


@dataclass(frozen=True)
class _Layer:
    """One adapted layer: what it is made of, and the tensors in the model that change with the position."""

    name: str
    layout: Layout
    parts: list[Tensor]
    """B of the expert and of each anti-expert, (..., rows, rank) float32"""
    A: Tensor
    """The A factors of all parts, (..., ranks, columns) float32."""
    norms: list[Array]
    """Norms of the rows of each part's delta, (..., rows) float64."""
    targets: dict[str, Tensor]

    @classmethod
    def of(
        cls, name: str, layout: Layout, expert: Delta, anti_experts: list[Delta], tensors: dict[str, Tensor]
    ) -> _Layer:
        deltas = [expert, *anti_experts]
        factors = [tuple(map(to_torch, delta.factors())) for delta in deltas]
        A = torch.cat([A for _, A in factors], dim=-2)
        B = torch.cat([B for B, _ in factors], dim=-1)
        packed, doubled = layout.pack(name, B, A), layout.pack(name, 2 * B, A)
        targets = {key: tensors[key] for key in packed if not torch.equal(packed[key], doubled[key])}
        device = next(iter(tensors.values())).device
        return cls(
            name=name,
            layout=layout,
            parts=[B.float().to(device) for B, _ in factors],
            A=A.float().to(device),
            norms=[delta.row_norms() for delta in deltas],
            targets=targets,
        )

    def write(self, weights: Sequence[Weight]) -> None:
        """``weights`` (..., rows), or one number for all rows, for each part."""
        scaled = [
            part * torch.as_tensor(weight, dtype=torch.float32, device=part.device)[..., None]
            for part, weight in zip(self.parts, weights, strict=True)
        ]
        packed = self.layout.pack(self.name, torch.cat(scaled, dim=-1), self.A)
        with torch.no_grad():
            for key, target in self.targets.items():
                target.copy_(packed[key].reshape(target.shape))


def _tensors(module: Any, adapter: Adapter) -> dict[str, Tensor]:
    """The tensors in the model by their keys in the file."""
    config = module.active_peft_config
    if config.is_prompt_learning:
        return {"prompt_embeddings": module.prompt_encoder[module.active_adapter].embedding.weight.data}
    where = places(Base(module.get_base_model()), adapter.modules) if adapter.kind == "LORA" else {}
    return tensors_of(module, "default", where or {})
