"""Which tensor of a checkpoint each layer of an adapter changes, and how.

There is no model in memory to ask: names, shapes and the other tensors must tell, and what they leave open is refused.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import numpy as np

from extsub.adapters.adapter import PREFIX, Adapter, Copy, Module
from extsub.adapters.layouts import Linear
from extsub.adapters.names import FUSED, fused_and_apart
from extsub.adapters.tensors import DTYPES
from extsub.arrays import rounded
from extsub.errors import ExtSubError
from extsub.escaping import brief
from extsub.merging.changes import Change, Factors, Matrices, Replacement, Scale, Sum
from extsub.merging.checkpoint import Tensor
from extsub.merging.keys import CheckpointKeys
from extsub.merging.orientation import Orientation

KEPT_FACTORS, KEPT_COPIES = 3, 2
"""Of how many layers factors and whole tensors are kept in memory: rows of so many are computed at the same time."""


def changes_of(
    adapter: Adapter, tensors: Mapping[str, Tensor], config: Mapping[str, Any], base: str
) -> dict[str, Change]:
    """What ``adapter`` does to which of ``tensors``, by key.

    Raises:
        ExtSubError: one of its layers has no place in the base, or more than one, or another shape.
    """
    changes: dict[str, Change] = {}
    names: dict[str, str] = {}
    for name, key, change in _Places(adapter, tensors, config, base).changes():
        if key in changes:
            raise ExtSubError(
                f"{adapter.name}: {brief(names[key])} and {brief(name)} both mean {brief(key)} of {base}: keep one"
            )
        changes[key], names[key] = change, name
    return changes


class _Places:
    """The places of one adapter's layers in one checkpoint."""

    def __init__(self, adapter: Adapter, tensors: Mapping[str, Tensor], config: Mapping[str, Any], base: str) -> None:
        self._adapter, self._tensors, self._base = adapter, tensors, base
        self._keys = CheckpointKeys(tensors, adapter.name, base)
        self._orientation = Orientation(tensors, config, base)
        modules, copies = adapter.modules, adapter.copies
        self._factors = functools.lru_cache(KEPT_FACTORS)(lambda name, dtype: modules[name].read().factors(dtype))
        self._copy = functools.lru_cache(KEPT_COPIES)(lambda name: copies[name].read())

    def changes(self) -> Iterator[tuple[str, str, Change]]:
        """(name in the adapter, key of a tensor, what is done to it)"""
        for name, module in self._adapter.modules.items():
            for key, change in self._of_module(name, module):
                yield name, key, change
        for name, copy in self._adapter.copies.items():
            key = self._place_of_copy(name, copy)
            tensor = self._tensors[key]
            if not _is_same(copy, tensor):
                yield name, key, Replacement(_matrix(tensor), functools.partial(self._copy, name))
        for name, copy in self._adapter.base_layers.items():
            key = self._place_of_copy(name.replace(".base_layer.", "."), copy)
            if not _is_same(copy, self._tensors[key]):
                raise ExtSubError(
                    f"{self._adapter.name}: {brief(name)} is the base's weight, and another than {brief(key)} of "
                    f"{self._base}: merge into the base that the adapter was trained on"
                )

    def _of_module(self, name: str, module: Module) -> Iterator[tuple[str, Change]]:
        if self._adapter.kind == "IA3":
            return self._scaled(name, module)
        return self._parameter(name, module) if module.parameter else self._added(name, module)

    # ---- what is done ----

    def _added(self, name: str, module: Module) -> Iterator[tuple[str, Change]]:
        """The delta of a layer."""
        key = self._keys.find(name) or self._refuse_absent(name)
        transposed = isinstance(module.layout, Linear) and self._orientation.is_conv1d(key)
        matrices = _matrix(self._floating(key))
        shape = module.shape[::-1] if transposed else module.shape
        self._require(matrices[1:] == shape, name, shape, key)
        yield key, Sum(matrices, self._factors_of(name), transposed)

    def _scaled(self, name: str, module: Module) -> Iterator[tuple[str, Change]]:
        """The vector of an IA3. On outputs it multiplies the bias, too."""
        key = self._keys.find(name) or self._refuse_absent(name)
        tensor = self._floating(key)
        feedforward = getattr(module.layout, "feedforward", False)
        rowwise = feedforward == self._orientation.is_conv1d(key)
        self._require(tensor.shape[0 if rowwise else 1 :][:1] == module.shape[1:], name, module.shape[1:], key)
        yield key, Scale(_matrix(tensor), module, rowwise)
        bias = f"{key.removesuffix('.weight')}.bias"
        if not feedforward and bias in self._tensors:
            yield bias, Scale(_matrix(self._floating(bias)), module, rowwise=True)

    def _parameter(self, name: str, module: Module) -> Iterator[tuple[str, Change]]:
        """The delta of a bare parameter: of the one that has its shape, where several are possible."""
        fitting = [changes for path in module.parameters if (changes := [*self._of_parameter(path, name, module)])]
        if len(fitting) != 1:
            why = "fits several of them" if fitting else "fits none that is there"
            raise ExtSubError(
                f"{self._adapter.name}: {brief(name)} changes {' or '.join(map(brief, module.parameters))}, and its "
                f"shape {list(module.shape)} {why} in {self._base}: is the base another?"
            )
        yield from fitting[0]

    def _of_parameter(self, parameter: str, name: str, module: Module) -> Iterator[tuple[str, Change]]:
        """Nothing where the parameter is not there, or has another shape."""
        key = self._keys.find(parameter)
        if key is None:
            yield from self._of_experts(parameter, name, module)
            return
        tensor, factors = self._floating(key), self._factors_of(name)
        if tensor.shape == module.shape and len(tensor.shape) == 2:
            yield key, Sum(_matrix(tensor), factors)
        elif len(tensor.shape) == 3:
            *experts, rows, columns = module.shape
            usual, turned = ((*(experts or [1]), *sizes) for sizes in ((rows, columns), (columns, rows)))
            if tensor.shape in (usual, turned):
                square = usual == turned
                transposed = self._orientation.has_inputs_first(key) if square else tensor.shape == turned
                yield key, Sum(Matrices(*tensor.shape), factors, transposed)

    def _of_experts(self, parameter: str, name: str, module: Module) -> Iterator[tuple[str, Change]]:
        """The same where the checkpoint has a layer for each expert, and perhaps gate and up apart."""
        owner, _, leaf = parameter.rpartition(".")
        parts = FUSED.get(leaf, (leaf,))
        *experts, rows, columns = module.shape
        count = experts[0] if experts else 1
        height = rows // len(parts)
        if self._keys.find(f"{owner}.{count}.{parts[0]}"):  # the base has more experts
            return
        changes = {}
        for expert in range(count):
            for place, part in enumerate(parts):
                key = self._keys.find(f"{owner}.{expert}.{part}")
                if key is None or self._floating(key).shape != (height, columns):
                    return
                matrices, factors = _matrix(self._tensors[key]), self._factors_of(name)
                changes[key] = Sum(matrices, factors, expert=expert, first=place * height)
        yield from changes.items()

    def _factors_of(self, name: str) -> Factors:
        return functools.partial(self._factors, name)

    # ---- where it is ----

    def _place_of_copy(self, name: str, copy: Copy) -> str:
        """The key of the tensor in whose place a copy is."""
        name = name.removeprefix(PREFIX).removesuffix(".weight")
        key = self._keys.find(name)
        if key is None:
            raise ExtSubError(
                f"{self._adapter.name}: it stores {brief(name)} whole, which {self._base} lacks: a model with another "
                "head than the base's is saved by PEFT, merge_and_unload and save_pretrained"
            )
        self._require(self._floating(key).shape == copy.shape, name, copy.shape, key)
        return key

    def _floating(self, key: str) -> Tensor:
        tensor = self._tensors[key]
        if tensor.dtype not in DTYPES:
            raise ExtSubError(
                f"{self._base}: {brief(key)} is stored as {tensor.dtype}, to which nothing can be added; expected one "
                f"of {', '.join(DTYPES)}: is it quantised?"
            )
        return tensor

    def _require(self, fits: bool, name: str, shape: tuple[int, ...], key: str) -> None:
        if not fits:
            raise ExtSubError(
                f"{self._adapter.name}: {brief(name)} is for a weight of shape {list(shape)}, and {brief(key)} of "
                f"{self._base} has {list(self._tensors[key].shape)}: is the base another, or its vocabulary resized?"
            )

    def _refuse_absent(self, name: str) -> NoReturn:
        fused = [key.rpartition(".")[0] for key, tensor in self._tensors.items() if len(tensor.shape) == 3]
        pair = fused_and_apart([name], [*self._keys.layers, *fused])
        several = pair and f"; it has {brief(pair[1])}, and one of them is in one tensor what the other is in several"
        raise ExtSubError(
            f"{self._adapter.name}: {self._base} has no weight for {brief(name)}{several or ''}: is the base another?"
        )


def _matrix(tensor: Tensor) -> Matrices:
    """A tensor as one matrix: outputs, and all else."""
    rows, *others = tensor.shape or (1,)
    return Matrices(1, rows, math.prod(others))


def _is_same(copy: Copy, tensor: Tensor) -> bool:
    """Whether a copy is what the base has already, in the narrower dtype of the two. PEFT stores embeddings beside an
    adapter without need."""
    narrow = min(copy.dtype, DTYPES[tensor.dtype], key=lambda dtype: dtype.itemsize)
    ours, theirs = tensor.numbers(0, tensor.count), copy.read().reshape(-1)
    return np.array_equal(rounded(ours, narrow), rounded(theirs, narrow))
