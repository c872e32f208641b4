"""Items shared out over the processes of ``accelerate launch``; alone, one process has them all."""

from __future__ import annotations

import atexit
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from extsub.errors import ExtSubError

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

    def told(self, work: Callable[[], Value]) -> Value:
        """What the main process finds out, for every process; what it refuses, too, so that none waits in vain.

        Raises:
            ExtSubError: as ``work``.
        """
        value: Any = None
        refused = None
        if self.is_main:
            try:
                value = work()
            except ExtSubError as error:
                if self.count == 1:
                    raise
                refused = error
        self.agree(refused)
        return self.tell(value)

    def agree(self, refused: ExtSubError | None) -> None:
        """Go on if no process has refused anything.

        Raises:
            ExtSubError: one has.
        """
        said = [one[0] for one in self.gather({0: refused and str(refused)}) if one[0]]
        if said:
            raise ExtSubError(said[0]) from refused

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()


def processes() -> Processes:
    """The processes that were launched, connected until this one ends."""
    import torch

    from accelerate import PartialState

    state: Any = PartialState(cpu=not torch.accelerator.is_available())  # on a CPU it connects only if told so
    if state.num_processes > 1:
        _part_at_exit()
    return Processes(state.process_index, state.num_processes)


@functools.cache
def _part_at_exit() -> None:
    """Not sooner: processes that part cannot meet again."""
    from accelerate import PartialState

    atexit.register(PartialState().destroy_process_group)
