"""How likely is a text after another? The one scorer of all likelihood benchmarks.

What continuations share is read once: the words that all prompts begin with (six worked examples, say), then each
prompt, then its continuations. The keys and values of what was read are kept and copied, so that a token is computed
once for all that follows it. Where that saves little, or a model keeps something else than plain keys and values,
every prompt is read again with each continuation. Both give the same numbers up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from extsub.errors import ExtSubError
from extsub.inference.batching import AUTO_TOKENS, Batches, Size, alike
from extsub.inference.encoding import Continuation, EncodedRequest, Request, before_targets, common_length, encode, pad
from extsub.inference.mixture import each, logits_of
from extsub.inference.prefix_cache import Context, beginning, logits_after, read
from extsub.inference.soundness import Batch
from extsub.models.forward import output_only_at

if TYPE_CHECKING:
    from extsub.inference.language_model import LanguageModel

WORTH_SHARING = 0.8
"""Prompts are shared if at most this part of the tokens is left to compute; copying keys and values takes time too."""
WORTH_BEGINNING = 16
"""Tokens that all prompts must begin with before that is shared too."""
CPU_TOKENS = 2048
"""Padded tokens at once on a CPU, where more are slower: new memory takes time."""
CHUNK = 2**24
"""Numbers of the output layer that become float32 at once."""


class Likelihood(NamedTuple):
    """How likely a continuation is."""

    total: float
    """The log-likelihood, in nats."""
    tokens: int
    """Tokens that were scored: all that hold a part of it, and the end token if asked for."""
    greedy: bool
    """Whether each token is the likeliest at its place, so that greedy decoding gives this continuation."""


class Scored(NamedTuple):
    """The answer to one request."""

    index: int
    """The number of the request."""
    likelihoods: tuple[Likelihood, ...]
    """The likelihood of each continuation."""
    shortened: bool
    """Whether the prompt, too long, lost its beginning."""
    prompt: str = ""
    """The prompt in words, where ``requests.choose`` made it of a question."""

    @property
    def totals(self) -> list[float]:
        """The log-likelihood of each continuation, in nats."""
        return [likelihood.total for likelihood in self.likelihoods]

    @property
    def tokens(self) -> list[int]:
        """The number of tokens that were scored in each continuation."""
        return [likelihood.tokens for likelihood in self.likelihoods]


def score(
    model: LanguageModel,
    requests: Mapping[int, Request],
    *,
    end_token: bool = False,
    special_tokens: bool = True,
    batch_size: int | None = None,
    mark: str = "",
) -> Iterator[Scored]:
    """The log-likelihood of every continuation after its prompt; answers come as they are ready, not in order.

    A continuation is never cut: if it is too long together with its prompt, the prompt loses its beginning (and keeps
    the tokenizer's first special token). Log-softmax is taken in float32, at the continuation's tokens only. Linear in
    the number of tokens, apart from attention.

    Args:
        requests: prompts with their continuations, each under its number.
        end_token: score the end token after each continuation too.
        special_tokens: let the tokenizer add its special tokens (a chat template writes them itself).
        batch_size: sequences at once; found automatically if None.
        mark: what a chat template ends an answer with, in place of the end token.

    Raises:
        ExtSubError: a continuation is empty or too long for the model, a likelihood is not a number, or memory is too
            small; the message names the request.
    """
    yield from score_rows(model, encode(model, requests, end_token, special_tokens, mark), batch_size)


def score_rows(
    model: LanguageModel, encoded: Sequence[EncodedRequest], batch_size: int | None = None
) -> Iterator[Scored]:
    """``score`` for what is tokenised already.

    Raises:
        ExtSubError: a likelihood is not a number, or memory is too small.
    """
    for sound, items in model.soundness.split(encoded, lambda item: max(len(row.tokens) for row in item.rows)):
        if model.shares_contexts and sound.sharing and _is_worth_sharing(items):
            yield from _score_shared(model, items, batch_size)
        else:
            yield from _score_unshared(model, items, batch_size, sound.scoring)


def _score_unshared(
    model: LanguageModel, encoded: Sequence[EncodedRequest], batch_size: int | None, batch: Batch
) -> Iterator[Scored]:
    def work(items: list[EncodedRequest], rows_at_once: int) -> list[Scored]:
        rows = [row for item in items for row in item.rows]
        by_place: dict[int, Likelihood] = {}
        for group in alike(range(len(rows)), lambda place: len(rows[place].tokens), batch):
            for start in range(0, len(group), rows_at_once):
                places = group[start : start + rows_at_once]
                chunk = [rows[place] for place in places]
                by_place.update(zip(places, _likelihoods(answer_logits(model, chunk), chunk), strict=True))
        return _scored(items, by_place)

    yield from Batches(work, lambda item: size_of(model, item.rows), batch_size, _auto_tokens(model)).run(encoded)


def answer_logits(model: LanguageModel, rows: Sequence[Continuation]) -> Tensor:
    """Logits before every scored token of the rows, one after the other: (tokens, vocabulary)."""
    return logits_of(model, lambda there: _read_whole(there, rows))


def _read_whole(model: LanguageModel, rows: Sequence[Continuation]) -> Tensor:
    ids, mask = pad([row.tokens[:-1] for row in rows], model)
    with torch.inference_mode(), output_only_at(model.base, before_targets(rows, [0] * len(rows), ids)):
        return model.module(input_ids=ids, attention_mask=mask.long(), use_cache=model.virtual_tokens > 0).logits


def _score_shared(model: LanguageModel, encoded: Sequence[EncodedRequest], batch_size: int | None) -> Iterator[Scored]:
    whole = [item for item in encoded if not item.shortened]
    for items in (whole, [item for item in encoded if item.shortened]):  # the shortened ones begin otherwise
        if items:
            yield from _score_alike(model, items, batch_size)


def _score_alike(model: LanguageModel, encoded: Sequence[EncodedRequest], batch_size: int | None) -> Iterator[Scored]:
    common = _common_beginning(encoded)

    @cache
    def starts() -> list[Context]:
        return list(each(model, lambda there: _read_beginning(there, encoded[0].rows[0].tokens[:common])))

    def work(items: list[EncodedRequest], _: int) -> list[Scored]:
        with torch.inference_mode():
            prompts = [item.rows[0].tokens[common : item.shared] for item in items]
            contexts = list(each(model, lambda there, before: read(there, before, [0] * len(items), prompts), starts()))
            ends = [_End(number, row, item.shared) for number, item in enumerate(items) for row in item.rows]
            order = sorted(range(len(ends)), key=lambda place: -len(ends[place].tokens))
            by_place: dict[int, Likelihood] = {}
            for places in batches.split(order, lambda place: size_of(model, [ends[place].row])):
                part = [ends[place] for place in places]
                logits = logits_of(model, lambda there, context, part=part: _continue(there, context, part), contexts)
                likelihoods = _likelihoods(logits, [end.row for end in part])
                by_place.update(zip(places, likelihoods, strict=True))
            return _scored(items, by_place)

    batches = Batches(work, lambda item: Size(1, item.shared), batch_size, _auto_tokens(model))
    yield from batches.run(encoded)


def _read_beginning(model: LanguageModel, tokens: Sequence[int]) -> Context:
    """What all prompts begin with, if they do."""
    before = beginning(model)
    return read(model, before, [0], [tokens]) if tokens else before


class _End(NamedTuple):
    """What is left to read of a row, after a prompt that was read."""

    parent: int
    row: Continuation
    offset: int

    @property
    def tokens(self) -> Sequence[int]:
        return self.row.tokens[self.offset : -1]


def _continue(model: LanguageModel, context: Context, ends: list[_End]) -> Tensor:
    """Logits before every scored token, as ``answer_logits``."""
    tokens = [end.tokens for end in ends]
    wanted = before_targets([end.row for end in ends], [end.offset for end in ends], pad(tokens, model)[0])
    return logits_after(model, context, [end.parent for end in ends], tokens, wanted)


def _is_worth_sharing(encoded: Sequence[EncodedRequest]) -> bool:
    every = sum(len(row.tokens) for item in encoded for row in item.rows)
    saved = sum(item.shared * (len(item.rows) - 1) for item in encoded)
    saved += _common_beginning(encoded) * (len(encoded) - 1)
    return every - saved <= WORTH_SHARING * every


def _common_beginning(encoded: Sequence[EncodedRequest]) -> int:
    """How many tokens all prompts begin with; 0 if they are too few to be read apart."""
    first = encoded[0].rows[0].tokens
    limit = encoded[0].shared
    for item in encoded[1:]:
        limit = common_length(first, item.rows[0].tokens, min(limit, item.shared))
    return limit if limit >= WORTH_BEGINNING else 0


def size_of(model: LanguageModel, rows: Sequence[Continuation]) -> Size:
    """What rows take in a batch where nothing is shared."""
    vocabulary = model.base.config.get_text_config().vocab_size
    outputs = vocabulary * sum(len(row.tokens) - row.start for row in rows)
    return Size(len(rows), max(len(row.tokens) for row in rows), outputs)


def _auto_tokens(model: LanguageModel) -> int:
    return CPU_TOKENS if model.device.type == "cpu" else AUTO_TOKENS


def _likelihoods(logits: Tensor, rows: Sequence[Continuation]) -> list[Likelihood]:
    """Of each row's targets: their log-likelihoods, summed in float64, and whether they are the likeliest."""
    targets = torch.tensor([token for row in rows for token in row.targets], device=logits.device)
    log_likelihoods, is_likeliest = [], []
    for part, wanted in in_chunks(logits, targets):
        chosen = torch.gather(part, 1, wanted[:, None])[:, 0]
        log_likelihoods.append(chosen.float() - torch.logsumexp(part.float(), 1))
        is_likeliest.append(chosen == part.amax(1))
        highest = is_likeliest[-1].nonzero()[:, 0]  # few; argmax, which tells equal ones apart, is five times as slow
        is_likeliest[-1][highest] = part[highest].argmax(1) == wanted[highest]
    lengths = [len(row.targets) for row in rows]
    totals, greedy = torch.cat(log_likelihoods).double().split(lengths), torch.cat(is_likeliest).split(lengths)
    return [
        Likelihood(total.sum().item(), length, bool(all_likeliest.all()))
        for total, length, all_likeliest in zip(totals, lengths, greedy, strict=True)
    ]


def in_chunks(logits: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Parts of (tokens, vocabulary), small enough to become float32, with the same parts of others."""
    rows = max(1, CHUNK // logits.shape[1])
    return zip(logits.split(rows), *(other.split(rows) for other in others), strict=True)


def _scored(items: Sequence[EncodedRequest], by_place: Mapping[int, Likelihood]) -> list[Scored]:
    """``by_place`` has the likelihoods of all rows of the items, numbered in their order."""
    results, places = [], count()
    for item in items:
        likelihoods = tuple(by_place[next(places)] for _ in item.rows)
        if wrong := [likelihood.total for likelihood in likelihoods if not math.isfinite(likelihood.total)]:
            raise ExtSubError(
                f"item {item.index}: the model gives {wrong[0]} as a log-likelihood: its weights or the "
                "adapter's are broken, or --dtype float16 overflows (use bfloat16 or float32)"
            )
        results.append(Scored(item.index, likelihoods, item.shortened))
    return results
