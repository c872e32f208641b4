"""What a run says while it goes on: a bar with loss, tokens per second and time left; a line now and then in a file."""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from extsub.errors import ExtSubError
from extsub.printing import bar, say, shows_progress

if TYPE_CHECKING:
    from rich.progress import Progress

LINES = 20
"""Lines for a whole run, about, where the output is not a terminal."""


class Watch(TrainerCallback):
    """Follows a run: stops it when the loss is not a number, and shows how it goes on the main process."""

    def __init__(self, tokens_per_step: float) -> None:
        self.tokens_per_step = tokens_per_step
        self.seconds = 0.0
        self.first_step = 0
        self._bar: Progress | None = None
        self._begun = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._begun, self.first_step = time.perf_counter(), state.global_step
        if shows_progress() and sys.stderr.isatty():
            self._bar = bar("training", state.max_steps, state.global_step, transient=False)
            self._bar.start()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if not logs or "loss" not in logs:
            return
        loss, step = float(logs["loss"]), state.global_step
        if not math.isfinite(loss):
            raise ExtSubError(
                f"the loss became {loss} at step {step}: lower --learning-rate, or use --dtype float32 or bfloat16"
            )
        self.seconds = time.perf_counter() - self._begun
        speed = self.tokens_per_step * (step - self.first_step) / self.seconds
        said = f"loss {loss:.4f}, {speed:,.0f} tokens/s"
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=step, said=said)
        elif shows_progress() and step * LINES // state.max_steps > (step - 1) * LINES // state.max_steps:
            left = self.seconds / (step - self.first_step) * (state.max_steps - step)
            say(f"step {step:,} of {state.max_steps:,}: {said}, {left:.0f} s left", error=True)

    def close(self) -> None:
        """Take the bar away, also after an error."""
        if self._bar:
            self._bar.stop()
