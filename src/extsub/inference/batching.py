"""Work in batches: longest items first, so that little is padding and too little memory shows early; a batch that does
not fit is halved, and so are all after it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from extsub.errors import ExtSubError
from extsub.inference.soundness import Batch
from extsub.models.forward import is_out_of_memory

Item = TypeVar("Item")
Part = TypeVar("Part")
Result = TypeVar("Result")

AUTO_ROWS = 64
AUTO_TOKENS = 16_384
"""Padded tokens at once."""
AUTO_OUTPUTS = 2**28
"""Numbers of the output layer at once: a gigabyte in float32."""


@dataclass(frozen=True)
class Size:
    """What one item takes in a batch."""

    rows: int
    tokens: int
    """Tokens of its longest row."""
    outputs: int = 0
    """Numbers of the output layer."""


def alike(items: Sequence[Item], length: Callable[[Item], int], batch: Batch) -> list[list[Item]]:
    """The items in groups that may stand together in a batch, the longest first."""
    if batch == "any":
        return [list(items)]
    groups: dict[int, list[Item]] = {}
    for number, item in enumerate(items):
        groups.setdefault(number if batch == "one" else -length(item), []).append(item)
    return [groups[key] for key in sorted(groups)]


class Batches(Generic[Item, Result]):
    """Runs ``work`` on batches of items. ``size`` is the number of rows at once; None finds one that fits."""

    def __init__(
        self,
        work: Callable[[list[Item], int], list[Result]],
        size_of: Callable[[Item], Size],
        size: int | None,
        auto_tokens: int = AUTO_TOKENS,
    ) -> None:
        self._work, self._size_of = work, size_of
        self._rows, self._auto, self._auto_tokens = size or AUTO_ROWS, size is None, auto_tokens

    def run(self, items: Sequence[Item]) -> Iterator[Result]:
        """The results of all items, as they come: not in the order of the items.

        Raises:
            ExtSubError: even one row does not fit into memory.
        """
        waiting = sorted(items, key=lambda item: -self._size_of(item).tokens)
        while waiting:
            batch = waiting[: self._fitting(map(self._size_of, waiting))]
            try:
                results = self._work(batch, self._rows)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(error, self._size_of(batch[0]))
                continue
            del waiting[: len(batch)]
            yield from results

    def split(self, items: Sequence[Part], size_of: Callable[[Part], Size]) -> Iterator[Sequence[Part]]:
        """For ``work``: parts of other items, in their order, that are as large as a batch may be."""
        while items:
            count = self._fitting(map(size_of, items))
            yield items[:count]
            items = items[count:]

    def _fitting(self, sizes: Iterable[Size]) -> int:
        """How many of the first items make a batch; at least one."""
        count, longest, rows, outputs = 0, 0, 0, 0
        for size in sizes:
            longest, rows, outputs = max(longest, size.tokens), rows + size.rows, outputs + size.outputs
            too_much = self._auto and (rows * longest > self._auto_tokens or outputs > AUTO_OUTPUTS)
            if count and (rows > self._rows or too_much):
                break
            count += 1
        return count

    def _halve(self, error: BaseException, size: Size) -> None:
        if self._rows == 1:
            raise ExtSubError(
                f"out of memory with one row of {size.tokens:,} tokens: use --dtype bfloat16, or a larger machine"
            ) from error
        self._rows = self._rows // 2
        free_memory()


def free_memory() -> None:
    """Give back what nothing holds any more."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
