"""The recipes of ``examples/evidence`` for several seeds: docs/evidence.md.

    python benchmarks/evidence.py [--recipe truthfulqa ... | all] [--seed 0 1 2] [--data TruthfulQA.csv]
                                  [--halueval qa_data.json] [--general alpaca.json] [--model ...] [--alphas 0.5,1]
                                  [--limit 200] [--output evidence]

For each recipe and seed the data is written and the recipe is run on it: where TruthfulQA is learnt and asked, for each
half of its questions, so that every question is held out once. Of the recipe ``truthfulqa``, every position of the
sweep is then asked for general instructions, which are nothing like the training rows; methods of reference are asked
at two strengths; base, expert and the models of the chosen strengths make binary choices on all held-out questions, and
answer a hundred of them in their own words. What is done is kept: an interrupted run goes on, also after days. After
every seed ``benchmarks/evidence_page.py`` writes the page. Data comes from the hub unless given.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from extsub import EvaluationSettings, SweepSettings, combine, evaluate, load_adapter, run_recipe, save_adapter, sweep
from extsub.demo.data import Mix, write_data
from extsub.demo.model import HUB, find_demo_model
from extsub.errors import ExtSubError
from extsub.files.reading import read_json
from extsub.models.base import quickest_dtype
from extsub.sweeping.references import METHODS
from extsub.sweeping.settings import RESULT

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "examples"))
from evidence_figures import DONE, REFERENCES, SWEEP  # noqa: E402
from evidence_page import MAIN, write_page  # noqa: E402
from halueval import write_pairs  # noqa: E402
from truthfulqa import write_halves  # noqa: E402

RECIPES = {path.stem: path for path in sorted((ROOT / "examples" / "evidence").glob("*.yaml"))}
HELD_OUT = "held-out.jsonl"
PAIRS = 400
"""of HaluEval that are learnt"""
GENERAL, GENERAL_ROWS = "tatsu-lab/alpaca", 40
ANSWERED, NEW_TOKENS = 100, 48
"""questions of each half that are answered, and the longest answer"""
BEFOREHAND = 1.0
"""the strength of ext-sub that was set before anything was seen"""
CHOSEN = ("ext-sub", "contrast", "subtract")
REFERENCES_AT = "0.5,1"
"""strengths of the methods of reference, which take two and three times as long"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", nargs="+", choices=(*RECIPES, "all"), default=[MAIN])
    parser.add_argument("--seed", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", help="TruthfulQA.csv; the hub's truthfulqa/truthful_qa unless given")
    parser.add_argument("--halueval", help="HaluEval's qa_data.json; the hub's pminervini/HaluEval unless given")
    parser.add_argument("--general", default=GENERAL, help="general instruction data: a file or dataset of the hub")
    parser.add_argument("--model", help="folder or hub id, in place of what the recipes name")
    parser.add_argument("--alphas", help="strengths, in place of what the recipes name")
    parser.add_argument("--limit", type=int, help="items of each task, in place of what the recipes name")
    parser.add_argument("--output", type=Path, default=Path("evidence"))
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "evidence.md")
    given = parser.parse_args()
    data = {"truthfulqa-mc": given.data, "halueval-qa": given.halueval}
    other = {name: value for name in ("alphas", "limit") if (value := getattr(given, name)) is not None}
    try:
        for name in RECIPES if "all" in given.recipe else given.recipe:
            recipe = yaml.safe_load(RECIPES[name].read_text(encoding="utf-8"))
            for seed in given.seed:
                for half in (1, 2) if is_held_out(recipe) else (1,):
                    run = Run(given.output / name / f"seed-{seed}-half-{half}", name, seed, given.model, other)
                    run.carry_out(data, half)
                    if name == MAIN:
                        run.ask_more(given.general)
                write_page(given.output, given.page)
    except ExtSubError as error:
        sys.exit(str(error))


