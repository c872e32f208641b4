"""What an adapter is, and how an expert and an anti-expert compare, module by module."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from os import PathLike
from typing import Any

import numpy as np

from extsub.adapters.adapter import Adapter, Module, Source
from extsub.adapters.codecs import CODECS
from extsub.adapters.load import decode, opened
from extsub.adapters.reading import open_tensors, read_config
from extsub.adapters.save import planned
from extsub.adapters.source import find_adapter
from extsub.arrays import smallest_common_dtype
from extsub.combination.matching import match, said_twice
from extsub.errors import ExtSubError
from extsub.escaping import brief
from extsub.notebooks import facts, table


@dataclass(frozen=True)
class ModuleInfo:
    """One adapted layer."""

    name: str
    shape: tuple[int, ...]
    rank: int
    scaling: float


@dataclass(frozen=True)
class AdapterInfo:
    """What an adapter is. Where it cannot be combined, only what the file says before decoding is known."""

    name: str
    kind: str | None
    base: str | None
    task_type: str | None
    commit: str | None
    tensors: int
    parameters: int
    bytes: int
    dtype: str | None
    problem: str | None
    """Why it cannot be combined, or None where it can."""

    modules: list[ModuleInfo]
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, with ``can_be_combined`` beside the fields."""
        return asdict(self) | {"can_be_combined": self.problem is None}

    def _repr_html_(self) -> str:
        rows = {"kind": self.kind, "base": self.base, "task": self.task_type, "dtype": self.dtype}
        counts = {"modules": len(self.modules), "parameters": self.parameters, "bytes": self.bytes}
        return facts(self.name, {**rows, **counts, "cannot be combined": self.problem})


@dataclass(frozen=True)
class ModuleComparison:
    """Expert row against anti-expert row, over one module."""

    name: str
    expert_norm: float
    """Frobenius norm of the expert's delta."""

    anti_norm: float
    ratio: float | None
    """The ratio anti_norm / expert_norm; None where the expert is zero."""

    mean_row_cosine: float | None
    """Over rows in which both have a direction; None where there is none."""

    shared_energy: float | None
    """Share of the anti-expert's squared norm that Ext-Sub keeps, sum |p|^2 / sum |a|^2; the rest is subtracted."""

    largest_row_ratio: float | None
    """Ext-Sub at strength alpha scales some expert row by 1 + alpha/2 times this."""

    zero_expert_rows: int
    rows: int


@dataclass(frozen=True)
class PairInfo:
    """Two adapters, and their modules with the largest norm ratio first."""

    expert: AdapterInfo
    anti_expert: AdapterInfo
    modules: list[ModuleComparison]
    notes: list[str]

    def _repr_html_(self) -> str:
        heads = ("module", "|a| / |e|", "mean row cosine", "shared energy", "largest row ratio")
        rows = [
            (module.name, module.ratio, module.mean_row_cosine, module.shared_energy, module.largest_row_ratio)
            for module in self.modules
        ]
        return table(f"{self.anti_expert.name} (a) against {self.expert.name} (e)", heads, rows)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "expert": self.expert.to_dict(),
            "anti_expert": self.anti_expert.to_dict(),
            "modules": [asdict(module) for module in self.modules],
            "notes": self.notes,
        }


def inspect(
    adapter: Adapter | str | PathLike[str],
    anti_expert: Adapter | str | PathLike[str] | None = None,
    *,
    base_model: str | None = None,
) -> AdapterInfo | PairInfo:
    """What an adapter is, also one that cannot be combined; with an anti-expert, how the two compare.

    Modules that only one of a pair has count as zero in the other. Reads every number: O(parameters * rank).

    Raises:
        ExtSubError: nothing readable there, or for a pair, the two do not belong together.
    """
    if anti_expert is not None:
        return compare(opened(adapter), opened(anti_expert), base_model=base_model)
    return _summary(adapter) if isinstance(adapter, Adapter) else _describe(find_adapter(str(adapter)))


def compare(expert: Adapter, anti_expert: Adapter, *, base_model: str | None = None) -> PairInfo:
    """How two loaded adapters compare.

    Raises:
        ExtSubError: they do not belong together.
    """
    matched = match(expert, [anti_expert], missing_modules="zero", modules_to_save="expert", base_model=base_model)
    modules = [_compare(name, e, a) for name, (e, (a,)) in matched.modules.items()]
    modules.sort(key=lambda module: (-(math.inf if module.ratio is None else module.ratio), module.name))
    notes = [*matched.notes, *said_twice(expert, anti_expert)]
    return PairInfo(_summary(expert), _summary(anti_expert), modules, notes)


