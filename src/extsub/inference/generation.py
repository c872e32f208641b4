"""Greedy answers to prompts, in batches that change nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from extsub.errors import ExtSubError
from extsub.inference.batching import Batches, Size, alike
from extsub.inference.mixed_answers import continued_together
from extsub.inference.requests import Answer, Usage
from extsub.inference.soundness import Sound
from extsub.models.tokenization import start_token

if TYPE_CHECKING:
    from extsub.inference.language_model import LanguageModel


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt as tokens."""

    index: int
    tokens: list[int]
    shortened: bool


def generate_answers(
    model: LanguageModel,
    prompts: Mapping[int, str],
    *,
    max_new_tokens: int,
    special_tokens: bool = True,
    batch_size: int | None = None,
    end: int | None = None,
) -> Iterator[Answer]:
    """The most likely next token, one after the other, until the end token; answers come as they are ready.

    Padding is on the left, where for most models batch equals single; for others only prompts of equal length are
    batched, or none. A prompt that is too long loses its beginning.

    Args:
        prompts: as the model reads them, each under its number.
        max_new_tokens: at most so many for each answer.
        special_tokens: let the tokenizer add its special tokens (a chat template writes them itself).
        batch_size: prompts at once; found automatically if None.
        end: a token that ends an answer beside those that always do: the chat template's.

    Raises:
        ExtSubError: the model has no room for so many new tokens or cannot generate, its numbers are not numbers, or
            memory is too small.
    """
    encoded = [encode_prompt(model, index, text, max_new_tokens, special_tokens) for index, text in prompts.items()]
    for sound, items in soundly(model, encoded, max_new_tokens):
        yield from _answers(model, items, max_new_tokens, batch_size, sound, end)


def soundly(
    model: LanguageModel, prompts: Sequence[EncodedPrompt], max_new_tokens: int
) -> Iterator[tuple[Sound, list[EncodedPrompt]]]:
    """The prompts, with how they may be answered.

    Raises:
        ExtSubError: the model cannot generate.
    """
    for sound, items in model.soundness.split(prompts, lambda prompt: len(prompt.tokens) + max_new_tokens):
        if sound.answering is None:
            raise ExtSubError(
                f"{model.base.name_or_path}: {model.base.config.model_type} cannot generate in transformers: what it "
                "says token by token is not what it says of the whole text"
            )
        yield sound, items


def _answers(
    model: LanguageModel,
    prompts: list[EncodedPrompt],
    max_new_tokens: int,
    batch_size: int | None,
    sound: Sound,
    end: int | None,
) -> Iterator[Answer]:
    def work(items: list[EncodedPrompt], _: int) -> list[Answer]:
        return _generate(model, items, max_new_tokens, end, sound)

    batches = Batches(work, lambda item: Size(1, len(item.tokens) + max_new_tokens), batch_size)
    together = sound.scoring if model.mixture else sound.answering or "one"  # as a mixture reads
    for group in alike(prompts, lambda prompt: len(prompt.tokens), together):
        yield from batches.run(group)


def encode_prompt(
    model: LanguageModel, index: int, text: str, max_new_tokens: int, special_tokens: bool
) -> EncodedPrompt:
    """A prompt as tokens; one that leaves no room for the answer loses its beginning.

    Raises:
        ExtSubError: the model has no room for so many new tokens, or not all of these tokens.
    """
    tokenizer = model.tokenizer
    tokens = tokenizer(text, add_special_tokens=special_tokens, verbose=False)["input_ids"]
    tokens = tokens or [start_token(tokenizer)]
    model.check_tokens(index, tokens)
    room = len(tokens) if model.longest is None else model.longest - max_new_tokens
    if room < 1:
        raise ExtSubError(f"the model takes {model.longest:,} tokens in all: lower --max-new-tokens {max_new_tokens}")
    if len(tokens) <= room:
        return EncodedPrompt(index, tokens, False)
    kept = min(room - 1, 1 if tokens[0] in tokenizer.all_special_ids else 0)
    return EncodedPrompt(index, tokens[:kept] + tokens[len(tokens) - room + kept :], True)


def _generate(
    model: LanguageModel, prompts: list[EncodedPrompt], max_new_tokens: int, end: int | None, sound: Sound
) -> list[Answer]:
    ends = ends_of(model, end)
    finite = Finite([prompt.index for prompt in prompts])
    rows = [prompt.tokens for prompt in prompts]
    if model.mixture:
        cache = model.shares_contexts and sound.sharing
        new = continued_together(model, rows, max_new_tokens, sorted(ends), finite, cache)
    else:
        new = continued(model, rows, max_new_tokens, sorted(ends), finite, sound.cache)
    answers = []
    for prompt, tokens in zip(prompts, new.tolist(), strict=True):
        stop = next((place for place, token in enumerate(tokens) if token in ends), None)
        text = str(model.tokenizer.decode(tokens[:stop], skip_special_tokens=True))
        usage = Usage(len(prompt.tokens), len(tokens) if stop is None else stop + 1)
        answers.append(Answer(prompt.index, text, stop is not None, prompt.shortened, usage))
    return answers


def continued(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    most: int,
    ends: Sequence[int],
    processor: Callable[[Tensor, Tensor], Tensor],
    cache: bool,
) -> Tensor:
    """(prompts, tokens): the most likely tokens after each, padded on the right; prompts are padded on the left.

    Args:
        most: new tokens.
        ends: tokens that end an answer.
        processor: is given ids and logits before every token, and gives the logits to choose by.
        cache: keep keys and values, or states, of what was read.
    """
    from transformers import GenerationConfig

    longest, filler = max(map(len, prompts)), model.tokenizer.pad_token_id
    gaps = [longest - len(prompt) for prompt in prompts]
    ids = torch.tensor([[*[filler] * gap, *prompt] for gap, prompt in zip(gaps, prompts, strict=True)])
    mask = torch.tensor([[0] * gap + [1] * len(prompt) for gap, prompt in zip(gaps, prompts, strict=True)])
    settings = GenerationConfig(  # of the model's own settings (temperature, penalties) none: this is greedy
        max_new_tokens=most, do_sample=False, eos_token_id=ends or None, pad_token_id=filler, use_cache=cache
    )
    own = model.base.generation_config
    model.base.generation_config = settings  # transformers takes from there what is not set (repetition_penalty, say)
    try:
        with torch.inference_mode():
            output = model.module.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                generation_config=settings,
                logits_processor=[processor],
            )
    finally:
        model.base.generation_config = own
    # Whether the prompt is repeated depends on whether the model was given ids or embeddings (soft prompts).
    repeated = torch.equal(output[:, :longest].cpu(), ids)
    return output[:, longest:] if repeated else output


def ends_of(model: LanguageModel, end: int | None) -> set[int]:
    """The tokens that end an answer: the tokenizer's, those the model's own settings name (<|eot_id|>, say), and the
    chat template's, ``end``, if there is one."""
    own = getattr(model.base.generation_config, "eos_token_id", None)
    named = own if isinstance(own, list) else [own]
    return {token for token in (model.tokenizer.eos_token_id, *named, end) if token is not None}


class Finite:
    """A processor that stops when a model gives NaN, which greedy decoding would take for its first token."""

    def __init__(self, items: list[int]) -> None:
        self._items = items

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        broken = scores.isnan().any(dim=-1)
        if broken.any():
            item = self._items[int(broken.nonzero()[0])]
            raise ExtSubError(
                f"item {item}: the model gives NaN: its weights or the adapter's are broken, or --dtype float16 "
                "overflows (use bfloat16 or float32)"
            )
        return scores
