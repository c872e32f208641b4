"""transformers' Trainer, with what it lacks here: our order of rows, a loss on answers alone, and checkpoints that hold
all that is trained and count only when they are whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from extsub.errors import ExtSubError
from extsub.files.disk import writing
from extsub.models.forward import output_only_at
from extsub.training.checkpoints import mark_complete
from extsub.training.encoding import MASKED

TRAINABLE = "trainable_state.safetensors"


class Trainer(transformers.Trainer):
    """A ``Trainer`` for rows that are tokenised, in an order that is decided."""

    loss_is_scaled_for_ga = True  # by the tokens of all micro-batches of a step

    def __init__(
        self, *args: Any, order: torch.utils.data.Sampler[int], held: Callable[[], bool], **kwargs: Any
    ) -> None:
        """As transformers' Trainer.

        Args:
            order: of the rows.
            held: whether the folder of checkpoints is still this run's.
        """
        super().__init__(*args, **kwargs)
        self._order, self._held = order, held
        self.model_accepts_loss_kwargs = True  # or the tokens of a step are not counted for every architecture

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        """Micro-batches in our order, of which accelerate gives each process its own."""
        return self.accelerator.prepare(
            torch.utils.data.DataLoader(
                self.train_dataset,  # ty: ignore[invalid-argument-type]  a list is one too
                self.args.per_device_train_batch_size,
                sampler=self._order,
                collate_fn=self.data_collator,
                pin_memory=self.args.dataloader_pin_memory,
            )
        )

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """This micro-batch's part of the mean over the answer tokens of a step. The output layer is given the states
        before these tokens, and nothing else; no other loss (of a router, say) is added."""
        labels = inputs.pop("labels")[:, 1:]
        in_loss = labels != MASKED
        wanted = torch.nn.functional.pad(in_loss, (0, 1))  # a token is predicted from the state before it
        with output_only_at(self.accelerator.unwrap_model(model), wanted):
            logits = model(**inputs, use_cache=False).logits  # (loss tokens, vocabulary)
        total = torch.nn.functional.cross_entropy(logits.float(), labels[in_loss], reduction="sum")
        # DDP averages over processes what is already divided by the tokens of all of them.
        return total / num_items_in_batch * self.accelerator.num_processes

    def save_adapter(self, folder: Path) -> None:
        """Write what was trained as PEFT has it, in float32, from wherever an engine keeps it. Nothing is trained after
        that; every process takes part."""
        if fsdp := getattr(self.accelerator.state, "fsdp_plugin", None):
            fsdp.set_state_dict_type("FULL_STATE_DICT")  # with any other, save_model writes nothing
            self.save_model(str(folder))
            return
        model: Any = self.model
        weights = self._float32() if self.is_deepspeed_enabled else None
        if self.args.should_save:  # without the base's embeddings and output layer, where these are adapted
            model.save_pretrained(str(folder), state_dict=weights, save_embedding_layers=False)

    def _float32(self) -> dict[str, torch.Tensor]:
        """DeepSpeed trains float32 copies of weights that the model has in 16 bits: the copies are the adapter."""
        from deepspeed.utils import safe_get_full_fp32_param  # ty: ignore[import-not-found]  an optional engine

        trained = self._trained()
        full = {name: safe_get_full_fp32_param(weight).detach().clone() for name, weight in trained.items()}
        for name, weight in trained.items():  # PEFT computes virtual tokens from the model itself
            weight.data = full[name]
        return full

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """PEFT keeps the virtual tokens, but not the network that makes them (prefix with projection, p-tuning); and
        transformers does not wait until all processes have written their parts."""
        self.check_held()
        checkpoint = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        with writing(checkpoint, "continue with --resume"):
            super()._save_checkpoint(model, trial)
            if self.args.should_save and not (self.is_fsdp_enabled or self.is_deepspeed_enabled):  # they have own files
                save_file({name: weight.detach() for name, weight in self._trained().items()}, checkpoint / TRAINABLE)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                mark_complete(checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        saved, trained = load_file(Path(resume_from_checkpoint) / TRAINABLE), self._trained()
        if saved.keys() != trained.keys():
            raise ExtSubError(f"--resume: {resume_from_checkpoint} holds other weights than this run trains")
        for name, weight in trained.items():
            weight.data.copy_(saved[name])

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        assert self.model is not None
        return {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}

    def check_held(self) -> None:
        """Check, before anything is saved, that the folder of checkpoints is still this run's.

        Raises:
            ExtSubError: somebody has removed the folder while this run trained.
        """
        if not self._held():
            raise ExtSubError(f"{self.args.output_dir} was removed while this run trained, which ends here: begin anew")
