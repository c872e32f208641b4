"""Rows become the tensors of a micro-batch: padded to the longest of them, or packed, which is laid end to end."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import DataCollatorWithFlattening

from extsub.training.encoding import MASKED, EncodedExamples

Row = dict[str, list[int]]
"""``input_ids`` and ``labels``."""


def pack(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Which rows share a pack of at most ``size`` tokens: the longest first, each where it leaves the least room.

    Args:
        lengths: of every row, in tokens, none above ``size``.
    """
    packs: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (tokens that are free, number of the pack), sorted
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        place = bisect.bisect_left(rooms, (lengths[row], 0))
        if place < len(rooms):
            room, number = rooms.pop(place)
        else:
            room, number = size, len(packs)
            packs.append([])
        packs[number].append(row)
        bisect.insort(rooms, (room - lengths[row], number))
    return packs


def packs_of(rows: EncodedExamples, packs: Iterable[Sequence[int]], filler: int) -> list[list[Row]]:
    """What a sampler numbers: packs, by the numbers of their rows; and one more, which fills up a batch: it has the
    token ``filler``, and nothing to learn."""
    every = [{"input_ids": tokens, "labels": labels} for tokens, labels in zip(rows.tokens, rows.labels, strict=True)]
    return [*([every[row] for row in pack] for pack in packs), [{"input_ids": [filler], "labels": [MASKED]}]]


def padded(packs: Sequence[Sequence[Row]]) -> dict[str, torch.Tensor]:
    """Tensors of (rows, tokens of the longest). Which token stands for padding does not matter: it is masked."""
    rows = list(chain.from_iterable(packs))
    tokens, labels = ([torch.tensor(row[name]) for row in rows] for name in ("input_ids", "labels"))
    return {
        "input_ids": pad_sequence(tokens, batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=MASKED),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in tokens], batch_first=True),
    }


def end_to_end(packs: Sequence[Sequence[Row]]) -> dict[str, Any]:
    """Tensors of (1, tokens of all rows), with positions that begin anew with each row.

    There is no mask: FlashAttention would heed it, and not the positions. Its kernels, and those of convolutions, are
    told where rows begin (``cu_seq_lens_q``, ``seq_idx``).
    """
    return DataCollatorWithFlattening(return_flash_attn_kwargs=True, return_seq_idx=True)([*chain.from_iterable(packs)])
