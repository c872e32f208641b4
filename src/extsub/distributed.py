"""The processes of ``accelerate launch``: which of them this is, and what they tell one another. Alone, one process has
everything. accelerate and torch are loaded only by `process_group`.
"""

from __future__ import annotations

import atexit
import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from extsub.errors import ExtSubError

Value = TypeVar("Value")


def is_main_process() -> bool:
    """Whether this process is the one that prints and writes, before any library of processes is loaded."""
    return os.environ.get("RANK", "0") == "0"


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those that run the same command."""

    rank: int
    world_size: int

    @property
    def is_main(self) -> bool:
        """Whether this is the process that prints and writes results."""
        return self.rank == 0

    def split(self, items: Mapping[int, Value]) -> dict[int, Value]:
        """This process's part: every ``world_size``-th item, so that long and short ones are spread."""
        return {index: items[index] for index in sorted(items)[self.rank :: self.world_size]}

    def gather(self, ours: Mapping[int, Value]) -> list[dict[int, Value]]:
        """Every process's part, in the order of ranks, for every process."""
        if self.world_size == 1:
            return [dict(ours)]
        from accelerate.utils import gather_object

        return gather_object([dict(ours)])

    def broadcast(self, value: Value) -> Value:
        """The value that the main process has, for every process."""
        if self.world_size == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def run_on_main(self, work: Callable[[], Value]) -> Value:
        """Run ``work`` on the main process alone; every process gets what it returns, or the error that it raises.

        Raises:
            ExtSubError: as ``work``.
        """
        value: Any = None
        refused = None
        if self.is_main:
            try:
                value = work()
            except ExtSubError as error:
                if self.world_size == 1:
                    raise
                refused = error
        self.raise_if_any_failed(refused)
        return self.broadcast(value)

    def raise_if_any_failed(self, refused: ExtSubError | None) -> None:
        """Raise on every process what any process failed with, so that none waits for one that has stopped.

        Raises:
            ExtSubError: one has.
        """
        said = [part[0] for part in self.gather({0: refused and str(refused)}) if part[0]]
        if said:
            raise ExtSubError(said[0]) from refused

    def barrier(self) -> None:
        """Wait until all processes are here."""
        if self.world_size > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


def process_group() -> ProcessGroup:
    """The processes that were launched, connected until this one ends."""
    import torch

    from accelerate import PartialState

    state: Any = PartialState(cpu=not torch.accelerator.is_available())  # on a CPU it connects only if told so
    if state.num_processes > 1:
        _part_at_exit()
    return ProcessGroup(state.process_index, state.num_processes)


@functools.cache
def _part_at_exit() -> None:
    """Not sooner: processes that part cannot meet again."""
    from accelerate import PartialState

    atexit.register(PartialState().destroy_process_group)
