"""LoRA for layers that the base has under other names: those of an earlier transformers, or with a wrapper's between.

Transformers 5 keeps all experts of a layer in one tensor, where each was a Linear before. A change of such a Linear
goes where its weight went, which transformers' own conversion of checkpoints says. PEFT knows that for some
architectures, and loses rsLoRA, alpha_pattern and layers in it; so the places are filled here, from what ``adapters``
has read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from extsub.adapters.adapter import PREFIX, Adapter
from extsub.adapters.names import ends_of, last_part
from extsub.adapters.targets import saved_names
from extsub.arrays import FLOAT32
from extsub.errors import ExtSubError, counted
from extsub.models.tensors import to_torch

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

LAYER = ".base_layer"
"""What stands in the names of layers with an adapter."""
SUFFIXES = ("lora_A.weight", "lora_B.weight", "lora_embedding_A", "lora_embedding_B")


@dataclass(frozen=True)
class Place:
    """Where the weight of a layer is in a base."""

    module: str
    parameter: str = "weight"
    expert: int | None = None
    """Which expert of a fused parameter (experts, rows, columns) it is."""
    part: int = 0
    parts: int = 1
    """Which part of that expert's rows it is: gate and up are two."""

    @property
    def name(self) -> str:
        return f"{self.module}.{self.parameter}"


class Base:
    """The names in a base, and how transformers reads those of checkpoints."""

    def __init__(self, model: PreTrainedModel) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming

        self.modules = {name.replace(LAYER, ""): module for name, module in model.named_modules()}
        self.parameters = {name.replace(LAYER, ""): parameter for name, parameter in model.named_parameters()}
        conversions = get_model_conversion_mapping(model)
        self._renamings = [conversion for conversion in conversions if isinstance(conversion, WeightRenaming)]
        self._converters = [conversion for conversion in conversions if isinstance(conversion, WeightConverter)]
        self.parts_of_experts = {
            pattern.split(".")[-2]
            for converter in self._converters
            for pattern in converter.source_patterns
            if ".*." in pattern
        }
        """``gate_proj`` and the like: PEFT takes layers so called for those of experts, also outside of them"""

    def has_as_named(self, module: str) -> bool:
        """Whether PEFT will find a layer of this name."""
        return module in self.modules and last_part(module) not in self.parts_of_experts

    def place(self, module: str) -> Place | None:
        """Where a layer of this name is; None where the base has none."""
        from transformers.core_model_loading import rename_source_key

        if module in self.modules:
            return Place(module)
        key, pattern = rename_source_key(f"{module}.weight", self._renamings, self._converters)
        owner, _, parameter = key.rpartition(".")
        place: Place | None = Place(owner, parameter)
        if pattern is not None:
            converter = next(converter for converter in self._converters if pattern in converter.source_patterns)
            part, parts = converter.source_patterns.index(pattern), len(converter.source_patterns)
            number = module.split(".")[-2]
            fits = number.isdigit() and _stacks(converter, parts)
            place = Place(owner, parameter, int(number), part, parts) if fits else None
        return place if place and place.name in self.parameters else None


def _stacks(converter: Any, parts: int) -> bool:
    """Whether experts are put one after the other, and the rows of their parts one below the other: nothing else."""
    operations = [(type(operation).__name__, getattr(operation, "dim", None)) for operation in converter.operations]
    return operations == [("MergeModulelist", 0), ("Concatenate", 1)][: 1 if parts == 1 else 2]


def places(base: Base, modules: Collection[str]) -> dict[str, Place] | None:
    """Where each of ``modules`` is, by its name; None where the base has no place for one, or the same for two."""
    where = {module: place for module in modules if (place := base.place(module))}
    return where if len(set(where.values())) == len(modules) else None


def config_for(base: Base, adapter: Adapter, where: Mapping[str, Place]) -> LoraConfig:
    """What PEFT needs to know to put a LoRA on exactly these places. Scaling is in the adapter's factors already.

    Raises:
        ExtSubError: the base has more such layers, and the adapter's short names mean all of them.
    """
    from peft import LoraConfig

    _check_missing(base, adapter, where)
    rank = adapter.rank
    fused = {place.parameter: place.parts * rank for place in where.values() if place.expert is not None}
    modules, parameters = set(), set()
    for place in where.values():
        layer = base.modules[place.module]
        plain = isinstance(layer, (torch.nn.Linear, torch.nn.Embedding, Conv1D))
        own = ".models." in type(layer).__module__  # a router that is a Linear, and gives more than its product
        if plain and not own and base.has_as_named(place.module):
            modules.add(place.module)
        else:
            parameters.add(place.name)
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=rank,
        rank_pattern=fused,
        alpha_pattern=dict(fused),
        target_modules=sorted(modules),
        target_parameters=sorted(parameters),
        modules_to_save=saved_names(adapter),
        inference_mode=True,
    )


