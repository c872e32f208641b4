"""In which order rows are learnt: batches at random, and within a batch by length, so that little is padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch


class LengthOrderedBatches(torch.utils.data.Sampler[int]):
    """Rows of each epoch in an order of its own: the same one on every process, and again after a restart.

    A batch (one step of the optimizer) is drawn at random, as without any grouping. Only within it are rows sorted by
    length, longest first, before they are cut into micro-batches. Since the loss is averaged over the batch's tokens,
    that changes the padding and not the gradient, and the longest row shows at once whether memory suffices.

    Args:
        lengths: of every row, in tokens.
        batch: rows for one step.
        multiple: rows that all devices together take at once. The last batch is filled up to a multiple with the row
            ``len(lengths)``, which has nothing to learn, so that every process has the same number of micro-batches.
    """

    def __init__(self, lengths: Sequence[int], batch: int, multiple: int, seed: int) -> None:
        self.lengths, self.batch, self.multiple, self.seed = lengths, batch, multiple, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by accelerate before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.multiple) * self.multiple

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(len(self.lengths), generator=torch.Generator().manual_seed(self.seed + self.epoch))
        for rows in order.split(self.batch):
            yield from sorted(rows.tolist(), key=lambda row: -self.lengths[row])
        for _ in range(len(self) - len(self.lengths)):
            yield len(self.lengths)

    def padded(self, micro_batch: int) -> int:
        """Tokens of one epoch with the padding of its micro-batches."""
        lengths: list[int] = [self.lengths[row] for row in self if row < len(self.lengths)]
        groups = (lengths[start : start + micro_batch] for start in range(0, len(lengths), micro_batch))
        return sum(max(group) * len(group) for group in groups)
