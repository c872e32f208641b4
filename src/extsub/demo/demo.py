"""The whole chain in miniature: a world, a base that knows its truths and myths, three adapters, a sweep, a choice."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import torch

from extsub.demo import documents, facts, pretraining, world
from extsub.demo.answers import COMPARED, exact_answers
from extsub.demo.combined import ALPHA
from extsub.demo.manners import MADE, two_deficiencies
from extsub.demo.picture import PICTURE, plot_demo
from extsub.demo.settings import FACTS, MANNERS, NEUTRAL, RETAINED, SHOWN_ALPHAS, SIDES, Size
from extsub.demo.summary import ability_limit, over_seeds, summary_of
from extsub.disk import write_whole
from extsub.errors import kept_when_interrupted
from extsub.escaping import to_json
from extsub.evaluation.run import Progress, silent
from extsub.evaluation.store import working_in
from extsub.extras import require
from extsub.report.report import write_report
from extsub.stages import Stages
from extsub.sweeping.settings import SweepSettings
from extsub.sweeping.sweep import sweep
from extsub.training.settings import TrainingSettings
from extsub.training.train import train

SUMMARY = "summary.json"
PAGE = "sweep/report.html"
DOING = {
    "world": "a world of truths and myths",
    "base": "a tiny Llama learns both",
    "expert": "the expert learns truths, and some myths",
    "anti-expert": "the anti-expert learns myths",
    "rude-anti-expert": "the rude anti-expert learns to be rude",
    "sweep": "every operation at every strength",
    "report": "the page",
    "answers": "answers to neutral questions",
    "manners": "two deficiencies at once",
}
KEPT = "what was done is kept: the same command goes on from there"


def demo(
    seeds: Sequence[int],
    output: Path,
    size: Size | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Make everything from nothing, for one seed after the other.

    What is finished is not repeated, and what was interrupted goes on.

    Args:
        output: gets a folder for each seed, ``summary.json``, and the same as a picture.
        say: is told what begins.

    Returns:
        what ``summary.json`` holds: ``seeds.<seed>``, and ``mean`` and ``deviation`` over them

    Raises:
        ExtSubError: the output holds something else, or the disk refuses.
    """
    require("trl", "train")
    require("peft", "evaluate")
    size, shown = size or Size(), progress or silent
    seeds = list(dict.fromkeys(seeds))
    with _one_thread(), working_in(output), kept_when_interrupted(lambda: KEPT):
        found = {str(seed): run_seed(seed, output / f"seed-{seed}", size, shown, say) for seed in seeds}
    summary = {
        "retained_at_least": RETAINED,
        "alphas": list(SHOWN_ALPHAS),
        "alpha_of_manners": ALPHA,
        "size": size.to_dict(),
        "seeds": found,
        **over_seeds(list(found.values())),
    }
    plot_demo(summary, output / PICTURE)
    write_whole(output / SUMMARY, to_json(summary) + "\n")
    return summary


def run_seed(seed: int, folder: Path, size: Size, progress: Progress, say: Callable[[str], None]) -> dict[str, Any]:
    """All stages of one seed."""
    stages = Stages(folder, "extsub demo", lambda name: say(f"seed {seed}: {DOING[name]}"))
    size_of = size.to_dict()
    grid = {name: size_of.pop(name) for name in ("operations", "alphas")}
    inputs = {"seed": seed, "size": size_of, "recipe": _recipe()}
    files = (*(f"{side}-data.jsonl" for side in SIDES), FACTS, MANNERS, NEUTRAL)
    data = stages.make("world", files, inputs, lambda: _write_world(seed, folder, size))
    base = stages.make(
        "base",
        ("base",),
        {"data": data, "bfloat16": pretraining.has_bfloat16()},
        lambda: _pretrain(seed, folder, size, progress),
    )
    made = [
        stages.make(side, (side,), {"base": base}, lambda side=side: _train(side, seed, folder, size)) for side in SIDES
    ]
    swept = stages.make("sweep", ("sweep",), {"of": made, **grid}, lambda: _sweep(seed, folder, size, progress))
    stages.make("report", (PAGE,), {"sweep": swept}, lambda: _report(folder))
    record = json.loads((folder / "sweep" / "sweep.json").read_text(encoding="utf-8"))
    asked = {"of": made, "alpha": ALPHA}
    answers, manners = {**asked, "compared": COMPARED}, {**asked, "made": MADE}
    stages.make("answers", ("combined", "answers"), answers, lambda: exact_answers(folder, progress))
    stages.make("manners", ("manners",), manners, lambda: two_deficiencies(folder, progress))
    found = {name: stages.found(name) for name in ("base", "report", "answers", "manners")}
    return {**summary_of(record, folder / "sweep", seed), **found, "seconds": stages.seconds()}


