"""Items shared out over the processes of ``accelerate launch``; alone, one process has them all."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

Value = TypeVar("Value")


@dataclass(frozen=True)
class Processes:
    """This process among those that run the same command."""

    rank: int
    count: int

    @property
    def is_main(self) -> bool:
        """the one that speaks and writes results"""
        return self.rank == 0

    def share(self, items: Mapping[int, Value]) -> dict[int, Value]:
        """This process's part: every ``count``-th item, so that long and short ones are spread."""
        return {index: items[index] for index in sorted(items)[self.rank :: self.count]}

    def gather(self, ours: Mapping[int, Value]) -> list[dict[int, Value]]:
        """Every process's part, for every process."""
        if self.count == 1:
            return [dict(ours)]
        from accelerate.utils import gather_object

        return gather_object([dict(ours)])

    def tell(self, value: Value) -> Value:
        """What the main process knows, for every process."""
        if self.count == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


@contextlib.contextmanager
def processes() -> Generator[Processes]:
    """The processes that were launched, connected until the block ends."""
    import torch

    from accelerate import PartialState

    state: Any = PartialState(cpu=not torch.accelerator.is_available())  # on a CPU it connects only if told so
    try:
        yield Processes(state.process_index, state.num_processes)
    finally:
        if state.num_processes > 1:
            state.destroy_process_group()