def fill(module: Any, name: str, adapter: Adapter, where: Mapping[str, Place]) -> None:
    """Write every number of ``adapter`` into the PEFT model's adapter ``name``.

    Raises:
        ExtSubError: one of its tensors has no place, or another shape.
    """
    targets, rank = tensors_of(module, name, where), adapter.rank
    for layer, adapted in adapter.modules.items():
        for key, array in adapted.layout.pack(layer, *adapted.read().factors(FLOAT32, rank)).items():
            _write(targets, key, to_torch(array), adapter)
    theirs = module.state_dict()
    for key, copy in adapter.copies.items():
        tensor = to_torch(copy.read())
        if key in targets or key not in theirs or not torch.equal(theirs[key].cpu(), tensor.to(theirs[key].dtype)):
            _write(targets, key, tensor, adapter)


def tensors_of(module: Any, name: str, where: Mapping[str, Place]) -> dict[str, Tensor]:
    """The tensors of a PEFT model's adapter by the names that its file has for them; of fused ones the part that is
    meant, as a view."""
    from peft import get_peft_model_state_dict

    tensors = get_peft_model_state_dict(module, adapter_name=name, save_embedding_layers=False)
    wrappers = {
        f"{path.removeprefix(PREFIX).replace(LAYER, '')}.{wrapper.parameter_name}": wrapper
        for path, wrapper in module.named_modules()
        if hasattr(wrapper, "parameter_name")
    }
    for layer, place in where.items():
        if place.expert is not None:
            views = _views(wrappers[place.name], name, place)
        else:
            views = {end: tensors.get(f"{PREFIX}{place.module}.{end}") for end in SUFFIXES}
        tensors.update({f"{PREFIX}{layer}.{end}": view for end, view in views.items() if view is not None})
    return tensors


def _views(wrapper: Any, name: str, place: Place) -> dict[str, Tensor]:
    """PEFT has A (experts * ranks, columns) expert by expert, B (rows, ranks * experts) rank by rank."""
    A, B, experts = wrapper.lora_A[name].weight.data, wrapper.lora_B[name].weight.data, wrapper.num_experts
    ranks, rows = (size // place.parts for size in (len(A) // experts, len(B)))
    its_ranks, its_rows = (slice(place.part * size, (place.part + 1) * size) for size in (ranks, rows))
    if place.expert is None or place.expert >= experts:
        return {}
    return {
        "lora_A.weight": A.view(experts, -1, A.shape[1])[place.expert, its_ranks],
        "lora_B.weight": B.view(len(B), -1, experts)[its_rows, its_ranks, place.expert],
    }


def _write(targets: Mapping[str, Tensor], key: str, tensor: Tensor, adapter: Adapter) -> None:
    target = targets.get(key)
    if target is None or target.shape != tensor.shape:
        expected = "has no place for it" if target is None else f"expects {list(target.shape)}"
        raise ExtSubError(
            f"{adapter.name}: {key} has shape {list(tensor.shape)}, and this base {expected}: say which --model"
        )
    with torch.no_grad():
        target.copy_(tensor)


def _check_missing(base: Base, adapter: Adapter, where: Mapping[str, Place]) -> None:
    """Full names, or layers that were filtered, mean those that are there; short names mean the layers of any base."""
    if adapter.targets is None:
        return
    taken = {(place.name, place.expert, place.part) for place in where.values()}
    kinds = {(place.parameter, place.part) for place in where.values() if place.expert is not None}
    expected: set[tuple[str, int | None, int]] = {
        (name, expert, part)
        for name, weight in base.parameters.items()
        for parameter, part in kinds
        if name.endswith(f"experts.{parameter}")
        for expert in range(len(weight))
    }
    linear = [name for name, module in base.modules.items() if isinstance(module, torch.nn.Linear)]
    expected |= {(f"{name}.weight", None, 0) for name in linear if not ends_of(name).isdisjoint(adapter.targets)}
    if missing := sorted(expected - taken, key=str):
        name, expert, _ = missing[0]
        first = name if expert is None else f"expert {expert} of {name}"
        raise ExtSubError(
            f"{adapter.name}: {counted(len(missing), 'layer')} missing, first {first}: is the base another?"
        )
