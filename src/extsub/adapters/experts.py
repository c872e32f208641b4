"""Fused experts (PEFT's ``target_parameters``): which parameter a key means, and which way round it is stored.

A layer's parameter is (experts, inputs, outputs) or (experts, outputs, inputs). A takes the inputs and B gives the
outputs, except in some adapters of PEFT before 0.19.1, which asked the layer wrongly or not at all. Those have A and B
exchanged: the transpose of each expert's change. The shapes of other layers nearly always tell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from extsub.adapters.names import ends_of
from extsub.errors import ExtSubError, brief

PARAMETER_ORDER = ("down_proj", "gate_up_proj")
"""as PEFT nests its wrappers around them: the last one registered is outermost"""
WRITTEN_AS = "0.19.1"
"""from this version of PEFT on, A takes the inputs"""


class Sizes(NamedTuple):
    """What a pair of factors says of its layer: A is (..., A), B is (B, ...)."""

    A: int
    B: int


class FusedExperts:
    """The bare parameters among the layers of one file."""

    def __init__(self, targets: Sequence[str], sizes: Mapping[str, Sizes], version: str | None, where: str) -> None:
        """``targets`` are ``target_parameters``, ``sizes`` those of every layer by its name in the file."""
        self._leaves: dict[str, set[str]] = {}
        for target in targets:
            owner, _, leaf = target.rpartition(".")
            self._leaves.setdefault(owner, set()).add(leaf)
        self._sizes, self._where = sizes, where
        self._sure = _numbers(version or "") >= _numbers(WRITTEN_AS)
        self._hidden: dict[str, int] = {}
        for name, size in sizes.items():
            layer, _, leaf = name.rpartition(".self_attn.")
            if layer and leaf in ("q_proj", "k_proj", "v_proj", "o_proj"):
                self._hidden[_list_of(layer)] = size.B if leaf == "o_proj" else size.A

    def parameters(self, name: str) -> list[str]:
        """The full names of the parameters that a layer of the file may be; none if it is no parameter.

        Raises:
            ExtSubError: two are nested in one another, and one of them is missing.
        """
        if not self._leaves:
            return []
        path, depth = _unnested(name)
        leaves = {leaf for owner in self._leaves.keys() & ends_of(path) for leaf in self._leaves[owner]}
        if len(leaves) == 1 and depth:
            return []
        if leaves != set(PARAMETER_ORDER):  # then nothing says which of them it is
            return [f"{path}.{leaf}" for leaf in sorted(leaves)]
        if missing := {path, f"{path}.base_layer"} - self._sizes.keys():
            raise ExtSubError(
                f"{self._where}: target_parameters names {' and '.join(PARAMETER_ORDER)} of {brief(path)}, and the "
                f"file has no {brief(min(missing))}: part of the adapter is missing, or the base has but one of them: "
                "name that alone"
            )
        return [f"{path}.{leaf}" for leaf in PARAMETER_ORDER[depth : depth + 1]]

    def targets(self, names: Sequence[str]) -> list[str]:
        """The ``target_parameters`` that are there, where these layers are the parameters."""
        ends = {end for name in names for end in ends_of(_unnested(name)[0])}
        return sorted(f"{owner}.{leaf}" for owner in self._leaves.keys() & ends for leaf in self._leaves[owner])

    def are_exchanged(self, name: str, parameters: Sequence[str]) -> bool:
        """Whether A gives the outputs and B takes the inputs.

        Raises:
            ExtSubError: neither shapes nor version tell.
        """
        path, _ = _unnested(name)
        size, down, gate_up = (self._sizes.get(one) for one in (name, path, f"{path}.base_layer"))
        hidden = self._hidden.get(_list_of(path))
        leaf = parameters[0].rpartition(".")[2] if len(parameters) == 1 else None
        usual = exchanged = False
        if down and gate_up:
            usual = gate_up == (down.B, 2 * down.A)
            exchanged = gate_up == (2 * down.B, down.A)
        if size and leaf in PARAMETER_ORDER and usual == exchanged:
            usual, exchanged = (one == hidden for one in ((size.A, size.B) if leaf == "gate_up_proj" else size[::-1]))
        if usual != exchanged or self._sure:
            return exchanged and not usual
        raise ExtSubError(
            f"{self._where}: {brief(name)} has fused experts, which PEFT before {WRITTEN_AS} stored in two "
            "ways, and neither the shapes nor peft_version tell which: set peft_version in adapter_config.json to that "
            "version if lora_A takes the inputs of the layer"
        )


def _numbers(version: str) -> list[int]:
    """Of a version, to compare it: [0, 19, 1]."""
    return [int(number) for number in re.findall(r"\d{1,6}", version)[:3]]


def _unnested(name: str) -> tuple[str, int]:
    """The path of the layer, and how deep in PEFT's wrappers this one is."""
    path = re.sub(r"(\.base_layer)+$", "", name)
    return path, (len(name) - len(path)) // len(".base_layer")


def _list_of(name: str) -> str:
    """``model.layers`` of ``model.layers.0.mlp``."""
    return re.split(r"\.\d+(?:\.|$)", name, maxsplit=1)[0]
