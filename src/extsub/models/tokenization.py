"""Texts become token ids, with where the answer starts: the same for training and for scoring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase


class Text(NamedTuple):
    """A prompt and what follows it, as ``prompts`` rendered them."""

    prompt: str
    answer: str
    end: str | None = None
    """What ends the answer; the tokenizer's end token where this is empty, nothing where it is None."""


def encode_texts(
    texts: Sequence[Text], tokenizer: PreTrainedTokenizerBase, special_tokens: bool
) -> list[tuple[list[int], int]]:
    """(ids of a whole text, position of the first token that holds a part of the answer) of each.

    Tokenised as one text, so that tokens fall as they do in running text. An end token that is there is not doubled. A
    token stands before every answer, be it the one that begins or ends texts, since a first token cannot be predicted.
    Linear in the text.

    Args:
        special_tokens: let the tokenizer add its special tokens (a chat template writes them itself).
    """
    batch = tokenizer(
        [text.prompt + text.answer + (text.end or "") for text in texts],
        add_special_tokens=special_tokens,
        return_attention_mask=False,
        verbose=False,  # no warning about lengths: who needs it cuts
    )
    return [
        _ended(
            text,
            row,
            _first_token(encoding, len(text.prompt), len(text.prompt + text.answer + (text.end or ""))),
            tokenizer,
        )
        for text, row, encoding in zip(texts, batch["input_ids"], batch.encodings, strict=True)
    ]


def start_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that stands before a text: the one that begins texts, or where there is none the one that ends them."""
    token: Any = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return token


def _ended(text: Text, row: list[int], start: int, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], int]:
    end: Any = tokenizer.eos_token_id
    if text.end == "" and (start == len(row) or row[-1] != end):
        row = [*row, end]
    if start == 0:
        return [start_token(tokenizer), *row], 1
    return row, start


def _first_token(encoding: Encoding, start: int, stop: int) -> int:
    """Of those that hold characters ``start`` to ``stop`` of the text; spaces may belong to no token."""
    for position in range(start, stop):
        token = encoding.char_to_token(position)
        if token is not None:
            return token
    return len(encoding.ids)
