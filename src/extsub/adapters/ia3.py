"""IA3 on disk, to deltas and back. A vector ``l`` multiplies activations and 1 is neutral: the delta is the one row
``l - 1`` (Liu et al., 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from extsub.adapters import config as fields
from extsub.adapters.adapter import PREFIX, Adapter, Layout, Module, Source
from extsub.adapters.claims import check_claims
from extsub.adapters.codec import Codec
from extsub.adapters.keys import sort_keys
from extsub.adapters.names import ends_of, refuse_lost
from extsub.adapters.patterns import full_matches
from extsub.adapters.targets import saved_names, short_targets, written_targets
from extsub.adapters.tensors import TensorFile
from extsub.algebra import Delta
from extsub.arrays import double
from extsub.errors import ExtSubError
from extsub.escaping import brief

KNOWN_FIELDS = fields.COMMON_FIELDS | {"feedforward_modules", "init_ia3_weights"}


@dataclass(frozen=True)
class Vector(Layout):
    """``ia3_l``: (out, 1) where it multiplies outputs, (1, in) where it multiplies inputs (feed-forward)."""

    factored: ClassVar[bool] = False
    neutral: ClassVar[float] = 1.0
    shape: tuple[int, ...]
    feedforward: bool

    def pack(self, name: str, B: Any, A: Any) -> dict[str, Any]:
        return {f"{PREFIX}{name}.ia3_l": (1 + B @ A).reshape(self.shape)}


def decode(config: Mapping[str, Any], file: TensorFile, source: Source) -> Adapter:
    """The adapter that ``config`` and ``file`` describe, if they agree.

    Raises:
        ExtSubError: a field, a key or a shape that is not plain IA3; the message names it.
    """
    where = source.name
    fields.check_fields(config, KNOWN_FIELDS, {}, where)
    saved = fields.names(config, "modules_to_save", where)
    keys = sort_keys(file.info, ["ia3_l"], saved, where)
    refuse_lost(keys.modules, where)
    vectors = {name: key["ia3_l"] for name, key in sorted(keys.modules.items())}
    inputs = _inputs(config, [name for name, key in vectors.items() if len(file.info[key].shape) != 2], where)
    modules = {name: _module(key, name in inputs, file) for name, key in vectors.items()}
    return Adapter(
        kind="IA3",
        base=fields.text(config, "base_model_name_or_path", where),
        modules=modules,
        settings=fields.settings(config, where) | {"fan_in_fan_out": fields.flag(config, "fan_in_fan_out", where)},
        targets=short_targets(config, modules, where),
        saved=tuple(saved),
        copies=file.copies(keys.copies),
        base_layers=file.copies(keys.base_layers),
        source=source,
        notes=(*keys.notes, *check_claims(config, keys, modules, where)),
    )


def encode(adapter: Adapter) -> dict[str, Any]:
    """The smallest adapter_config.json that says what this adapter is."""
    ends: dict[bool, set[str]] = {True: set(), False: set()}  # of layers whose inputs it multiplies, and whose outputs
    for name, module in adapter.modules.items():
        ends[getattr(module.layout, "feedforward", False)] |= ends_of(name)
    targets = written_targets(adapter)
    if ends[True] & ends[False] & set(targets):
        targets = sorted(adapter.modules)  # a short name cannot mean both
    config = {
        "peft_type": "IA3",
        "base_model_name_or_path": adapter.base,
        "target_modules": targets,
        "feedforward_modules": [target for target in targets if target in ends[True]],
        "init_ia3_weights": True,
        "inference_mode": True,
        "modules_to_save": saved_names(adapter),
    }
    return config | adapter.settings


def _module(key: str, is_input: bool, file: TensorFile) -> Module:
    info = file.info[key]
    if not info.shape or 0 in info.shape or sum(size != 1 for size in info.shape) > 1:
        raise ExtSubError(
            f"{file.where}: {brief(key)} has shape {list(info.shape)}, expected a vector: the file is damaged"
        )
    feedforward = info.shape[0] == 1 if len(info.shape) == 2 else is_input
    size = max(info.shape)

    def read() -> Delta:
        vector = double(file.read(key)).reshape(1, size)
        return Delta.product(np.ones((1, 1)), vector - 1)

    return Module(Vector(info.shape, feedforward), (1, size), 1, info.dtype, read)


def _inputs(config: Mapping[str, Any], names: Sequence[str], where: str) -> set[str]:
    """Which of ``names`` multiply their inputs, as PEFT decides it: by an expression for whole names, or by ends."""
    field = "feedforward_modules"
    if isinstance(pattern := config.get(field), str):
        return full_matches(field, pattern, names, where)
    return {name for name in names if name.endswith(tuple(fields.names(config, field, where)))}


CODEC = Codec("IA3", "An IA3", decode, encode)
