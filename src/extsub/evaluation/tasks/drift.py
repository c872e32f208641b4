"""How much else did an adapter change? KL divergence from the base, or from another adapter, on neutral prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from extsub.data.instructions import has_answers
from extsub.data.rows import read_rows
from extsub.errors import ExtSubError
from extsub.evaluation.metrics import Measure
from extsub.evaluation.settings import EvaluationSettings
from extsub.evaluation.task import Item, ItemResult, Items, Task, conversation, examples_of, questions_of
from extsub.inference.requests import Question, request
from extsub.models.adapter_handle import AdapterHandle, find
from extsub.models.prompts import ending

if TYPE_CHECKING:
    from torch import Tensor

    from extsub.evaluation.evaluated_model import EvaluatedModel
    from extsub.inference.encoding import EncodedRequest
    from extsub.inference.language_model import LanguageModel


@dataclass(frozen=True)
class DriftOptions:
    """The options of drift: what an adapter is compared with."""

    reference: str | None = None
    """The adapter to compare with; the base unless given."""


def _read(settings: EvaluationSettings, data: str | None) -> Items:
    if data is None:
        raise ExtSubError("drift needs neutral prompts, with answers or without: give them with --data")
    return examples_of(data, settings) if _has_answers(data, settings) else questions_of(data, settings.field)


def _has_answers(data: str, settings: EvaluationSettings) -> bool:
    return not data.endswith(".txt") and has_answers(read_rows(data).rows[0][1], settings.field)


def _check_models(evaluated_models: Sequence[EvaluatedModel], settings: EvaluationSettings) -> None:
    reference = _reference(settings)
    for evaluated in evaluated_models:
        adapter = evaluated.adapter
        if adapter is None:
            raise ExtSubError("drift compares an adapter with its base, or with --reference: give --adapter")
        for compared in (adapter, reference):
            if compared and compared.changes_base:
                raise ExtSubError(
                    f"drift: {compared.given} changes its base when it is loaded (PiSSA and the like): nothing is "
                    "left to compare with"
                )
        if reference and reference.kind != adapter.kind:
            raise ExtSubError(
                f"--reference {reference.given} is {reference.kind} and {adapter.given} {adapter.kind}: two kinds "
                "cannot be in one model; compare with the base (leave --reference out)"
            )


def _reference(settings: EvaluationSettings) -> AdapterHandle | None:
    name = settings.of(DriftOptions).reference
    return find(name) if name else None


def _questions(item: Item) -> list[Question]:
    return [Question(conversation(item), (item["answer"],) if "answer" in item else ())]


def _ask(
    model: LanguageModel, items: Mapping[int, Item], settings: EvaluationSettings
) -> Iterator[tuple[int, ItemResult]]:
    """At every token of the answer and at the end token after it; without an answer, at its first token."""
    import torch

    from extsub.inference.batching import Batches, alike
    from extsub.inference.encoding import encode
    from extsub.inference.language_model import switched_to
    from extsub.inference.log_likelihood import answer_logits, in_chunks, size_of
    from extsub.models.attaching import attach_reference

    reference = _reference(settings)
    if reference:
        attach_reference(model.module, reference)

    def encoded_after(system: str) -> list[EncodedRequest]:
        requests = {}
        for index, item in items.items():
            (question,) = _questions(item)
            asked = request(question, settings.asked_with, model.tokenizer, system)
            requests[index] = asked if question.choices else asked._replace(continuations=("",))
        special, mark = settings.asked_with != "chat", ending(settings.asked_with, model.tokenizer).text
        return encode(model, requests, end_token=True, special_tokens=special, mark=mark)

    encoded = encoded_after(model.system)
    untold = {item.index: item.rows[0] for item in encoded_after("")} if model.system else {}

    def work(batch: list[EncodedRequest], _: int) -> list[tuple[int, ItemResult]]:
        rows = [item.rows[0] for item in batch]
        ours = answer_logits(model, rows)
        with switched_to(model, reference) as reference_model:
            theirs = answer_logits(reference_model, [untold.get(item.index, item.rows[0]) for item in batch])
        divergences = torch.cat([_divergence(*parts) for parts in in_chunks(theirs, ours)]).double()
        done = []
        for item, part in zip(batch, divergences.split([len(row.targets) for row in rows]), strict=True):
            if not part.isfinite().all():
                raise ExtSubError(f"item {item.index}: the model or the reference gives NaN: their weights are broken")
            scores = {"kl_first_token": part[0].item()}
            if "answer" in items[item.index]:
                scores["kl_per_token"] = [part.sum().item(), len(part)]
            done.append((item.index, {**items[item.index], "shortened": item.shortened, "scores": scores}))
        return done

    batches = Batches(work, lambda item: size_of(model, item.rows), settings.rows_at_once)
    for sound, part in model.soundness.split(encoded, lambda item: len(item.rows[0].tokens)):
        for group in alike(part, lambda item: len(item.rows[0].tokens), sound.scoring):
            yield from batches.run(group)


def _divergence(reference: Tensor, model: Tensor) -> Tensor:
    """KL(reference || model) of each row of logits, in nats, in float32."""
    reference, model = reference.float().log_softmax(-1), model.float().log_softmax(-1)
    return (reference.exp() * (reference - model)).sum(-1)


TASK = Task(
    name="drift",
    read=_read,
    ask=_ask,
    measures={name: Measure(better="lower") for name in ("kl_first_token", "kl_per_token")},
    needs="likelihoods",
    questions=_questions,
    settings=("field",),
    options=DriftOptions,
    not_swept=("reference",),
    check_models=_check_models,
)