def is_held_out(recipe: Mapping[str, Any]) -> bool:
    """Whether what is asked is the part of the same data that is not learnt."""
    return any(given.endswith(HELD_OUT) for given in recipe["sweep"]["data"])


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Run:
    """One recipe with one seed.

    Args:
        model: in place of the recipe's.
        other: settings of the sweep in place of the recipe's.
    """

    def __init__(self, folder: Path, name: str, seed: int, model: str | None, other: Mapping[str, Any]) -> None:
        self.folder, self.name, self.seed = folder, name, seed
        text = RECIPES[name].read_text(encoding="utf-8").replace(f"evidence/{name}/", f"{folder}/")
        self.recipe: dict[str, Any] = yaml.safe_load(text)
        self.recipe["training"]["seed"] = seed
        self.recipe["sweep"] |= {"seed": seed, "dtype": quickest_dtype(), **other}
        if model or self.recipe["model"] == HUB:
            self.recipe["model"] = find_demo_model(model, say=say).name

    def carry_out(self, data: Mapping[str, str | None], half: int) -> None:
        """Write the data, and run the recipe on it."""
        if self.name == "flattery":
            write_data(self.folder, self.seed, Mix())
        elif self.name.startswith("halueval"):
            write_pairs(self.folder, data["halueval-qa"], PAIRS, self.seed)
        else:
            write_halves(self.folder, data["truthfulqa-mc"], half, self.seed)
        sweep = self.recipe["sweep"]
        named = {given.partition("=")[0] for given in sweep["data"]}
        sweep["data"] += [f"{task}={data[task]}" for task in sweep["tasks"] if data.get(task) and task not in named]
        path = self.folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(self.recipe, sort_keys=False), encoding="utf-8")
        self.tell("the recipe")
        run_recipe(path, say=self.tell)

    def ask_more(self, general: str) -> None:
        """General instructions of every position; choices and answers of the models of the chosen strengths."""
        expert, anti = (str(self.folder / "run" / name) for name in ("expert", "anti-untruthful"))
        shared: dict[str, Any] = {
            "model": self.recipe["model"],
            "dtype": self.recipe["sweep"]["dtype"],
            "seed": self.seed,
        }
        self.tell("references")
        if not (self.folder / REFERENCES).exists():  # what the recipe's sweep has asked is not asked again
            shutil.copytree(self.folder / SWEEP, self.folder / REFERENCES)
        asked = self.recipe["sweep"] | {
            "alphas": REFERENCES_AT,
            "operations": CHOSEN,
            "references": METHODS,
            "output": self.folder / REFERENCES,
        }
        sweep(expert, [anti], SweepSettings(model=self.recipe["model"], **asked))
        self.tell("general instructions")
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
        held_out = str(self.folder / HELD_OUT)
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
        (self.folder / DONE).touch()

    def models(self, expert: str, anti: str) -> dict[str, tuple[str, ...]]:
        """base, expert, and what the sweep chose or was set beforehand, as adapters on disk."""
        chosen = read_json(self.folder / "run" / "sweep" / RESULT, largest=None)["chosen"]
        positions = {f"{CHOSEN[0]} at 1": (CHOSEN[0], BEFOREHAND)}
        for operation in CHOSEN:
            if label := chosen[operation]["position"]:
                positions[f"{operation} chosen"] = (operation, float(label.removeprefix(f"{operation}-")))
        models: dict[str, tuple[str, ...]] = {"base": (), "expert": (expert,)}
        for name, (operation, alpha) in positions.items():
            place = self.folder / "adapters" / f"{operation}-{alpha:g}"
            if not place.exists():
                result = combine(load_adapter(expert), load_adapter(anti), operation=operation, alpha=alpha)
                save_adapter(result, place)
            models[name] = (str(place),)
        return models

    def tell(self, what: str) -> None:
        say(f"{self.name}, {self.folder.name}: {what}")


if __name__ == "__main__":
    main()
