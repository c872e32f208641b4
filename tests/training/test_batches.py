"""How rows share a pack, and the tensors that a model is given."""

from __future__ import annotations

from itertools import combinations

import torch
from hypothesis import given
from hypothesis import strategies as st

from extsub.training.batches import end_to_end, pack, packs_of, padded
from extsub.training.encoding import MASKED, EncodedExamples

ROWS = EncodedExamples(tokens=[[5, 6, 7], [8, 9], [4, 3, 2, 9]], answers=[1, 1, 3], truncated=0, dropped=0)


@given(st.lists(st.integers(1, 30)), st.integers(30, 60))
def test_packs_hold_every_row_once_and_no_two_of_them_could_be_one(lengths: list[int], size: int) -> None:
    packs = pack(lengths, size)
    assert sorted(row for rows in packs for row in rows) == list(range(len(lengths)))
    tokens = [sum(lengths[row] for row in rows) for rows in packs]
    assert all(0 < held <= size for held in tokens)
    assert all(first + second > size for first, second in combinations(tokens, 2))


def test_the_longest_rows_come_first_and_fill_what_is_nearly_full() -> None:
    assert pack([3, 6, 2, 7, 1], 9) == [[3, 2], [1, 0], [4]]


def test_padded_rows_have_the_length_of_the_longest() -> None:
    batch = padded(packs_of(ROWS, [[2], [0], [1]], filler=1))
    assert {name: tensor.tolist() for name, tensor in batch.items()} == {
        "input_ids": [[4, 3, 2, 9], [5, 6, 7, 0], [8, 9, 0, 0], [1, 0, 0, 0]],
        "attention_mask": [[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]],
        "labels": [[MASKED] * 3 + [9], [MASKED, 6, 7, MASKED], [MASKED, 9, MASKED, MASKED], [MASKED] * 4],
    }


def test_packed_rows_begin_anew() -> None:
    """As FlashAttention and convolutions are told."""
    batch = end_to_end(packs_of(ROWS, [[0, 1]], filler=1))
    tensors = {name: tensor for name, tensor in batch.items() if isinstance(tensor, torch.Tensor)}
    bounds = [0, 3, 5, 6]
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        "input_ids": [[5, 6, 7, 8, 9, 1]],
        "labels": [[MASKED, 6, 7, MASKED, 9, MASKED]],
        "position_ids": [[0, 1, 2, 0, 1, 0]],
        "seq_idx": [[0, 0, 0, 1, 1, 2]],
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
    }
    assert {name: batch[name] for name in batch.keys() - tensors.keys()} == {"max_length_q": 3, "max_length_k": 3}
    assert tensors["cu_seq_lens_q"].dtype == tensors["seq_idx"].dtype == torch.int32
