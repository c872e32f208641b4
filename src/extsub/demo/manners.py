"""Two deficiencies of one expert, myths and rudeness, and an anti-expert of each: taken away alone, then together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from extsub.demo.combined import write_combined
from extsub.demo.settings import FACTS, MANNERS, NEUTRAL, SIDES
from extsub.demo.summary import retained
from extsub.evaluation.evaluate import evaluate
from extsub.evaluation.run import Progress
from extsub.evaluation.settings import EvaluationSettings

MADE = {
    "ext-sub-myths": ("ext-sub", ("anti-expert",)),
    "ext-sub-rudeness": ("ext-sub", ("rude-anti-expert",)),
    "ext-sub-both": ("ext-sub", ("anti-expert", "rude-anti-expert")),
    "subtract-both": ("subtract", ("anti-expert", "rude-anti-expert")),
    "amplify-both": ("amplify", ("anti-expert", "rude-anti-expert")),
}
"""operation, and what is taken from the expert"""


def two_deficiencies(folder: Path, progress: Progress) -> dict[str, dict[str, float | None]]:
    """Truth, politeness and ability of the models that a seed starts from, and of those without either deficiency.

    Args:
        folder: of the seed, with base, adapters and data. Gets ``manners/``: ``combined/``, ``truth/`` and ``polite/``.
    """
    output = folder / "manners"
    for name, (operation, anti_experts) in MADE.items():
        write_combined(folder, operation, anti_experts, output / "combined" / name)
    truth = _evaluated(folder, "truth", {"truthfulqa-mc": FACTS, "perplexity": NEUTRAL}, progress)
    polite = _evaluated(folder, "polite", {"truthfulqa-mc": MANNERS}, progress)
    perplexities = {name: tasks["perplexity"]["perplexity"]["value"] for name, tasks in truth.items()}
    return {
        name: {
            "mc2": truth[name]["truthfulqa-mc"]["mc2"]["value"],
            "polite": polite[name]["truthfulqa-mc"]["mc2"]["value"],
            "perplexity": perplexities[name],
            "retained": retained(perplexities[name], perplexities["base"], perplexities["expert"]),
        }
        for name in truth
    }


def _evaluated(folder: Path, name: str, data: dict[str, str], progress: Progress) -> dict[str, dict[str, Any]]:
    """With ``extsub evaluate``: the figures of every task of every model.

    Args:
        name: of the folder in ``manners/``.
        data: the file of each task.
    """
    output = folder / "manners" / name
    adapters = {side: folder / side for side in SIDES}
    adapters |= {one: folder / "manners" / "combined" / one for one in MADE}
    found = []
    for given, into in (((), output / "base"), (tuple(map(str, adapters.values())), output)):
        settings = EvaluationSettings(
            model=str(folder / "base"),
            adapter=given,
            data=tuple(f"{task}={folder / file}" for task, file in data.items()),
            output=into,
            dtype="float32",
        )
        found += evaluate(tuple(data), settings, progress)
    return {model: one["tasks"] for model, one in zip(("base", *adapters), found, strict=True)}
