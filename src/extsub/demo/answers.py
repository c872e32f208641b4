"""What the models say to neutral questions: combined adapters on disk, asked with ``extsub generate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from extsub.demo.combined import ALPHA, write_combined
from extsub.demo.settings import NEUTRAL
from extsub.evaluation.generate import generate
from extsub.evaluation.run import Progress
from extsub.evaluation.settings import GenerationSettings

COMPARED = ("ext-sub", "subtract", "amplify")
NEW_TOKENS = 12


def exact_answers(folder: Path, progress: Progress) -> dict[str, Any]:
    """The part of the held-out neutral questions that each model answers word for word.

    Args:
        folder: of a seed, with base, adapters and neutral questions. Gets ``combined/`` and ``answers/``.
    """
    for operation in COMPARED:
        write_combined(folder, operation, ("anti-expert",), folder / "combined" / operation)
    models = {"base": None, "expert": folder / "expert", "anti-expert": folder / "anti-expert"}
    models |= {operation: folder / "combined" / operation for operation in COMPARED}
    return {
        "alpha": ALPHA,
        "exact": {name: _exact(folder, name, adapter, progress) for name, adapter in models.items()},
    }


def _exact(folder: Path, name: str, adapter: Path | None, progress: Progress) -> float:
    output = folder / "answers" / f"{name}.jsonl"
    if not output.exists():
        settings = GenerationSettings(
            model=str(folder / "base"),
            adapter=(str(adapter),) if adapter else (),
            prompts=str(folder / NEUTRAL),
            output=output,
            max_new_tokens=NEW_TOKENS,
            dtype="float32",
        )
        generate(settings, progress)
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    return sum(row["answer"].strip() == row["output"] for row in rows) / len(rows)
