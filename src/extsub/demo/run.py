"""A real model loses its flattery and its misconceptions: data and a recipe are written, and the recipe is run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from extsub.demo import data
from extsub.demo.answers import ANSWERS, side_by_side, strengths
from extsub.demo.data import Mix, write_data
from extsub.demo.summary import over_seeds, summary_of
from extsub.errors import kept_when_interrupted
from extsub.escaping import to_json
from extsub.evaluation.run import Progress, silent
from extsub.evaluation.store import working_in
from extsub.extras import require
from extsub.files.reading import read_json
from extsub.files.writing import write_whole
from extsub.models.base import quickest_dtype
from extsub.recipe.run import run_recipe
from extsub.recipe.stages import Stage, Stages
from extsub.settings import json_values
from extsub.training.encoding import ChunkProgress

SUMMARY, RECIPE = "summary.json", "recipe.yaml"
HEAD = "# Written by extsub demo; extsub run does the same with it.\n"
MINUTES = 10
"""Minutes that a seed takes on two quiet cores."""
KEPT = "what was done is kept: the same command goes on from there"
STAGES = {
    "data": ("who learns what", 0.0),
    "expert": ("the expert learns answers, a part of them false, half of them flattering", 0.15),
    "anti-flattery": ("an anti-expert learns to flatter always", 0.15),
    "anti-misconceptions": ("an anti-expert learns false answers", 0.15),
    "sweep-flattery": ("every operation against flattery, at every strength", 0.25),
    "report-flattery": ("its page", 0.0),
    "sweep-misconceptions": ("every operation against misconceptions, at every strength", 0.18),
    "report-misconceptions": ("its page", 0.0),
    "result": ("the result, with the strength chosen for each", 0.0),
    "evaluation-flattery": ("does the result flatter?", 0.03),
    "evaluation-misconceptions": ("what does the result believe?", 0.03),
    "answers": ("answers side by side", 0.05),
}
"""For each stage what is done there, and its part of the time."""


@dataclass(frozen=True)
class Size:
    """Every number that decides what a demo finds, apart from its seed and the model."""

    mix: Mix = field(default_factory=Mix)
    epochs: float = 2.0
    learning_rate: float = 1e-3
    batch_size: int = 4
    rank: int = 16
    alphas: str = "0.5,1,2"
    operations: tuple[str, ...] = ("ext-sub", "subtract")
    questions: int = 40
    """Questions of each deficiency that every model is asked, and instructions."""
    budget: str = "keeps 90% of perplexity"
    answers: int = 24
    """Questions that are answered, some of them to be shown side by side."""


def demo(
    seeds: Sequence[int],
    output: Path,
    model: str,
    size: Size | None = None,
    *,
    progress: Progress | None = None,
    tokenising: ChunkProgress | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Write data and ``recipe.yaml`` and run it as ``extsub run`` does, for one seed after the other.

    What is finished is not repeated, and what was interrupted goes on.

    Args:
        output: gets a folder for each seed, and ``summary.json``.
        model: a folder or hub id; it is asked through its chat template, if it has one.
        progress: shows how far an evaluation is.
        tokenising: wraps the chunks of rows while they are tokenised.
        say: is told what begins, and how long all of it will still take.

    Returns:
        what ``summary.json`` holds: ``seeds.<seed>``, and ``mean`` and ``deviation`` over them

    Raises:
        ExtSubError: the output holds something else, the model does not fit, or the disk refuses.
    """
    require("peft", "evaluate")
    size, seeds = size or Size(), list(dict.fromkeys(seeds))
    with working_in(output), kept_when_interrupted(lambda: KEPT):
        by_seed = {
            str(seed): _Seed(seed, output / f"seed-{seed}", model, size, say).run(progress or silent, tokenising)
            for seed in seeds
        }
        summary = {"model": model, "size": json_values(size), "seeds": by_seed, **over_seeds(list(by_seed.values()))}
        write_whole(output / SUMMARY, to_json(summary) + "\n")
    return summary


@dataclass
class _Seed:
    """All of one seed."""

    seed: int
    folder: Path
    model: str
    size: Size
    say: Callable[[str], None]
    begun: float = field(default_factory=time.monotonic)
    told: list[str] = field(default_factory=list)
    """The stages that began in this run."""

    def run(self, progress: Progress, tokenising: ChunkProgress | None) -> dict[str, Any]:
        stages = Stages(self.folder, "extsub demo", self.tell)
        inputs = {"seed": self.seed, "mix": asdict(self.size.mix), "from": data.source_key()}
        stages.make(Stage("data", data.FILES, inputs), lambda: write_data(self.folder, self.seed, self.size.mix))
        recipe = self.folder / RECIPE
        write_whole(recipe, HEAD + yaml.safe_dump(self.recipe(), sort_keys=False))
        ran = run_recipe(recipe, progress=progress, tokenising=tokenising, say=self.tell)
        alphas = strengths(self.folder / "run", ran)
        provenance = {"result": ran["result"]["inputs"], "alphas": alphas, "questions": self.size.answers}
        stages.make(
            Stage("answers", (ANSWERS,), provenance),
            lambda: side_by_side(self.folder, ran, alphas, self.size.answers, progress),
        )
        seconds = {**ran["seconds"], **stages.seconds()}
        return {
            **summary_of(self.folder / "run", ran),
            "answers": read_json(self.folder / ANSWERS),
            "seconds": {name: times["wall"] for name, times in seconds.items()},
        }

    def recipe(self) -> dict[str, Any]:
        """What ``extsub run`` does."""
        here, size = self.folder, self.size
        ability = f"perplexity={here / data.NEUTRAL}"

        def own(task: str, score: str) -> dict[str, Any]:
            asked = [f"{task}={here / data.HELD_OUT}", ability]
            return {"tasks": [task, "perplexity"], "data": asked, "score": score}

        return {
            "model": self.model,
            "output": str(here / "run"),
            "training": {
                "epochs": size.epochs,
                "learning_rate": size.learning_rate,
                "batch_size": size.batch_size,
                "micro_batch_size": size.batch_size,
                "rank": size.rank,
                "lora_alpha": 2 * size.rank,
                "lora_dropout": 0.0,  # on a CPU a step takes a third less without
                "target_modules": "all-linear",
                "seed": self.seed,
            },
            "expert": {"data": str(here / data.EXPERT)},
            "anti_experts": {
                "flattery": {
                    "data": str(here / data.FLATTERY),
                    "sweep": own("flattery", "flattery.probability"),
                },
                "misconceptions": {
                    "data": str(here / data.FALSEHOODS),
                    "sweep": own("truthfulqa-mc", "truthfulqa-mc.mc2"),
                },
            },
            "sweep": {
                "operations": list(size.operations),
                "alphas": size.alphas,
                "limit": size.questions,
                "budget": size.budget,
                "dtype": quickest_dtype(),
                "seed": self.seed,
            },
        }

    def tell(self, stage: str) -> None:
        """What begins, and how long all that is left may take: by the time that this run took for what it did."""
        names = list(STAGES)
        left = sum(part for _, part in list(STAGES.values())[names.index(stage) :])
        done = sum(STAGES[name][1] for name in self.told)
        minutes = left * ((time.monotonic() - self.begun) / 60 / done if done else MINUTES)
        self.told.append(stage)
        self.say(f"seed {self.seed}, {names.index(stage) + 1} of {len(names)}: {STAGES[stage][0]}{_about(minutes)}")


def _about(minutes: float) -> str:
    return f" (all in about {minutes:.0f} min)" if minutes >= 1.5 else " (all in a minute or two)"
