"""Who scores in ``evaluation.py``: extsub, lm-evaluation-harness, and a loop without batches, as the authors'."""

from __future__ import annotations

import argparse
import logging
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any, NamedTuple

import torch

from extsub.inference.encoding import Request
from extsub.inference.language_model import LanguageModel
from extsub.inference.log_likelihood import score

Totals = dict[int, list[float]]
"""the log-likelihoods of a request's continuations, under its number"""
Scorer = Callable[[LanguageModel, Mapping[int, Request]], Totals]
EXTSUB, HARNESS, LOOP = "extsub", "lm-evaluation-harness", "loop, one text at once"
TRIED = (1, 4, 16, 64)
"""batch sizes of lm-evaluation-harness, of which it is given its best"""


class Spent(NamedTuple):
    cpu_seconds: float
    seconds: float


@dataclass(frozen=True)
class Workload:
    """Requests, and which of their continuations are true."""

    name: str
    peer: str
    target: float
    requests: dict[int, Request]
    is_true: dict[int, list[bool]]

    @property
    def end_token(self) -> bool:
        return self.peer == LOOP


@dataclass
class Measured:
    """What a contender took in each round, and what it found."""

    contender: str
    rounds: list[Spent] = field(default_factory=list)
    totals: Totals = field(default_factory=dict)


def by_extsub(batch_size: int | None, end_token: bool) -> Scorer:
    def scorer(model: LanguageModel, requests: Mapping[int, Request]) -> Totals:
        scored = score(model, requests, end_token=end_token, batch_size=batch_size)
        return {scores.index: [likelihood.total for likelihood in scores.likelihoods] for scores in scored}

    return scorer


def by_harness(model: LanguageModel, batch_size: int) -> Scorer:
    """lm-evaluation-harness around the same model in memory, adapter included."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    peer: Any = HFLM(pretrained=model.module, backend="causal", tokenizer=model.tokenizer, batch_size=batch_size)

    def scorer(_: LanguageModel, requests: Mapping[int, Request]) -> Totals:
        asked = [
            (number, (request.prompt, text)) for number, request in requests.items() for text in request.continuations
        ]
        instances = [Instance("loglikelihood", {}, pair, place) for place, (_, pair) in enumerate(asked)]
        totals: Totals = {number: [] for number in requests}
        answers = peer.loglikelihood(instances, disable_tqdm=True)
        for (number, _), (total, _) in zip(asked, answers, strict=True):
            totals[number].append(total)
        return totals

    return scorer


def by_loop(model: LanguageModel, requests: Mapping[int, Request]) -> Totals:
    """One forward pass for each text, all logits, cross-entropy of the answer and the end token."""

    def ids(text: str) -> torch.Tensor:
        return model.tokenizer(text, return_tensors="pt").input_ids.to(model.device)

    def total(prompt: str, answer: str) -> float:
        start, tokens = ids(prompt).shape[1], ids(prompt + answer + model.tokenizer.eos_token)
        logits = model.module(input_ids=tokens).logits[0, start - 1 : -1].float()
        return -torch.nn.functional.cross_entropy(logits, tokens[0, start:], reduction="sum").item()

    with torch.no_grad():
        return {
            number: [total(request.prompt, text) for text in request.continuations]
            for number, request in requests.items()
        }


def clocked(scorer: Scorer, model: LanguageModel, requests: Mapping[int, Request]) -> tuple[Spent, Totals]:
    """From texts to log-likelihoods: tokenising is counted."""
    begun = clocks(model)
    totals = scorer(model, requests)
    return Spent(*(after - before for before, after in zip(begun, clocks(model), strict=True))), totals


def clocks(model: LanguageModel) -> Spent:
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return Spent(time.process_time(), time.perf_counter())


def best_batch_size(model: LanguageModel, requests: Mapping[int, Request], clock: str) -> int:
    """With which lm-evaluation-harness is fastest on these requests."""

    def spent(batch_size: int) -> float:
        try:
            return getattr(clocked(by_harness(model, batch_size), model, requests)[0], clock)
        except torch.OutOfMemoryError:
            return math.inf

    spent(TRIED[0])  # the first run is slower, whoever makes it
    return min(TRIED, key=spent)


def largest_difference(first: Totals, second: Totals) -> float:
    return max(abs(a - b) for number in first for a, b in zip(first[number], second[number], strict=True))


def mc1(totals: Sequence[float], is_true: Sequence[bool]) -> bool:
    """Is the likeliest choice true?"""
    return is_true[max(range(len(totals)), key=totals.__getitem__)]


def mc2(totals: Sequence[float], is_true: Sequence[bool]) -> float:
    """The true choices' part of the probability of all; the largest is taken out, so that nothing underflows."""
    weights = [math.exp(total - max(totals)) for total in totals]
    return sum(weight for weight, true in zip(weights, is_true, strict=True) if true) / sum(weights)


def measure(model: LanguageModel, work: Workload, options: argparse.Namespace) -> tuple[list[Measured], str]:
    """Both contenders in turns, and that they found the same."""
    peer, name = by_loop, LOOP
    if work.peer == HARNESS:
        few = dict(list(work.requests.items())[: max(4, len(work.requests) // 5)])
        best = best_batch_size(model, few, options.clock)
        peer, name = by_harness(model, best), f"{HARNESS}, batch size {best}"
    ours = by_extsub(options.batch_size, work.end_token)
    contenders: dict[str, Scorer] = {EXTSUB: ours, name: peer}
    measured = [Measured(contender) for contender in contenders]
    for scorer in contenders.values():  # the first run is slower, whoever makes it
        scorer(model, dict(list(work.requests.items())[:4]))
    for _ in range(options.rounds):
        for timed, scorer in zip(measured, contenders.values(), strict=True):
            spent, timed.totals = clocked(scorer, model, work.requests)
            timed.rounds.append(spent)
            print(work.name, timed.contender, spent, file=sys.stderr, flush=True)
    return measured, check(work, *(timed.totals for timed in measured), exact=model.base.dtype == torch.float32)


def check(work: Workload, ours: Totals, theirs: Totals, exact: bool) -> str:
    """Raises an error unless both found the same; other types than float32 round too much for that."""
    firsts = [[mc1(totals[number], true) for number, true in work.is_true.items()] for totals in (ours, theirs)]
    shares = [[mc2(totals[number], true) for number, true in work.is_true.items()] for totals in (ours, theirs)]
    if work.peer == HARNESS:
        apart_by, allowed, what = max(abs(a - b) for a, b in zip(*shares, strict=True)), 1e-4, "MC2"
    else:
        apart_by, allowed, what = largest_difference(ours, theirs), 1e-3, "log-likelihoods"
    right = [f"{mean(first):.4f}" for first in firsts]
    said = f"{what} differ by {apart_by:.1e} at most; the likeliest is true: {right[0]} and {right[1]}"
    if exact and (apart_by > allowed or firsts[0] != firsts[1]):
        raise RuntimeError(f"{work.name}: {said}")
    return said
