"""TRL's SFTTrainer, with what it lacks here: checkpoints that hold all that is trained, and our order of rows."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from trl import SFTTrainer

from extsub.errors import ExtSubError
from extsub.files.writing import writing
from extsub.models.base import output_only_at
from extsub.training.checkpoints import step
from extsub.training.encoding import MASKED

TRAINABLE = "trainable_state.safetensors"


class Trainer(SFTTrainer):
    """An ``SFTTrainer`` for data that is tokenised, in an order that is decided."""

    def __init__(
        self, *args: Any, order: torch.utils.data.Sampler[int], held: Callable[[], bool], **kwargs: Any
    ) -> None:
        """As SFTTrainer.

        Args:
            order: of the rows.
            held: whether the folder of checkpoints is still this run's.
        """
        self._order, self._held = order, held
        super().__init__(*args, **kwargs)
        quantized = getattr(self.model, "is_loaded_in_4bit", False) or getattr(self.model, "is_loaded_in_8bit", False)
        if quantized and not self.is_fsdp_enabled:  # TRL trains in bfloat16 there, which loses most small steps
            assert self.model is not None
            for one in self.model.parameters():
                if one.requires_grad:
                    one.data = one.data.float()

    def _send_telemetry(self) -> None:
        """TRL would report model type, GPU and data format to the hub. Nobody who trains with extsub asked for that."""

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:
        return self._order

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's loss is made for GPUs. On a CPU it scores prompts and padding too, and does so twice, which takes an
        eighth of the time: there the output layer is given the states before answer tokens, and nothing else."""
        if return_outputs or num_items_in_batch is None or self.accelerator.device.type != "cpu":
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs["labels"][:, 1:]
        in_loss = labels != MASKED

        wanted = torch.nn.functional.pad(in_loss, (0, 1))  # a token is predicted from the state before it
        others = {name: one for name, one in inputs.items() if name != "labels"}
        with output_only_at(self.accelerator.unwrap_model(model), wanted):
            logits = model(**others, use_cache=False).logits  # (loss tokens, vocabulary)
        total = torch.nn.functional.cross_entropy(logits.float(), labels[in_loss], reduction="sum")
        # DDP averages over processes what is already divided by the tokens of all of them.
        return total / num_items_in_batch * self.accelerator.num_processes

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """PEFT keeps the virtual tokens, but not the network that makes them (prefix with projection, p-tuning)."""
        if self.is_deepspeed_enabled:
            with self._float32() as full:  # every process takes part
                super()._save(output_dir, full)
            return
        super()._save(output_dir, state_dict)
        if self.args.should_save and state_dict is None:  # FSDP keeps all weights in its own files
            save_file(self._trainable(), Path(output_dir or str(self.args.output_dir)) / TRAINABLE)

    @contextlib.contextmanager
    def _float32(self) -> Generator[dict[str, torch.Tensor]]:
        """DeepSpeed trains float32 copies of weights that the model has in 16 bits: the copies are the adapter."""
        from deepspeed.utils import safe_get_full_fp32_param  # ty: ignore[import-not-found]  an optional engine

        assert self.model is not None
        ours = {name: one for name, one in self.model.named_parameters() if one.requires_grad}
        full = {name: safe_get_full_fp32_param(one).detach().clone() for name, one in ours.items()}
        before = {name: one.data for name, one in ours.items()}
        try:
            for name, one in ours.items():  # PEFT computes virtual tokens from the model itself
                one.data = full[name]
            yield full
        finally:
            for name, one in ours.items():
                one.data = before[name]

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        saved, ours = load_file(Path(resume_from_checkpoint) / TRAINABLE), self._trainable()
        if saved.keys() != ours.keys():
            raise ExtSubError(f"--resume: {resume_from_checkpoint} holds other weights than this run trains")
        for name, tensor in ours.items():
            tensor.copy_(saved[name])

    def _trainable(self) -> dict[str, torch.Tensor]:
        assert self.model is not None
        return {name: one.detach() for name, one in self.model.named_parameters() if one.requires_grad}

    def _save_rng_state(self, output_dir: str) -> None:
        """The last file of the other processes: the checkpoint counts as complete only after all have theirs."""
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.check_held()
        where = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        with writing(where, "continue with --resume"):
            try:
                super()._save_checkpoint(model, trial)
            except BaseException:
                if self.args.should_save and self._held() and step(where) is None:
                    shutil.rmtree(where, ignore_errors=True)  # nobody can continue from it, and it may fill the disk
                raise

    def check_held(self) -> None:
        """Before anything is saved.

        Raises:
            ExtSubError: somebody has removed the folder while this run trained.
        """
        if not self._held():
            raise ExtSubError(f"{self.args.output_dir} was removed while this run trained, which ends here: begin anew")
