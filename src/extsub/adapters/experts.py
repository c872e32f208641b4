"""Fused experts (PEFT's ``target_parameters``): which parameter a key means, and which way round it is stored.

A layer's parameter is (experts, inputs, outputs) or (experts, outputs, inputs). A takes the inputs and B gives the
outputs, except in adapters of PEFT 0.18 and 0.19.0 for about half of the models, for these versions asked the layer
wrongly or not at all. There A and B are exchanged: each expert has the transpose of its change. Shapes nearly always
tell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from extsub.adapters.names import ends_of, last_part
from extsub.errors import ExtSubError
from extsub.escaping import brief

PARAMETER_ORDER = ("down_proj", "gate_up_proj")
"""Parameters in the order in which PEFT nests its wrappers: the last one registered is outermost."""
SURE = "0.19.1"
"""The version of PEFT from which on A takes the inputs."""

# Parameters of a gated expert: which reads what the layers pass on, and which writes it.
READS = re.compile(r"(^|[._])(gate|up|w1|w3|wi|input_linear)(?=[._]|$)")
WRITES = re.compile(r"(^|[._])(down|w2|wo|output_linear)(?=[._]|$)")


class Sizes(NamedTuple):
    """What a pair of factors says of its layer: A is (..., A), B is (B, ...)."""

    A: int
    B: int


class FusedExperts:
    """The bare parameters among the layers of one file."""

    def __init__(self, targets: Sequence[str], sizes: Mapping[str, Sizes], version: str | None, where: str) -> None:
        """``targets`` are ``target_parameters``, ``sizes`` those of every layer by its name in the file.

        Without a ``version`` it was PEFT 0.17, which knew transformers 4 alone, where layers are (experts, inputs,
        outputs), or extsub.
        """
        self._leaves: dict[str, set[str]] = {}
        for target in targets:
            owner, _, leaf = target.rpartition(".")
            self._leaves.setdefault(owner, set()).add(leaf)
        self._sizes, self._where = sizes, where
        self._doubtful = bool(version) and _numbers(version) < _numbers(SURE)
        self._hidden: dict[str, int] = {}
        for name, size in sizes.items():
            layer, _, leaf = name.rpartition(".self_attn.")
            if layer and leaf in ("q_proj", "k_proj", "v_proj", "o_proj"):
                self._hidden[_list_of(layer)] = size.B if leaf == "o_proj" else size.A

    def parameters(self, name: str) -> list[str]:
        """The full names of the parameters that a layer of the file may be; none if it is not a parameter.

        Raises:
            ExtSubError: two are nested in one another, and one of them is missing.
        """
        if not self._leaves:
            return []
        path, depth = _unnested(name)
        leaves = {leaf for owner in self._owners(path) for leaf in self._leaves[owner]}
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
        owners = {owner for name in names for owner in self._owners(_unnested(name)[0])}
        return sorted(f"{owner}.{leaf}".lstrip(".") for owner in owners for leaf in self._leaves[owner])

    def _owners(self, path: str) -> set[str]:
        """The names by which ``target_parameters`` may mean a layer. One is empty: where ``all-linear`` was asked for,
        PEFT 0.21 names the parameters of experts without their layer.
        """
        bare = {""} if last_part(path) == "experts" else set()
        return self._leaves.keys() & (ends_of(path) | bare)

    def are_exchanged(self, name: str, parameters: Sequence[str]) -> bool:
        """Whether A gives the outputs and B takes the inputs.

        Raises:
            ExtSubError: neither shapes nor version tell.
        """
        path, _ = _unnested(name)
        size, down, gate_up = (self._sizes.get(layer) for layer in (name, path, f"{path}.base_layer"))
        usual = exchanged = False
        if down and gate_up:
            usual = gate_up == (down.B, 2 * down.A)
            exchanged = gate_up == (2 * down.B, down.A)
        reads, writes = (all(map(words.search, parameters)) for words in (READS, WRITES))
        if size and usual == exchanged and reads != writes:
            hidden = self._hidden.get(_list_of(path))
            usual, exchanged = (width == hidden for width in (size if reads else reversed(size)))
        if usual != exchanged:
            return exchanged
        if not self._doubtful:
            return False
        raise ExtSubError(
            f"{self._where}: {brief(name)} has fused experts, which PEFT 0.18 and 0.19.0 stored in two ways, and the "
            f"shapes do not tell which: set peft_version in adapter_config.json to {SURE} if lora_A takes the "
            "inputs of the layer"
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
