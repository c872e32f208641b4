"""Texts become token ids, with where the answer starts: the same for training and for scoring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase


def encode_pairs(
    pairs: Sequence[tuple[str, str]], tokenizer: PreTrainedTokenizerBase, special_tokens: bool
) -> list[tuple[list[int], int]]:
    """(ids of prompt and answer together, position of the first token that holds a part of the answer) of each pair.

    Tokenised as one text, so that tokens fall as they do in running text. Linear in the text.
    """
    batch = tokenizer(
        [prompt + answer for prompt, answer in pairs],
        add_special_tokens=special_tokens,
        return_attention_mask=False,
        verbose=False,  # no warning about lengths: who needs it cuts
    )
    return [
        (row, _first_token(encoding, len(prompt), len(prompt) + len(answer)))
        for (prompt, answer), row, encoding in zip(pairs, batch["input_ids"], batch.encodings, strict=True)
    ]


def _first_token(encoding: Encoding, start: int, stop: int) -> int:
    """Of those that hold characters ``start`` to ``stop`` of the text; spaces may belong to no token."""
    for position in range(start, stop):
        token = encoding.char_to_token(position)
        if token is not None:
            return token
    return len(encoding.ids)
