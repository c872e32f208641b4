"""Models that judge an answer with yes or no: in this process, or on an OpenAI-compatible server."""

from __future__ import annotations

import math
from collections.abc import Mapping

from extsub.errors import ExtSubError
from extsub.evaluation.settings import EvaluationSettings
from extsub.inference.server import Server
from extsub.models.base import ModelName, explained, find_model, load_config, load_tokenizer

QUESTIONS = {"truth": "Q: {question}\nA: {answer}\nTrue:", "info": "Q: {question}\nA: {answer}\nHelpful:"}
"""How allenai's judges were trained to be asked."""
PROBE = QUESTIONS["truth"].format(question="Is water wet?", answer="Yes.")
"""What a server is asked to see whether it is there."""
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""File names under which transformers finds a model's weights."""


def check_judge(option: str, name: str, url: str | None) -> tuple[str, ...]:
    """Whether a judge is there, before answers are made for it: its config, its tokenizer, and files with weights; or
    the server, which is asked once.

    Returns:
        what a user should know of it, in sentences

    Raises:
        ExtSubError: it is not there.
    """
    if name == "none":
        return ()
    try:
        if url:
            Server(url, name, retries=1).complete([PROBE], max_new_tokens=1)
            return ()
        found = find_model(name)
        load_tokenizer(found, load_config(found))
        check_weights(found)
        return found.notes
    except ExtSubError as error:
        raise ExtSubError(f"{option}: {error}; or pass {option} none, and nobody judges") from error


def check_weights(model: ModelName) -> None:
    """Whether a model has a file with weights, without reading it: the hub is asked, or its cache where it is offline.

    Raises:
        ExtSubError: it has none.
    """
    from transformers.utils.hub import has_file

    with explained(model.given):
        found = any(has_file(model.name, name, revision=model.revision) for name in WEIGHTS)
    if not found:
        raise ExtSubError(f"{model.given}: no weights were found there (model.safetensors or pytorch_model.bin)")


def judge(
    model: str, question: str, asked: Mapping[int, tuple[str, str]], settings: EvaluationSettings
) -> dict[int, float]:
    """How probably the judge says yes, of yes and no; from a server, which need not tell probabilities, 1 or 0.

    Raises:
        ExtSubError: the judge cannot be loaded or reached.
    """
    prompts = {index: question.format(question=one, answer=other) for index, (one, other) in asked.items()}
    if settings.judge_url:
        server = Server(settings.judge_url, model)
        said = server.complete(list(prompts.values()), max_new_tokens=2)
        return {index: float(text.strip().lower().startswith("yes")) for index, text in zip(prompts, said, strict=True)}
    from extsub.inference.encoding import Request
    from extsub.inference.language_model import load_base
    from extsub.inference.log_likelihood import score

    base = load_base(find_model(model), settings.dtype)
    requests = {index: Request(prompt, (" yes", " no")) for index, prompt in prompts.items()}
    with base.with_adapter(None) as language_model:
        scored = score(language_model, requests, batch_size=settings.rows_at_once)
        return {one.index: _probability(*(choice.total for choice in one.likelihoods)) for one in scored}


def _probability(yes: float, no: float) -> float:
    return 1 / (1 + math.exp(min(no - yes, 700.0)))
