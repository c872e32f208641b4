"""From a plan to an adapter on disk: one run of transformers' Trainer, resumable, all or nothing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

from extsub.distributed import is_main_process
from extsub.errors import ExtSubError, kept_when_interrupted
from extsub.extras import require
from extsub.files.disk import writing
from extsub.files.locks import locked
from extsub.files.staging import staged
from extsub.files.writing import make_parents, remove_empty
from extsub.models.base import load_model
from extsub.models.forward import is_out_of_memory
from extsub.training import checkpoints
from extsub.training.batches import end_to_end, packs_of, padded
from extsub.training.encoding import ChunkProgress
from extsub.training.kinds import peft_config
from extsub.training.memory import check_memory, memory_of, to_save_memory
from extsub.training.plan import Plan, plan_training
from extsub.training.record import TrainingRecord, identity, training_record, write_adapter
from extsub.training.settings import PROMPT_LEARNING, TrainingSettings
from extsub.training.trial import try_model

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import TrainingArguments

    from extsub.training.trainer import Trainer

MOST_CHECKPOINTS = 2
"""Checkpoints that are kept: one may be half written when the power fails."""
DONE = ("--resume writes it", "the training is done")
"""What is said where only the result cannot be written."""


def train(
    settings: TrainingSettings | Plan, *, resume: bool = False, progress: ChunkProgress | None = None
) -> TrainingRecord:
    """Train one adapter and write it to ``settings.output``: an ordinary PEFT adapter, a model card, ``training.json``
    and ``loss.png``.

    Under ``accelerate launch`` or ``torchrun`` every process calls this. The same settings and data give the same
    adapter, also when a run was interrupted and resumed (bit by bit on a CPU), and on any number of processes up to
    rounding and the places of dropout.

    Args:
        settings: or a plan that was made of them, so that its rows are not read and tokenised again.
        resume: continue an interrupted run from its last checkpoint; start if there is none.
        progress: wraps the chunks of rows while they are tokenised.

    Returns:
        what ``training.json`` holds

    Raises:
        ExtSubError: settings, data, model or output are at fault, memory or disk is too small, or the loss is NaN.
    """
    from extsub.training.progress import Watch

    plan = None
    if isinstance(settings, Plan):
        plan, settings = settings, settings.settings
    if settings.quantize:
        require("bitsandbytes", "quantize")
    if is_main_process():
        checkpoints.check_output(settings.output, resume)
    plan = plan or plan_training(settings, progress)
    check_memory(plan)
    with _working(settings.output) as held, _out_of_memory_explained(plan):
        arguments = _arguments(plan)  # before the model: DeepSpeed ZeRO-3 must be known when weights are loaded
        ours = {**identity(plan), "engine": _engine(plan, arguments)}
        start = checkpoints.begin(settings.output, ours) if is_main_process() else None
        trainer = _trainer(plan, arguments, held)
        if not is_main_process() and resume:
            start = checkpoints.last_checkpoint(settings.output)
        watch = Watch(plan.tokens * plan.settings.epochs / plan.steps)
        trainer.add_callback(watch)
        try:
            trainer.train(resume_from_checkpoint=str(start) if start else None)
        finally:
            watch.close()
        final = settings.output / checkpoints.FOLDER / "final"
        trainer.check_held()
        with writing(settings.output, *DONE):
            trainer.save_adapter(final)
        record = training_record(plan, trainer, watch)
        if is_main_process():
            with staged(settings.output, *DONE) as folder:
                write_adapter(folder, final, record)
        return record


@contextlib.contextmanager
def _working(output: Path) -> Generator[Callable[[], bool]]:
    """Hold the checkpoints alone; whatever ends the run early, leave only what can be continued.

    Yields:
        whether they are still this run's: somebody may have removed them and begun anew
    """
    if not is_main_process():
        yield lambda: True
        return
    folder = output / checkpoints.FOLDER
    with writing(folder):
        created = make_parents(folder / checkpoints.SETTINGS)
    with locked(folder, output) as held, kept_when_interrupted(lambda: _kept(output, held)):
        try:
            yield held
        except BaseException:
            if held():
                checkpoints.abandon(output)
                remove_empty(created)
            raise


def _kept(output: Path, held: Callable[[], bool]) -> str:
    checkpoint = checkpoints.last_checkpoint(output) if held() else None
    return f"step {checkpoints.step(checkpoint)} is saved in {output}: continue with --resume" if checkpoint else ""


def _arguments(plan: Plan) -> TrainingArguments:
    import torch
    from transformers import TrainingArguments

    settings, on_gpu = plan.settings, torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(settings.output / checkpoints.FOLDER),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=plan.micro_batch,
        gradient_accumulation_steps=plan.accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=settings.warmup,  # a part of all steps, below 1
        weight_decay=settings.weight_decay,
        seed=settings.seed,
        bf16=plan.dtype == torch.bfloat16,
        fp16=plan.dtype == torch.float16,
        use_cpu=not on_gpu and not torch.backends.mps.is_available(),
        gradient_checkpointing=settings.gradient_checkpointing,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=settings.checkpoint_steps,
        save_total_limit=MOST_CHECKPOINTS,
        report_to=list(settings.report_to) or "none",
        disable_tqdm=True,
        dataloader_pin_memory=on_gpu,
        ddp_find_unused_parameters=False,
    )


def _engine(plan: Plan, arguments: TrainingArguments) -> str:
    """Whose checkpoints a run writes. DeepSpeed's fit only the stage and the number of processes that wrote them."""
    if arguments.deepspeed_plugin is not None:
        return f"DeepSpeed ZeRO-{arguments.deepspeed_plugin.zero_stage} on {plan.processes} processes"
    return "FSDP" if _asked_for("ACCELERATE_USE_FSDP") else "torch"


