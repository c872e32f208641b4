"""Names of layers: what wrappers leave in them, which of them no base can have, and when two of them mean one layer.

A name is the path of a module in the base model, ``model.layers.0.self_attn.q_proj``. PEFT looks layers up by it and
leaves those that it does not find as they are, without a word.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from extsub.errors import ExtSubError
from extsub.escaping import brief

# torch.compile, FSDP, fairscale, activation checkpointing, Lightning, ONNX Runtime, Opacus: each puts a module of this
# name around another one, at any depth, and perhaps around some layers only.
WRAPPERS = (
    "_orig_mod _fsdp_wrapped_module _fpw_module _checkpoint_wrapped_module _forward_module _torch_module _module"
).split()
_ANY = "|".join(WRAPPERS)
_IN_CONFIG = re.compile(rf"(?<![^.])({_ANY})\\?\.|\\?\.({_ANY})$|^module\\?\.(?=.)")  # also where the dot is escaped

# The fields of a config that name layers of the file.
_NAMING_FIELDS = (
    "target_modules target_parameters modules_to_save feedforward_modules rank_pattern alpha_pattern".split()
)

DEEPEST = 24
"""Parts of a path that are looked at: no model is as deep."""

# Names that PEFT gives, and no base.
_PEFTS = {"base_layer", "original_module", "modules_to_save", "base_model"}

# What transformers calls otherwise than it did: (old, new). More or less in front of a name needs no list.
_RENAMES = (
    (re.compile(r"\bblock_sparse_moe\b"), "mlp"),
    (re.compile(r"(\.experts\.\d+)\.w1$"), r"\1.gate_proj"),
    (re.compile(r"(\.experts\.\d+)\.w2$"), r"\1.down_proj"),
    (re.compile(r"(\.experts\.\d+)\.w3$"), r"\1.up_proj"),
    (re.compile(r"\b(layer|blocks?|h)\.(?=\d)"), "layers."),
)

# Layers that some versions of a model have as one, and others apart.
FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}

# Parts of a model, which may have layers of the same names and shapes.
_TOWERS = {"vision": re.compile(r"vision|visual|vit|image"), "audio": re.compile(r"audio|speech|sound")}
_PARTS = {"encoder": re.compile(r"encoder"), "decoder": re.compile(r"decoder"), "mtp": re.compile(r"mtp|nextn")}


def last_part(name: str) -> str:
    """``q_proj`` of ``model.layers.0.self_attn.q_proj``."""
    return name.rpartition(".")[2]


def without_wrappers(name: str) -> tuple[str, list[str]]:
    """The name without those of wrappers, and the ones that were in it."""
    parts = name.split(".")
    return ".".join(part for part in parts if part not in WRAPPERS), [part for part in parts if part in WRAPPERS]


def unwrapped(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """``config`` with the names of layers as they are without wrappers.

    Raises:
        ExtSubError: a pattern then has two values, or names a wrapper in a way of its own.
    """
    return dict(config) | {
        field: _clean_pattern(config[field], field, where) if isinstance(config[field], dict) else _clean(config[field])
        for field in _NAMING_FIELDS
        if field in config
    }


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _IN_CONFIG.sub("", value)
    return [_clean(name) for name in value] if isinstance(value, list) else value


def _clean_pattern(pattern: Mapping[str, Any], field: str, where: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pattern.items():
        clean = _clean(key)
        if wrapper := re.search(rf"(?<![A-Za-z0-9])({_ANY})(?![A-Za-z0-9_])", clean):
            raise ExtSubError(f"{where}: {field} in adapter_config.json names {wrapper[1]}: write its keys without it")
        if result.setdefault(clean, value) != value:
            raise ExtSubError(f"{where}: {field} in adapter_config.json gives {brief(clean)} two values: keep one")
    return result


def ends_of(name: str) -> set[str]:
    """All that may stand in a list of ``target_modules`` for this layer: its name from any part on.

    MultiheadAttention keeps its output projection inside the layer that such a list names.
    """
    paths = [layer.split(".") for layer in {name, name.partition(".base_layer.")[0]}]
    ends = {".".join(path[-length:]) for path in paths for length in range(1, min(len(path), DEEPEST) + 1)}
    return ends | {name}


def runs_of(name: str) -> set[str]:
    """All runs of parts of a path: what may stand in ``modules_to_save`` for what is in it."""
    path = name.split(".")
    return {".".join(path[start : start + length]) for start in range(len(path)) for length in range(1, DEEPEST)}


def refuse_lost(names: Iterable[str], where: str) -> None:
    """Refuse an adapter of layers that PEFT would look for in vain.

    Raises:
        ExtSubError: no base has a layer of such a name, or none has both ``model.layers`` and ``model.model.layers``
            (or ``language_model.model.layers``).
    """
    roots: dict[tuple[str, ...], str] = {}
    for name in names:
        parts = name.split(".")
        if reason := _why_no_layer(parts):
            raise ExtSubError(f"{where}: {brief(name)} is not a layer that PEFT would find: {reason}; rename its keys")
        root = parts[: _numbered(parts)]
        plain = tuple(itertools.dropwhile(lambda part: part in ("model", "language_model"), root))
        first = roots.setdefault(plain, ".".join(root))
        if plain and first != ".".join(root):
            raise ExtSubError(
                f"{where}: some of its layers are below {brief(first)} and some below {brief('.'.join(root))}: no base "
                "has both, so PEFT would leave some of them as they are; give all of them the names that they have in "
                "the base"
            )


def _why_no_layer(parts: list[str]) -> str | None:
    """Why no base has a layer with a name of these parts; None where one may have it."""
    if "" in parts:
        return "a part of the name is empty"
    if strange := next((part for part in parts if part.startswith("_")), None):
        return f"{brief(strange)} is what some wrapper is called, and extsub does not know this one"
    if "module" in parts:
        return "'module' is what wrappers for several GPUs are called"
    if given := _PEFTS & set(parts):
        return f"PEFT calls modules {min(given)} that it makes itself"
    return None


class _Place(NamedTuple):
    """Where a layer is, as far as its name says."""

    tail: str
    """The name from the list that it is numbered in, ``layers.0.self_attn.q_proj``."""
    part: frozenset[str]
    """The part of the model: ``vision``, ``encoder``, ..."""
    path: frozenset[str]
    """What else is in front."""

    @classmethod
    def of(cls, name: str) -> _Place:
        for old, new in _RENAMES:
            name = old.sub(new, name)
        parts = name.split(".")
        start = max(0, _numbered(parts) - 1)
        front = parts[:start]
        # a tower of a vision or audio model has one coder, whether it is called so or not
        for kinds in (_TOWERS, _PARTS):
            part = frozenset(kind for kind, words in kinds.items() if any(map(words.search, front)))
            if part:
                break
        words = [*_TOWERS.values(), *_PARTS.values()]
        path = frozenset(segment for segment in front if not any(word.search(segment) for word in words))
        return cls(".".join(parts[start:]), part, path)

    def may_be(self, other: _Place) -> bool:
        """Whether they may be one place, called by two versions of a library: one says no more than the other."""
        return self.part == other.part and (self.path <= other.path or self.path >= other.path)


class Layers:
    """The layers of a model by what stays the same in their names from one version of a library to the next.

    That is all from the layer's number on. In front, one name has all that the other has, in any order:
    ``visual.blocks`` and ``model.visual.blocks``, ``language_model.model.layers`` and
    ``model.language_model.layers``. So has every renaming of transformers so far.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._places: dict[str, list[tuple[str, _Place]]] = {}
        for name in names:
            place = _Place.of(name)
            self._places.setdefault(place.tail, []).append((name, place))

    def like(self, name: str) -> list[str]:
        """Those that may be the layer that somebody calls ``name``."""
        place = _Place.of(name)
        return [other for other, its in self._places.get(place.tail, ()) if place.may_be(its)]


