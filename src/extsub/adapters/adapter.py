"""What an adapter is once it is off the disk: its modules, and the few facts of its config that a result keeps.

Nothing here holds tensors. A module reads its delta when asked and forgets it, so an adapter of any size costs no
memory, and the result of combining two adapters is an adapter like any other.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from extsub.algebra import Delta
from extsub.arrays import Array, DType, smallest_common_dtype
from extsub.notebooks import facts

PREFIX = "base_model.model."
"""What PEFT puts before the name of every module."""


class Layout(Protocol):
    """How the delta of one module is stored as tensors. Layouts of two adapters must be equal to be combined."""

    factored: ClassVar[bool] = True
    """Whether the file holds the two factors. If not, it holds their product, and precision is kept until then."""

    neutral: ClassVar[float] = 0.0
    """The number that stands for no change, which is stored together with the change: it costs digits."""

    def pack(self, name: str, B: Any, A: Any) -> dict[str, Any]:
        """The tensors of the delta ``B @ A`` by their key in the file. Takes torch tensors too."""
        ...


@dataclass(frozen=True, eq=False)
class Module:
    """One adapted layer of the base model."""

    layout: Layout
    shape: tuple[int, ...]
    """(rows, columns) of the delta; (experts, rows, columns) for fused MoE parameters."""

    rank: int
    dtype: DType
    """The dtype it is stored in."""

    read: Callable[[], Delta]
    """Read the delta, scaling folded in. Raises ExtSubError where a number is not finite."""

    parameters: tuple[str, ...] = ()
    """Of a bare parameter (PEFT's ``target_parameters``) the full names that it may have; empty for a layer."""

    scaling: float = 1.0
    """What the config multiplied ``B @ A`` with; already in the delta."""

    @property
    def parameter(self) -> bool:
        """Whether it is a bare parameter, which ``target_modules`` does not name."""
        return bool(self.parameters)


@dataclass(frozen=True)
class Copy:
    """A tensor of the base model that the adapter replaces (``modules_to_save``, a resized vocabulary)."""

    dtype: DType
    shape: tuple[int, ...]
    read: Callable[[], Array] = field(compare=False)


@dataclass(frozen=True)
class Source:
    """Where an adapter was read from."""

    name: str
    """As the user wrote it; for messages."""

    folder: Path
    config: Path
    weights: Path
    hub_id: str | None = None
    commit: str | None = None
    notes: tuple[str, ...] = ()
    """What else lies there that holds weights, one sentence each."""

    @property
    def label(self) -> str:
        """A name fit for publishing: of a local folder only the last part."""
        return self.hub_id or self.folder.resolve().name

    def provenance(self) -> dict[str, Any]:
        """What identifies this input for ever."""
        return {
            "name": self.label,
            "commit": self.commit,
            "weights_sha256": sha256(self.weights),
            "config_sha256": sha256(self.config),
        }


@dataclass(frozen=True, eq=False, repr=False)
class Adapter:
    """A PEFT adapter: what it adds to which module of which base model."""

    kind: str
    """LORA, IA3 or PREFIX_TUNING. AdaLoRA is LORA here: its delta is the same thing."""

    base: str | None
    """``base_model_name_or_path``."""

    modules: dict[str, Module]
    """By name in the base model, e.g. ``model.layers.0.self_attn.q_proj``."""

    settings: dict[str, Any]
    """The fields of adapter_config.json that keep their meaning in a result (``task_type`` and a few more)."""

    targets: tuple[str, ...] | None
    """Short names that PEFT expands to exactly these modules, or None where only full names are sure to."""

    saved: tuple[str, ...] = ()
    """``modules_to_save`` of the config."""

    copies: dict[str, Copy] = field(default_factory=dict)
    """By key in the file."""

    base_layers: dict[str, Copy] = field(default_factory=dict)
    """Copies of base weights that PEFT stores beside adapted embeddings. Not part of a result."""

    source: Source | None = None
    """None for a result that is not on disk yet."""

    notes: tuple[str, ...] = ()
    """What a careful user should know, one sentence each."""

    origin: Origin | None = None
    """How it was made, if it was made here."""

    def __repr__(self) -> str:
        base = f" of {self.base}" if self.base else ""
        return f"<Adapter {self.name!r}: {self.kind}{base}, {len(self.modules)} modules, {self.dtype.name}>"

    def _repr_html_(self) -> str:
        rank = self.rank if len({module.rank for module in self.modules.values()}) == 1 else f"up to {self.rank}"
        rows = {"kind": self.kind, "base": self.base, "modules": len(self.modules), "rank": rank}
        return facts(self.name, {**rows, "dtype": self.dtype.name, "notes": "; ".join(self.notes) or None})

    @property
    def name(self) -> str:
        """The name as the user wrote it, or ``the result`` where it is not on disk yet; for messages."""
        return self.source.name if self.source else "the result"

    @property
    def label(self) -> str:
        """A name fit for publishing, or ``the result``; for notes, which are written into the result."""
        return self.source.label if self.source else "the result"

    @property
    def rank(self) -> int:
        """The largest rank of any module."""
        return max(module.rank for module in self.modules.values())

    @property
    def dtype(self) -> DType:
        """The smallest dtype that holds every module's numbers exactly."""
        return smallest_common_dtype([module.dtype for module in self.modules.values()])


class Origin(Protocol):
    """What a made adapter knows of its making; `save_adapter` asks."""

    @property
    def dtypes(self) -> Sequence[DType]:
        """Storage dtypes to try in this order; the next one is taken where a number does not fit."""
        ...

    @property
    def deficiency(self) -> bool:
        """Whether it is what Ext-Sub subtracts, instead of a result."""
        ...

    def sources(self) -> list[Source]:
        """What it was made from."""
        ...

    def compute(self, name: str) -> tuple[Delta, Any]:
        """One module's delta, and what was seen while it was made: for the three below."""
        ...

    def figures(self, seen: Mapping[str, Any]) -> dict[str, Any]:
        """Operation, inputs and figures, for the provenance file."""
        ...

    def verify(self, written: Adapter, seen: Mapping[str, Any]) -> dict[str, Any]:
        """Compare what was written with what was meant. Raises RuntimeError where they differ: that is a bug."""
        ...

    def notes(self, dtype: DType, seen: Mapping[str, Any]) -> list[str]:
        """What a careful user should know of the result, written in ``dtype``."""
        ...


def sha256(path: Path) -> str:
    """Hex digest of a file; a file that is still the same is read once in a process."""
    state = path.stat()
    return _sha256(path.absolute(), (state.st_ino, state.st_mtime_ns, state.st_size))


@functools.lru_cache(maxsize=256)
def _sha256(path: Path, _state: tuple[int, ...]) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
