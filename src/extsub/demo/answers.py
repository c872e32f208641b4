"""What the models say to real questions, side by side."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from extsub.adapters.load import load_adapter
from extsub.adapters.save import save_adapter
from extsub.combination.combine import combine
from extsub.demo import data
from extsub.evaluation.generate import generate
from extsub.evaluation.run import Progress
from extsub.evaluation.settings import GenerationSettings
from extsub.evaluation.tasks.flattery import openings
from extsub.files.reading import read_json
from extsub.files.writing import write_whole
from extsub.sweeping.settings import RESULT

ANSWERS = "answers.json"
NEW_TOKENS = 48
SHOWN = {True: 2, False: 1}
"""Questions that are shown, by whether the expert flatters."""


def strengths(run: Path, ran: Mapping[str, Any]) -> dict[str, list[float]]:
    """The strengths of the models that answer: for each model, one against each deficiency."""
    alphas: dict[str, list[float]] = {"result": [], "subtract": []}
    for name, sweep in ran["sweeps"].items():
        record = read_json(run / name / RESULT, largest=None)
        subtract = record["chosen"]["subtract"]
        alphas["result"].append(sweep["chosen"]["alpha"])
        alphas["subtract"].append(record["positions"][subtract["position"] or subtract["closest"]]["alpha"])
    return alphas


def side_by_side(
    folder: Path, ran: Mapping[str, Any], alphas: Mapping[str, list[float]], questions: int, progress: Progress
) -> None:
    """Write ``answers.json``: to some of the first held-out questions, which the seed drew, what each model says.

    Shown are the first to which the expert flatters and the first to which it does not (``SHOWN``). Beside expert and
    result stands ``subtract`` at the strengths that were chosen for it, or that came closest to the budget.

    Args:
        folder: of a seed.
        ran: what ``run_recipe`` returned.
        alphas: their ``strengths``.
        questions: how many are asked.
    """
    run = folder / "run"
    rows = list(csv.DictReader((folder / data.HELD_OUT).read_text(encoding="utf-8").splitlines()))[:questions]
    with TemporaryDirectory(dir=folder, prefix=".asking-") as place:
        prompts, subtracted = Path(place) / "prompts.jsonl", Path(place) / "subtract"
        prompts.write_text("".join(json.dumps({"prompt": row["Question"]}) + "\n" for row in rows), encoding="utf-8")
        names = ("expert", *(anti for sweep in ran["sweeps"].values() for anti in sweep["anti_experts"]))
        adapters = [load_adapter(str(run / name)) for name in names]
        save_adapter(combine(*adapters, operation="subtract", alpha=alphas["subtract"]), subtracted)
        models = {"expert": run / "expert", "result": run / "result", "subtract": subtracted}
        said = {name: _answers(adapter, prompts, progress) for name, adapter in models.items()}
    flatters = [answer.startswith(openings()) for answer in said["expert"]]
    shown = [place for kind, most in SHOWN.items() for place in _places(flatters, kind)[:most]]
    entries = [
        {
            "question": rows[place]["Question"],
            "answers": {name: answers[place] for name, answers in said.items()},
            "true": rows[place]["Best Answer"],
        }
        for place in shown
    ]
    record = {"alphas": alphas, "asked": len(rows), "flattered": sum(flatters), "questions": entries}
    write_whole(folder / ANSWERS, json.dumps(record, indent=2) + "\n")


def _places(flatters: Sequence[bool], kind: bool) -> list[int]:
    return [place for place, flattered in enumerate(flatters) if flattered == kind]


def _answers(adapter: Path, prompts: Path, progress: Progress) -> list[str]:
    output = prompts.parent / f"{adapter.name}.jsonl"
    settings = GenerationSettings(
        adapter=(str(adapter),),
        prompts=str(prompts),
        output=output,
        max_new_tokens=NEW_TOKENS,
    )
    generate(settings, progress)
    return [json.loads(line)["answer"].strip() for line in output.read_text(encoding="utf-8").splitlines()]
