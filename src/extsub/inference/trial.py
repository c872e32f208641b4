"""Finds out how a model may be asked, by asking it: a few short texts alone, together, shared and continued.

The model itself reads a dozen tokens. What shows only in longer texts, or in differences that rounding hides, shows in
a tiny twin of it (``probing/twin.py``), whose windows are shorter still.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from extsub.errors import ExtSubError
from extsub.inference.encoding import Continuation, before_targets, pad
from extsub.inference.generation import continued
from extsub.inference.log_likelihood import answer_logits
from extsub.inference.prefix_cache import beginning, logits_after, read
from extsub.inference.soundness import BATCHES, Batch, Sound, Soundness
from extsub.models.forward import is_out_of_memory
from extsub.probing.comparison import FAILURES, Rounding
from extsub.probing.twin import tokens_for, twin, windows_of

if TYPE_CHECKING:
    from extsub.inference.language_model import LanguageModel

TEXT = (
    "The river rises in the hills, runs past the old mill and the market, and meets the sea in a wide, slow bay. "
    "When it rains, which is often, nobody there wonders who named it, or why; they count the boats and go home."
)
TOKENS, LONGEST, SHORTER = 32, 14, 8
"""Tokens in all texts together, in the longest, and in the third; all texts may be so many times longer."""
TWICE = 2
AFFORDABLE = 512
"""Tokens of a window for which the model itself is given longer texts if it has no twin."""
NEW = 3
"""Tokens that are generated."""
CAREFUL = Sound(sharing=False, scoring="one", answering="one")
_known: dict[tuple[str, str], tuple[Sound | None, Sound | None]] = {}
"""What was found of twins that were tried, by config and device."""


def soundness_of(model: LanguageModel) -> Soundness:
    """What may be done with a model. A dozen passes over a dozen tokens, and of its twin, once for each config.

    Raises:
        ExtSubError: it cannot read a text, or what it says of a token depends on later ones or on chance.
    """
    kind = f"{model.base.name_or_path}: {model.base.config.model_type}"
    try:
        windows = windows_of(model.base.config)
        itself = _of_itself(model, 1)
        long, short = _of_architecture(model, windows)
        if long is None and windows:
            unit = min(windows) // SHORTER + 1  # so that three of four texts are longer
            is_cheap = min(windows) <= AFFORDABLE and LONGEST * unit <= (model.longest or LONGEST * unit)
            long = _of_itself(model, unit) if is_cheap else CAREFUL
    except _UnfitError as error:
        raise ExtSubError(f"{kind} {error}") from error
    except FAILURES as error:
        if is_out_of_memory(error):
            raise
        adapted = "" if model.module is model.base else " with this adapter"
        said = " ".join(str(error).split())[:200]
        raise ExtSubError(f"{kind}{adapted} cannot read a text: {type(error).__name__}: {said}") from error
    window = max(0, min(windows) - model.virtual_tokens) if windows else None
    return Soundness(itself & (short or Sound()), itself & (long or Sound()), window)


class _UnfitError(Exception):
    """Why a model has no log-likelihoods."""


def _of_itself(model: LanguageModel, unit: int) -> Sound:
    size = model.base.config.get_text_config().vocab_size
    tokens = [token for token in model.tokenizer(TEXT)["input_ids"] if token < size] or tokens_for(model.base, TOKENS)
    return _Trial(model, (tokens * TOKENS * unit)[: TOKENS * unit], unit).sound()


def _of_architecture(model: LanguageModel, windows: list[int]) -> tuple[Sound | None, Sound | None]:
    """What is sound in a twin (for texts that reach beyond windows, for shorter ones); None if there is none."""
    key = (model.base.config.to_json_string(use_diff=False), str(model.device))
    if key not in _known:
        long = _of_twin(model, TWICE)
        if long in (None, Sound()) or min(windows, default=0) < LONGEST:
            _known[key] = long, long
        else:
            _known[key] = long, _of_twin(model, 1)
    return _known[key]


def _of_twin(model: LanguageModel, unit: int) -> Sound | None:
    """None if there is no twin that shows anything. Texts of ``TWICE`` the usual length reach beyond its windows, which
    are shrunk; shorter ones stay within the real ones."""
    small = twin(model.base, model.device, windows=unit == TWICE)
    if small is None:
        return None
    stand_in: Any = SimpleNamespace(pad_token_id=1)
    twin_model = replace(model, module=small, base=small, tokenizer=stand_in, virtual_tokens=0)
    try:
        trial = _Trial(twin_model, tokens_for(small, unit * TOKENS), unit, is_twin=True)
        return trial.sound() if trial.sees() else None
    except FAILURES as error:
        if is_out_of_memory(error):
            raise
        return None


class _Trial:
    """Four texts with the same beginning; two of them have more in common."""

    def __init__(self, model: LanguageModel, tokens: list[int], unit: int, is_twin: bool = False) -> None:
        self._model, self._is_twin = model, is_twin
        self._start, self._fork = 3 * unit, 9 * unit
        start, fork = tokens[: self._start], tokens[: self._fork]
        self._texts = [
            tokens[: LONGEST * unit],
            fork + tokens[20 * unit : 25 * unit],
            start + tokens[25 * unit : 30 * unit],
            start + tokens[30 * unit : 32 * unit],
        ]
        self._alone = [self._read([text]) for text in self._texts]
        first = self._texts[:1]
        self._rounding = Rounding.of(model.module, model.base.dtype, lambda: self._read(first), self._alone[0])

    def sound(self) -> Sound:
        """What gives the logits of single texts.

        Raises:
            _UnfitError: later tokens change them, or chance does.
        """
        if not self._rounding.is_steady:
            adapted = "" if self._model.module is self._model.base else ", with this adapter,"
            raise _UnfitError(f"{adapted} says something else each time it is asked".strip())
        first, second = (logits[: self._fork] for logits in self._alone[:2])
        if not self._rounding.explains(first, second, everywhere=True):
            raise _UnfitError("is not a causal language model: what it says of a token depends on the tokens after it")
        ways = BATCHES[1:] if self._model.is_soft_prompt else BATCHES  # they stand in front of padding on the left
        possible = ((batch, cache) for cache in (True, False) for batch in ways if self._answers(batch, cache))
        answering, cache = next(possible, (None, True))
        return Sound(
            sharing=not self._model.shares_contexts or self._shares(),
            scoring=next(batch for batch in BATCHES if batch == "one" or self._scores(batch)),
            answering=answering,
            cache=cache,
        )

    def sees(self) -> bool:
        """Whether the first token changes what is said later: without that nothing would show."""
        changed = self._read([[self._texts[0][-1], *self._texts[0][1:]]])
        return not self._rounding.explains(changed[1:], self._alone[0][1:])

    def _works(self, ask: Callable[[], Tensor], expected: Sequence[Tensor]) -> bool:
        try:
            logits = ask()
        except FAILURES as error:
            if is_out_of_memory(error):
                raise
            return self._is_twin  # whose sizes may not fit; the model itself tells
        return all(map(self._rounding.explains, logits.split([len(part) for part in expected]), expected))

    def _read(self, texts: Sequence[Sequence[int]]) -> Tensor:
        return answer_logits(self._model, [Continuation(text, 1) for text in texts])

    def _batch(self, batch: Batch) -> list[tuple[list[int], Tensor]]:
        """(text, its logits alone) of texts that may stand together."""
        pairs = list(zip(self._texts, self._alone, strict=True))
        if batch == "equal":
            length = len(self._texts[2])
            return [(text[:length], logits[: length - 1]) for text, logits in pairs[:3:2]]
        return pairs if batch == "any" else pairs[:1]

    def _scores(self, batch: Batch) -> bool:
        texts, expected = zip(*self._batch(batch), strict=True)
        return self._works(lambda: self._read(texts), expected)

    def _shares(self) -> bool:
        """The beginning of all, then a prompt for each pair of texts or text, then the rest: as in scoring."""
        model, start, rows = self._model, self._start, [Continuation(text, 1) for text in self._texts]
        prompts, parents = [self._fork, (start + len(self._texts[2])) // 2, start], [0, 0, 1, 2]
        offsets = [prompts[parent] for parent in parents]
        expected = [logits[offset:] for logits, offset in zip(self._alone, offsets, strict=True)]

        def ask() -> Tensor:
            with torch.inference_mode():
                context = read(model, beginning(model), [0], [self._texts[0][:start]])
                first = [self._texts[0], *self._texts[2:]]
                parts = [text[start:end] for text, end in zip(first, prompts, strict=True)]
                context = read(model, context, [0] * len(parts), parts)
                rest = [text[offset:-1] for text, offset in zip(self._texts, offsets, strict=True)]
                targets = [Continuation(row.tokens, offset + 1) for row, offset in zip(rows, offsets, strict=True)]
                wanted = before_targets(targets, offsets, pad(rest, model)[0])
                return logits_after(model, context, parents, rest, wanted)

        return self._works(ask, expected)

    def _answers(self, batch: Batch, cache: bool) -> bool:
        """Generating, as if these texts were what the model says."""
        pairs = self._batch(batch)
        forced = _Forced([text[-NEW:] for text, _ in pairs])

        def ask() -> Tensor:
            continued(self._model, [text[:-NEW] for text, _ in pairs], NEW, (), forced, cache)
            return torch.stack(forced.seen, dim=1).flatten(0, 1)

        return self._works(ask, [logits[-NEW:] for _, logits in pairs])


class _Forced:
    """Makes a model generate given tokens, and keeps the logits before each."""

    def __init__(self, tokens: Sequence[Sequence[int]]) -> None:
        self._tokens = torch.tensor(tokens)
        self.seen: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = len(self.seen)
        self.seen.append(scores.clone())
        wanted = self._tokens[:, step : step + 1].to(scores.device)
        return torch.full_like(scores, -torch.inf).scatter(1, wanted, 0.0)
