"""TruthfulQA on SmolLM2-135M-Instruct, every question held out once, for several seeds: docs/evidence.md.

    python benchmarks/evidence.py [--seed 0 1 2] [--data TruthfulQA.csv] [--general alpaca.json] [--output evidence]

For each seed and each half of the questions ``examples/truthfulqa.py`` writes the data, and the recipe
``examples/smollm2-truthfulqa.yaml`` is run on it. Every position of its sweep is then asked for general instructions,
which are nothing like the training rows; base, expert and the models of the chosen strengths make binary choices on all
held-out questions, and answer a hundred of them in their own words. What is done is kept: an interrupted run goes on.
After every seed ``benchmarks/evidence_page.py`` writes the page. Data comes from the hub unless given.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from extsub import EvaluationSettings, SweepSettings, combine, evaluate, load_adapter, run_recipe, save_adapter, sweep
from extsub.demo.model import find_demo_model
from extsub.errors import ExtSubError
from extsub.files.reading import read_json
from extsub.sweeping.settings import RESULT

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples"))
from evidence_page import write_page  # noqa: E402
from truthfulqa import write_halves  # noqa: E402

RECIPE = ROOT / "examples" / "smollm2-truthfulqa.yaml"
FOLDER = "truthfulqa/"
"""of the recipe's data and output"""
GENERAL, GENERAL_ROWS = "tatsu-lab/alpaca", 40
ANSWERED, NEW_TOKENS = 100, 48
"""questions of each half that are answered, and the longest answer"""
BEFOREHAND = 1.0
"""the strength of ext-sub that was set before anything was seen"""
CHOSEN = ("ext-sub", "contrast", "subtract")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", help="TruthfulQA.csv; the hub's truthfulqa/truthful_qa unless given")
    parser.add_argument("--general", default=GENERAL, help="general instruction data: a file or dataset of the hub")
    parser.add_argument("--model", help="folder or hub id; SmolLM2-135M-Instruct as the demo finds it unless given")
    parser.add_argument("--output", type=Path, default=Path("evidence"))
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "evidence.md")
    given = parser.parse_args()
    try:
        model = find_demo_model(given.model, say=say).name
        for seed in given.seed:
            for half in (1, 2):
                Half(given.output / f"seed-{seed}-half-{half}", model, seed).run(given.data, given.general, half)
            write_page(given.output, given.page)
    except ExtSubError as error:
        sys.exit(str(error))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Half:
    """One seed; adapters that learnt from one half of the questions, asked the other."""

    def __init__(self, folder: Path, model: str, seed: int) -> None:
        self.folder, self.model, self.seed = folder, model, seed
        self.recipe: dict[str, Any] = yaml.safe_load(RECIPE.read_text().replace(FOLDER, f"{folder}/"))
        self.recipe["model"] = model
        self.recipe["training"]["seed"] = self.recipe["sweep"]["seed"] = seed

    def run(self, data: str | None, general: str, half: int) -> None:
        write_halves(self.folder, data, half, self.seed)
        path = self.folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(self.recipe, sort_keys=False))
        self.tell("the recipe")
        run_recipe(path, say=self.tell)
        self.tell("general instructions")
        expert, anti = (str(self.folder / "run" / name) for name in ("expert", "anti-untruthful"))
        shared: dict[str, Any] = {"model": self.model, "dtype": self.recipe["sweep"]["dtype"], "seed": self.seed}
        sweep(
            expert,
            [anti],
            SweepSettings(
                tasks=("perplexity",),
                data=(f"perplexity={general}",),
                limit=GENERAL_ROWS,
                alphas=self.recipe["sweep"]["alphas"],
                output=self.folder / "general",
                **shared,
            ),
        )
        held_out = str(self.folder / "held-out.jsonl")
        for name, adapter in self.models(expert, anti).items():
            for task, limit in (("truthfulqa-binary", None), ("truthfulqa-gen", ANSWERED)):
                self.tell(f"{name}: {task}")
                settings = EvaluationSettings(
                    adapter=adapter,
                    data=(held_out,),
                    limit=limit,
                    max_new_tokens=NEW_TOKENS,
                    options={"truth_judge": "none", "info_judge": "none"} if task == "truthfulqa-gen" else {},
                    output=self.folder / "asked" / name / task,
                    **shared,
                )
                evaluate((task,), settings)

    def models(self, expert: str, anti: str) -> dict[str, tuple[str, ...]]:
        """base, expert, and what the sweep chose or was set beforehand, as adapters on disk."""
        chosen = read_json(self.folder / "run" / "sweep" / RESULT, largest=None)["chosen"]
        positions = {f"{CHOSEN[0]} at 1": (CHOSEN[0], BEFOREHAND)}
        for one in CHOSEN:
            if label := chosen[one]["position"]:
                positions[f"{one} chosen"] = (one, float(label.removeprefix(f"{one}-")))
        found: dict[str, tuple[str, ...]] = {"base": (), "expert": (expert,)}
        for name, (operation, alpha) in positions.items():
            place = self.folder / "adapters" / f"{operation}-{alpha:g}"
            if not place.exists():
                result = combine(load_adapter(expert), load_adapter(anti), operation=operation, alpha=alpha)
                save_adapter(result, place)
            found[name] = (str(place),)
        return found

    def tell(self, what: str) -> None:
        say(f"{self.folder.name}: {what}")


if __name__ == "__main__":
    main()
