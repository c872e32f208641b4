"""A result before it is written: its modules are computed one at a time, when they are asked for, and what was seen
meanwhile is summed up.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from extsub.adapters.adapter import Adapter, Module, Source
from extsub.adapters.stated import stated_in
from extsub.algebra import Delta, Operation, RowWeights, Truncation, row_weights, truncate, weigh
from extsub.arrays import DTYPES, FLOAT32, DType, smallest_common_dtype
from extsub.combination import serving
from extsub.combination.figures import LARGE_AMPLIFICATION, ModuleFigures, truncation, zero_anti_rows
from extsub.combination.matching import Match, said_twice
from extsub.combination.profile import Profile
from extsub.combination.verification import verify
from extsub.errors import ExtSubError
from extsub.parallel import in_order

LARGEST_ALPHA = 3
"""Up to it operations are swept unless another grid is asked for."""


def _provenance(adapter: Adapter) -> dict[str, Any]:
    """What identifies an input, and what it says of itself."""
    if adapter.source is None:
        return {"name": None}
    return adapter.source.provenance() | stated_in(adapter.source.folder)._asdict()


@dataclass(frozen=True, eq=False)
class Combination:
    """How a result is made (`Origin`): computes its modules, and sums up what was seen."""

    operation: Operation
    alphas: list[float]
    """The strength of each anti-expert."""
    expert: Adapter
    anti_experts: Sequence[Adapter]
    matched: Match
    rank: int | None
    dtype: str
    deficiency: bool
    """Whether it is what the operation takes away, and not what is left."""
    profile: Profile
    factors: dict[str, float]
    """The profile's factor for each module."""

    @property
    def adapters(self) -> list[Adapter]:
        """The expert, and then its anti-experts."""
        return [self.expert, *self.anti_experts]

    @property
    def dtypes(self) -> list[DType]:
        if self.dtype != "auto":
            return [DTYPES[self.dtype]]
        common = smallest_common_dtype([adapter.dtype for adapter in self.adapters])
        return [common] if common == FLOAT32 else [common, FLOAT32]

    def alphas_of(self, name: str) -> list[float]:
        """The strength of each anti-expert in one module; a deficiency is what is taken away at strength 1."""
        return [1.0 if self.deficiency else alpha * self.factors[name] for alpha in self.alphas]

    def sources(self) -> list[Source]:
        return [adapter.source for adapter in self.adapters if adapter.source]

    def modules(self) -> dict[str, Module]:
        """The modules of the result, by name."""
        return {name: self._module(name) for name in self.matched.modules}

    def _module(self, name: str) -> Module:
        expert, others = self.matched.modules[name]
        present = [module for module in (expert, *others) if module]
        kept = present if self.operation.keeps_anti_expert else [expert] if expert else []
        rank = sum(module.rank for module in kept)
        if self.rank is not None:
            rank = min(rank, self.rank)
        dtype = smallest_common_dtype([module.dtype for module in present])
        return replace(present[0], rank=rank, dtype=dtype, read=lambda: self.compute(name)[0], scaling=1.0)

    def deltas(self, name: str) -> tuple[Delta, list[Delta]]:
        """The inputs of one module; an absent one has rank 0."""
        expert, others = self.matched.modules[name]
        present = next(module for module in (expert, *others) if module)

        def read(module: Module | None) -> Delta:
            if module:
                return module.read()
            *batch, rows, columns = present.shape
            return Delta.product(np.zeros((*batch, rows, 0)), np.zeros((*batch, 0, columns)))

        return read(expert), [read(module) for module in others]

    def exact(self, name: str) -> tuple[Delta, RowWeights]:
        """(the result of one module before truncation, the row weights of the operation)"""
        expert, anti_experts = self.deltas(name)
        weights = used = row_weights(self.operation, expert, anti_experts, self.alphas_of(name))
        if self.deficiency:  # d = e - result at alpha 1
            used = weights._replace(expert=1 - weights.expert, anti_experts=[-y for y in weights.anti_experts])
        return weigh(self.operation, expert, anti_experts, used), weights

    def compute(self, name: str) -> tuple[Delta, ModuleFigures]:
        """(the result of one module, what was seen while it was made)"""
        delta, weights = self.exact(name)
        truncated = truncate(delta, self.rank) if self.rank else Truncation(delta, 0.0, 0.0)
        return truncated.delta, ModuleFigures(
            rows=weights.expert.size,
            zero_expert_rows=np.flatnonzero(weights.zero_expert_rows),
            zero_anti_rows=[int(rows.sum()) for rows in weights.zero_anti_rows],
            amplification=float(np.abs(weights.expert).max()),
            amplified=int((np.abs(weights.expert) > LARGE_AMPLIFICATION).sum()),
            squared_error=truncated.squared_error,
            squared_norm=truncated.squared_norm,
        )

    def figures(self, seen: Mapping[str, ModuleFigures]) -> dict[str, Any]:
        """Operation, inputs and figures, for the provenance file.

        Raises:
            ExtSubError: the expert changes nothing at all: there is nothing to improve.
        """
        rows = sum(figures.rows for figures in seen.values())
        zero_rows = sum(len(figures.zero_expert_rows) for figures in seen.values())
        if zero_rows == rows:
            raise ExtSubError(f"{self.expert.name} is zero in every row: it was never trained, or its B was not saved")
        largest = max(seen, key=lambda name: seen[name].amplification)
        alphas = [None] * len(self.alphas) if self.deficiency else self.alphas
        roles = [("expert", None), *(("anti-expert", alpha) for alpha in alphas)]
        return {
            "operation": self.operation.name,
            "formula": self.operation.formula,
            "deficiency": self.deficiency,
            **({} if self.profile == Profile() else {"profile": self.profile.to_dict()}),
            "inputs": [
                {"role": role, "alpha": alpha, **given}
                for (role, alpha), given in zip(roles, in_order(_provenance, self.adapters), strict=True)
            ],
            "rows": rows,
            "zero_rows": {"expert": zero_rows, "anti_experts": zero_anti_rows(seen)},
            "largest_amplification": {"factor": seen[largest].amplification, "module": largest},
            "truncation": truncation(seen, self.rank) if self.rank else None,
            "serve": self._serve(),
        }

    def _serve(self) -> dict[str, str]:
        """The flags that vLLM needs, or why it cannot serve the result."""
        if self.deficiency:
            return {
                "problem": "a deficiency is not an adapter to use alone: load it beside the expert, with the scale -α"
            }
        if self.matched.copies:
            return {"problem": "servers take no tensors stored whole"}
        return serving.vllm(self.expert.kind, self.modules(), self.matched.settings)

    def verify(self, written: Adapter, seen: Mapping[str, ModuleFigures]) -> dict[str, Any]:
        return verify(self, written, seen)

    def notes(self, dtype: DType, seen: Mapping[str, ModuleFigures]) -> list[str]:
        notes = []
        if self.dtype == "auto" and dtype != self.dtypes[0]:
            notes.append(f"stored as float32: some numbers do not fit {self.dtypes[0].name}")
        rows = sum(figures.rows for figures in seen.values())
        for adapter, zero_rows in zip(self.anti_experts, zero_anti_rows(seen), strict=True):
            if zero_rows == rows:
                notes.append(f"{adapter.label} is zero in every row, so it changes nothing")
        amplified = sum(figures.amplified for figures in seen.values())
        if amplified:
            notes.append(
                f"rows of the expert scaled by more than {LARGE_AMPLIFICATION}: {amplified:,} of {rows:,}; their "
                "direction may be noise, and it is amplified; a smaller α amplifies less"
            )
        for alpha in dict.fromkeys([] if self.deficiency else self.alphas):
            if alpha < 0:
                notes.append(f"α is {alpha:g}: below 0 an operation does the opposite of what it is for")
            elif alpha > LARGEST_ALPHA:
                notes.append(f"α is {alpha:g}: beyond {LARGEST_ALPHA} nothing was measured")
        for adapter, other in itertools.combinations(self.adapters, 2):
            notes += said_twice(adapter, other)
        return notes + serving.notes(self.modules())
