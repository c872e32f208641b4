"""What lies beside a trained adapter: ``training.json``, the model card, and the picture of the loss."""

from __future__ import annotations

import json
import math
import platform
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from safetensors.torch import load_file

from extsub.adapters.card import trained_card
from extsub.adapters.card_making import PICTURE
from extsub.adapters.source import CONFIG, SAFETENSORS
from extsub.adapters.stated import CARD, FORMAT
from extsub.adapters.stated import TRAINING as RECORD
from extsub.errors import ExtSubError
from extsub.extras import versions

if TYPE_CHECKING:
    from extsub.training.plan import Plan
    from extsub.training.progress import Watch
    from extsub.training.trainer import Trainer

LIBRARIES = ("extsub", "torch", "transformers", "peft", "accelerate", "datasets", "safetensors")


class TrainingRecord(TypedDict):
    """What ``training.json`` holds (docs/files.md)."""

    format: int
    settings: dict[str, Any]
    """By the names of `TrainingSettings`."""
    plan: dict[str, Any]
    """Data, steps, tokens, parameters, memory."""
    base_commit: str | None
    distributed: str
    device: str
    resumed_from_step: int | None
    first_loss: float
    last_loss: float
    seconds: float
    tokens_per_second: float | None
    versions: dict[str, str]
    losses: list[dict[str, Any]]
    """For each step its loss, learning rate and norm of the gradient."""


def identity(plan: Plan) -> dict[str, Any]:
    """What must be the same for a run to be continued."""
    return {**plan.settings.to_dict(), "model": plan.model.name, "data": plan.data.sha256, "dtype": str(plan.dtype)}


def training_record(plan: Plan, trainer: Trainer, watch: Watch) -> TrainingRecord:
    """Settings, versions, data, figures, and the loss of every step, as JSON values."""
    losses: list[dict[str, Any]] = [
        {
            "step": entry["step"],
            "loss": entry["loss"],
            "learning_rate": entry["learning_rate"],
            "gradient": _finite(entry.get("grad_norm", math.nan)),  # float16 overflows now and then, and skips the step
        }
        for entry in trainer.state.log_history
        if "loss" in entry
    ]
    seconds, done = watch.seconds, trainer.state.global_step - watch.first_step
    return {
        "format": FORMAT,
        "settings": plan.settings.to_dict(),
        "plan": plan.to_dict(),
        "base_commit": getattr(plan.config, "_commit_hash", None),
        "distributed": trainer.accelerator.distributed_type.value,
        "device": trainer.accelerator.device.type,
        "resumed_from_step": watch.first_step or None,
        "first_loss": losses[0]["loss"],
        "last_loss": losses[-1]["loss"],
        "seconds": seconds,
        "tokens_per_second": watch.tokens_per_step * done / seconds if seconds else None,
        "versions": {"python": platform.python_version(), **versions(*LIBRARIES)},
        "losses": losses,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def write_adapter(folder: Path, saved: Path, record: TrainingRecord) -> None:
    """Fill ``folder`` with the adapter that transformers saved, and what says how it was made.

    Raises:
        ExtSubError: the adapter holds NaN or infinite numbers.
    """
    from extsub.training.curve import plot_losses

    if broken := [name for name, tensor in load_file(saved / SAFETENSORS).items() if not tensor.isfinite().all()]:
        raise ExtSubError(f"the last step made {broken[0]} NaN or infinite: lower --learning-rate and begin anew")
    shutil.copyfile(saved / SAFETENSORS, folder / SAFETENSORS)
    config = json.loads((saved / CONFIG).read_text(encoding="utf-8"))
    for name in ("target_modules", "feedforward_modules"):  # sets to PEFT: in an order that differs from run to run
        if isinstance(config.get(name), list):
            config[name].sort()
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if (runs := saved.parent / "runs").is_dir():  # tensorboard's
        shutil.copytree(runs, folder / "runs")
    (folder / RECORD).write_text(json.dumps(record, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    name = Path(record["settings"]["output"]).resolve().name
    (folder / CARD).write_text(trained_card(config, record, name), encoding="utf-8")
    plot_losses(record, folder / PICTURE)