def one_layer_twice(
    mine: Mapping[str, tuple[int, ...]], theirs: Mapping[str, tuple[int, ...]]
) -> tuple[str, str] | None:
    """A name of ``mine`` and another of ``theirs`` that mean one layer of equal shape, if there are any. Both map names
    to shapes."""
    known = Layers(mine)
    for name, shape in theirs.items():
        for other in known.like(name):
            if mine[other] == shape:
                return other, name
    return None


def fused_and_apart(mine: Iterable[str], theirs: Iterable[str]) -> tuple[str, str] | None:
    """A name of ``mine`` and one of ``theirs`` where one has in one tensor what the other has in several, if any:
    the experts of a layer (``mlp.experts`` and ``mlp.experts.0.up_proj``), or its projections."""
    wholes, pieces = ([{}, {}] for _ in range(2))
    for side, names in enumerate((mine, theirs)):
        for name in names:
            path = name.partition(".base_layer")[0]
            owner, expert, rest = path.partition(".experts.")
            parent, _, leaf = path.rpartition(".")
            if leaf == "experts":
                wholes[side][path] = name
            elif expert and rest[0].isdigit():
                pieces[side][f"{owner}.experts"] = name
            elif leaf in FUSED:
                wholes[side] |= {f"{parent}.{projection}": name for projection in FUSED[leaf]}
            else:
                pieces[side][path] = name
    for side in (0, 1):
        by_tail = {(place := _Place.of(path)).tail: (place, name) for path, name in wholes[side].items()}
        for path, name in pieces[1 - side].items() if by_tail else ():
            place = _Place.of(path)
            if place.tail in by_tail and place.may_be(by_tail[place.tail][0]):
                whole = by_tail[place.tail][1]
                return (whole, name) if side == 0 else (name, whole)
    return None


def _numbered(parts: list[str]) -> int:
    """Where the first number stands; the end where there is none."""
    return next((place for place, part in enumerate(parts) if part.isdigit()), len(parts))
