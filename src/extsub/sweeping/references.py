"""What one would do without touching weights, with the same adapters: methods that a sweep asks for reference.

No adapter holds what they do, so none of their strengths is ever combined. With z the logits at the sweep's points
``base``, ``expert`` and ``anti-expert`` (several anti-experts added up), and β the strength:

- ``icd``, induce, then contrast (Zhang et al., NAACL Findings 2025, arXiv 2312.15710): z_e + β (z_e − z_a). Answers
  hold only tokens at least a tenth as probable to the expert as its likeliest one, as in the authors' code
  (``relative_top=0.1``). Choices are scored by the log-softmax, as everything here; the authors' script for TruthfulQA
  adds up log p_e − log p_a without making it a distribution again.
- ``dexperts`` (Liu et al., ACL 2021, arXiv 2105.03023): z_base + β (z_e − z_a). The authors sample, of the tokens that
  the base finds likely; here the likeliest of all tokens is taken.
- ``prompt``: the expert, told by a system message to leave the deficiency out. It has no strength.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from extsub.errors import ExtSubError, RowError
from extsub.escaping import brief
from extsub.evaluation.task import Task
from extsub.inference.requests import OPTION
from extsub.models.base import load_config, load_tokenizer
from extsub.models.prompts import Message, render_prompt, with_system
from extsub.models.source import ModelName
from extsub.sweeping.grid import SweepPoint
from extsub.sweeping.settings import SweepSettings

QUESTION = Message("user", "Who are you?")
"""What is asked to see whether a template takes a system message."""


@dataclass(frozen=True)
class Method:
    """A method of reference: what one can do without touching weights."""

    formula: str
    weights: Callable[[float], Mapping[str, float]]
    """From β to what the logits of each point are multiplied by; of no points where it is the expert with a message."""
    plausible: float = 0.0
    """As `Mixture.plausible`; the first of the weights' points decides."""
    passes: int = 1
    """Forward passes that each token of an answer takes, of the model with its adapter."""


METHODS = {
    "icd": Method(
        "z_e + β (z_e − z_a)", lambda beta: {"expert": 1 + beta, "anti-expert": -beta}, plausible=0.1, passes=2
    ),
    "dexperts": Method(
        "z_base + β (z_e − z_a)", lambda beta: {"base": 1.0, "expert": beta, "anti-expert": -beta}, passes=3
    ),
    "prompt": Method("z_e after a system message", lambda _: {}),
}
"""All of them, by name."""


def reference_points(methods: Sequence[str], alphas: Sequence[float]) -> list[SweepPoint]:
    """Each method at every strength of the grid, as its β; 0 is the expert, or the base, and is not asked twice.

    Raises:
        ExtSubError: a method is unknown.
    """
    for name in methods:
        if name not in METHODS:
            raise ExtSubError(f"--references {brief(name)}: there are {', '.join(METHODS)}")
    strengths = {name: [beta for beta in alphas if beta] if METHODS[name].weights(1.0) else [None] for name in methods}
    return list(dict.fromkeys(SweepPoint(name, beta) for name in methods for beta in strengths[name]))


def told(settings: SweepSettings, task: Task) -> SweepSettings:
    """The settings with the system message of ``prompt``: the user's, or that of the task that shows the deficiency.

    Raises:
        ExtSubError: neither has one.
    """
    if "prompt" not in settings.references or settings.system:
        return settings
    if not task.system:
        raise ExtSubError(
            f"--references prompt: {task.name} has no system message against what it shows: say it with --system TEXT"
        )
    return replace(settings, system=task.system)


def check_system(settings: SweepSettings, base: ModelName) -> None:
    """Check that the prompt template has a place for the system message, before weights are loaded.

    Args:
        settings: with the message, and the prompt that ``auto`` means.

    Raises:
        ExtSubError: it has none.
    """
    if not settings.system:
        return
    prompt = settings.asked_with
    why = f"{OPTION} {prompt} has no place for a system message"
    if prompt in ("extsub", "chat"):
        tokenizer = load_tokenizer(base, load_config(base))
        try:
            asked = render_prompt(with_system([QUESTION], settings.system), prompt, tokenizer, OPTION)
        except RowError as error:
            why, asked = error.wrong, ""
        if settings.system.strip() in asked:
            return
        why = f"{OPTION} {prompt} leaves the system message out or rewrites it" if asked else why
    raise ExtSubError(
        f"--references prompt: {why}; leave that reference out, or ask everybody with {OPTION} extsub, which takes one"
    )