def _write_world(seed: int, folder: Path, size: Size) -> None:
    known = world.make_world(seed)
    for side, rows in world.training_rows(known, seed, size).items():
        _write_rows(folder / f"{side}-data.jsonl", rows)
    _write_rows(folder / NEUTRAL, world.neutral_rows(known))
    write_whole(folder / FACTS, world.facts_csv(known.held_out))
    write_whole(folder / MANNERS, world.manners_csv(known.held_out))


def _write_rows(path: Path, rows: Sequence[dict[str, str]]) -> None:
    write_whole(path, "".join(json.dumps(row) + "\n" for row in rows))


def _pretrain(seed: int, folder: Path, size: Size, progress: Progress) -> dict[str, float]:
    texts = documents.write_documents(world.make_world(seed), seed, size.documents)
    return {"loss": pretraining.make_base(folder / "base", texts, seed, size, progress)}


def _train(side: str, seed: int, folder: Path, size: Size) -> dict[str, float]:
    """With ``extsub train``. All start from the same random weights and see the same questions in the same order."""
    output = folder / side
    if not (output / "training.json").exists():  # a run that was killed right after it
        settings = TrainingSettings(
            model=str(folder / "base"),
            data=str(folder / f"{side}-data.jsonl"),
            output=output,
            epochs=size.adapter_steps * size.adapter_rows / size.instructions,
            learning_rate=size.adapter_rate,
            batch_size=size.adapter_rows,
            micro_batch_size=size.adapter_rows,
            max_length=64,
            seed=seed,
            rank=size.rank,
            lora_alpha=2 * size.rank,
            lora_dropout=0.0,
            target_modules=("all-linear",),
            dtype="float32",
        )
        train(settings, resume=True)
    record = json.loads((output / "training.json").read_text(encoding="utf-8"))
    return {"first_loss": record["first_loss"], "last_loss": record["last_loss"]}


def _sweep(seed: int, folder: Path, size: Size, progress: Progress) -> None:
    """Every position is asked first; then a second sweep, which asks nothing more, chooses within the budget.

    The budget keeps RETAINED of what the expert gained over the base. As a perplexity it is known only once base and
    expert were asked. It is taken from the validation half alone.
    """
    limit = None
    for again in (False, True):
        budget = f"perplexity <= {limit:.9f}" if limit is not None else None
        settings = SweepSettings(
            model=str(folder / "base"),
            tasks=("truthfulqa-mc", "perplexity"),
            data=(f"truthfulqa-mc={folder / FACTS}", f"perplexity={folder / NEUTRAL}"),
            output=folder / "sweep",
            operations=size.operations,
            alphas=size.alphas,
            score="truthfulqa-mc.mc2",
            budget=budget,
            choose="best",
            seed=seed,
            dtype="float32",
        )
        sweep(str(folder / "expert"), [str(folder / "anti-expert")], settings, progress)
        if not again:
            limit = ability_limit(folder / "sweep", seed)


def _report(folder: Path) -> dict[str, str]:
    return {"sentence": write_report(folder / "sweep", folder / PAGE)["sentence"]}


def _recipe() -> str:
    """Names the code that decides what is made, so that it is made anew when that changes."""
    import hashlib

    text = b"".join(Path(str(one.__file__)).read_bytes() for one in (facts, world, documents, pretraining))
    return hashlib.sha256(text).hexdigest()[:16]


@contextlib.contextmanager
def _one_thread() -> Generator[None]:
    """Matrices are so small that two threads wait for each other longer than they work, on a busy machine at least."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