def _describe(source: Source) -> AdapterInfo:
    """From the decoded adapter where it decodes, from the bare files where it does not."""
    config = read_config(source.config, source.name)
    try:
        tensors = open_tensors(source.weights, source.name).info
    except ExtSubError:
        tensors = {}  # decoding says why
    modules: list[ModuleInfo] = []
    notes: list[str] = []
    problem = None
    try:
        adapter = decode(source)
        zero = [name for name, module in adapter.modules.items() if not module.read().row_norms().any()]  # finds NaN
    except ExtSubError as error:
        problem = str(error)
    else:
        modules = [ModuleInfo(name, m.shape, m.rank, m.scaling) for name, m in adapter.modules.items()]
        notes = [*adapter.notes, *_oddities(adapter, zero)]
    named = {name: config.get(name) for name in ("peft_type", "base_model_name_or_path", "task_type")}
    kind, base, task_type = (None if value is None else brief(value) for value in named.values())
    dtypes = [info.dtype for info in tensors.values()]
    return AdapterInfo(
        name=source.name,
        kind=kind,
        base=base,
        task_type=task_type,
        commit=source.commit,
        tensors=len(tensors),
        parameters=sum(math.prod(info.shape) for info in tensors.values()),
        bytes=source.weights.stat().st_size if source.weights.exists() else 0,
        dtype=smallest_common_dtype(dtypes).name if dtypes else None,
        problem=problem,
        modules=modules,
        notes=notes,
    )


def _oddities(adapter: Adapter, zero: list[str]) -> list[str]:
    """What is legal and yet surprising."""
    notes = []
    if len(zero) == len(adapter.modules):
        notes.append("every row is zero: it is refused as an expert, and changes nothing as an anti-expert")
    elif zero:
        notes.append(f"{len(zero)} of {len(adapter.modules)} modules are zero (never trained?), first {brief(zero[0])}")
    if caution := CODECS[adapter.kind].caution:
        notes.append(caution)
    if adapter.copies:
        notes.append(f"{len(adapter.copies)} tensors are stored whole (heads, vocabulary): see --modules-to-save")
    return notes


def _summary(adapter: Adapter) -> AdapterInfo:
    """Of one on disk, as it lies there; of a result in memory, as it would be written."""
    if adapter.source:
        return _describe(adapter.source)
    tensors = planned(adapter)
    return AdapterInfo(
        name=adapter.name,
        kind=adapter.kind,
        base=adapter.base,
        task_type=adapter.settings.get("task_type"),
        commit=None,
        tensors=len(tensors),
        parameters=sum(math.prod(shape) for _, shape in tensors.values()),
        bytes=sum(math.prod(shape) * dtype.itemsize for dtype, shape in tensors.values()),
        dtype=adapter.dtype.name,
        problem=None,
        modules=[ModuleInfo(name, m.shape, m.rank, m.scaling) for name, m in adapter.modules.items()],
        notes=list(adapter.notes),
    )


def _compare(name: str, expert: Module | None, anti_expert: Module | None) -> ModuleComparison:
    present = expert or anti_expert
    assert present
    rows = math.prod(present.shape[:-1])
    if expert is None or anti_expert is None:
        norm = float(np.linalg.norm(present.read().row_norms()))
        if expert is None:
            return ModuleComparison(name, 0.0, norm, None, None, None, None, rows, rows)
        return ModuleComparison(name, norm, 0.0, 0.0, None, None, 0.0, 0, rows)
    e, a = expert.read(), anti_expert.read()
    e_norms, a_norms = e.row_norms(), a.row_norms()
    both = (e_norms > 0) & (a_norms > 0)
    cosine = (e.row_dots(a)[both] / (e_norms[both] * a_norms[both])).clip(-1, 1)
    # |p|^2 = |a|^2 (1 + cos) / 2, from p = |a|/2 (e/|e| + a/|a|)
    energy = a_norms[both] ** 2
    expert_norm, anti_norm = float(np.linalg.norm(e_norms)), float(np.linalg.norm(a_norms))
    compared = e_norms > 0
    return ModuleComparison(
        name=name,
        expert_norm=expert_norm,
        anti_norm=anti_norm,
        ratio=anti_norm / expert_norm if expert_norm else None,
        mean_row_cosine=float(cosine.mean()) if both.any() else None,
        shared_energy=float((energy * (1 + cosine) / 2).sum() / energy.sum()) if both.any() else None,
        largest_row_ratio=float((a_norms[compared] / e_norms[compared]).max()) if compared.any() else None,
        zero_expert_rows=int((e_norms == 0).sum()),
        rows=rows,
    )
