"""Prompts and their continuations as token ids, cut to what a model takes, and padded into tensors."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from extsub.errors import ExtSubError
from extsub.models.tokenization import Text, encode_texts

if TYPE_CHECKING:
    from extsub.inference.language_model import LanguageModel


CHUNK = 1024
"""Texts that are tokenised together: enough to keep every core busy."""


class Request(NamedTuple):
    """A prompt, and what may follow it."""

    prompt: str
    continuations: tuple[str, ...]


@dataclass(frozen=True)
class Continuation:
    """Tokens of a prompt with one continuation, which begins at ``start``."""

    tokens: Sequence[int]
    start: int

    @property
    def targets(self) -> Sequence[int]:
        """The tokens that are scored."""
        return self.tokens[self.start :]


@dataclass(frozen=True)
class EncodedRequest:
    """A request as tokens."""

    index: int
    rows: tuple[Continuation, ...]
    shortened: bool

    @cached_property
    def shared(self) -> int:
        """How many tokens all rows begin with. The state before the first answer token is each row's own."""
        limit = min(row.start for row in self.rows) - 1
        first = self.rows[0].tokens
        for row in self.rows[1:]:
            limit = common_length(first, row.tokens, limit)
        return limit


def encode(
    model: LanguageModel, requests: Mapping[int, Request], end_token: bool, special_tokens: bool, mark: str = ""
) -> list[EncodedRequest]:
    """Requests as tokens, cut to the length that the model allows. Linear in the text.

    Args:
        end_token: score what ends a continuation too.
        special_tokens: let the tokenizer add its special tokens (a chat template writes them itself).
        mark: what a chat template ends an answer with; where this is empty, the tokenizer's end token does.

    Raises:
        ExtSubError: a continuation is empty, or alone longer than the model allows.
    """
    texts = [
        (index, Text(request.prompt, continuation, mark if end_token else None))
        for index, request in requests.items()
        for continuation in request.continuations
    ]
    rows: dict[int, list[Continuation]] = {index: [] for index in requests}
    shortened = set()
    for begin in range(0, len(texts), CHUNK):
        chunk = texts[begin : begin + CHUNK]
        encoded = encode_texts([text for _, text in chunk], model.tokenizer, special_tokens)
        for (index, _), (tokens, start) in zip(chunk, encoded, strict=True):
            row, is_shortened = _row(model, index, tokens, start)
            rows[index].append(row)
            if is_shortened:
                shortened.add(index)
    return [EncodedRequest(index, tuple(rows[index]), index in shortened) for index in requests]


def _row(model: LanguageModel, index: int, tokens: list[int], start: int) -> tuple[Continuation, bool]:
    """(tokens that fit, whether the prompt lost its beginning)."""
    tokenizer = model.tokenizer
    if start == len(tokens):
        raise ExtSubError(f"item {index}: the answer is empty: there is nothing to score; leave the item out")
    model.check_tokens(index, tokens)
    too_many = 0 if model.longest is None else len(tokens) - model.longest
    if too_many <= 0:
        return Continuation(array("i", tokens), start), False  # a tenth of a list: all items wait in memory
    kept = 1 if tokens[0] in tokenizer.all_special_ids else 0
    if start - too_many < 1:
        raise ExtSubError(
            f"item {index}: the answer alone has {len(tokens) - start:,} tokens, and the model takes "
            f"{model.longest:,}: leave the item out, or use a model with a longer context"
        )
    return Continuation(array("i", tokens[:kept] + tokens[kept + too_many :]), start - too_many), True


def common_length(first: Sequence[int], second: Sequence[int], limit: int) -> int:
    """How many tokens two sequences both begin with, at most ``limit``."""
    limit = min(limit, len(first), len(second))
    if first[:limit] == second[:limit]:
        return limit
    return next(place for place in range(limit) if first[place] != second[place])


def pad(rows: Sequence[Sequence[int]], model: LanguageModel) -> tuple[Tensor, Tensor]:
    """(ids, whether a token stands there), padded on the right."""
    longest = max(map(len, rows))
    filler = model.tokenizer.pad_token_id
    ids = torch.tensor([[*row, *[filler] * (longest - len(row))] for row in rows], dtype=torch.long)
    mask = torch.tensor([[True] * len(row) + [False] * (longest - len(row)) for row in rows], dtype=torch.bool)
    return ids.reshape(len(rows), longest).to(model.device), mask.reshape(len(rows), longest).to(model.device)


def before_targets(rows: Sequence[Continuation], offsets: list[int], ids: Tensor) -> Tensor:
    """(rows, tokens): the places from which the next token is scored."""
    wanted = torch.zeros(ids.shape, dtype=torch.bool)
    for number, (row, offset) in enumerate(zip(rows, offsets, strict=True)):
        wanted[number, row.start - 1 - offset : len(row.tokens) - 1 - offset] = True
    return wanted.to(ids.device)