def _asked_for(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("true", "1")


def _trainer(plan: Plan, arguments: TrainingArguments, held: Callable[[], bool]) -> Trainer:
    import torch
    from transformers import PrinterCallback

    from extsub.training.trainer import Trainer

    settings = plan.settings
    if torch.cuda.device_count() > 1 and plan.processes == 1 and arguments.n_gpu > 1:
        raise ExtSubError(
            f"{torch.cuda.device_count()} GPUs are visible to one process: start with 'accelerate launch -m extsub "
            "train ...' to use all of them, or set CUDA_VISIBLE_DEVICES to one"
        )
    if _asked_for("ACCELERATE_USE_FSDP") and not torch.accelerator.is_available():  # FSDP 1 fails, FSDP 2 becomes DDP
        raise ExtSubError("FSDP was asked for, and it needs GPUs: leave it out, or use DeepSpeed ZeRO")
    trainer = Trainer(
        model=_adapted(plan, arguments),
        args=arguments,
        data_collator=end_to_end if settings.packing else padded,
        train_dataset=packs_of(plan.rows, plan.packs, filler=plan.tokenizer.eos_token_id),
        order=plan.order,
        held=held,
    )
    trainer.remove_callback(PrinterCallback)
    _check_engine(settings, trainer)
    return trainer


def _adapted(plan: Plan, arguments: TrainingArguments) -> PeftModel:
    """The base with an adapter to train, whose first weights are the seed's; in float32 wherever an engine allows."""
    import peft
    import torch
    from transformers import set_seed

    settings = plan.settings
    model, config = load_model(plan.model, plan.dtype, settings.quantize), peft_config(settings)
    if not plan.is_tried:
        try_model(model, settings)
    config.revision = plan.model.revision
    plugin = arguments.deepspeed_plugin
    is_zero3 = plugin is not None and plugin.zero_stage == 3  # gathers weights of one dtype only
    set_seed(settings.seed)
    adapted = peft.get_peft_model(model, config, autocast_adapter_dtype=not is_zero3 or settings.quantize is not None)
    if settings.quantize and _asked_for("ACCELERATE_USE_FSDP"):  # shards weights of one dtype only
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.data = weight.data.to(torch.bfloat16)
    if settings.gradient_checkpointing:
        adapted.enable_input_require_grads()
    return adapted


def _check_engine(settings: TrainingSettings, trainer: Trainer) -> None:
    """What was asked for is what runs: accelerate turns FSDP into DDP without a word where there is no GPU."""
    running = trainer.accelerator.distributed_type.value
    for variable, engine in (("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DEEPSPEED")):
        if _asked_for(variable) and running != engine:
            raise ExtSubError(f"{engine} was asked for, and accelerate runs {running}: {engine} needs GPUs here")
    plugin = trainer.accelerator.state.deepspeed_plugin if running == "DEEPSPEED" else None
    shared_out = running == "FSDP" or (plugin is not None and plugin.zero_stage == 3)
    if shared_out and settings.kind in PROMPT_LEARNING:
        raise ExtSubError(f"{settings.kind} cannot be gathered from ZeRO-3 or FSDP: use ZeRO-2, or train lora or ia3")


@contextlib.contextmanager
def _out_of_memory_explained(plan: Plan) -> Generator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        needed = memory_of(plan)["together"] / 1e9
        raise ExtSubError(f"out of memory (about {needed:.1f} GB are needed): {to_save_memory(plan)}") from error
