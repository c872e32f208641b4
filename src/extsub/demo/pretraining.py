"""A tiny Llama and its tokenizer, made from documents on the spot. An interrupted run goes on from its checkpoint."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from extsub.demo.documents import END
from extsub.demo.settings import Size
from extsub.disk import remove, write_whole, writing
from extsub.evaluation.run import Progress

PAD = "<pad>"
SPECIAL = (PAD, END, "<|user|>", "<|assistant|>")
CHECKPOINT = "checkpoint.pt"


def make_base(folder: Path, documents: Sequence[str], seed: int, size: Size, progress: Progress) -> float:
    """Pre-train a Llama on documents and write it to ``folder``, with its tokenizer.

    Returns:
        the mean loss of the last 50 steps
    """
    tokenizer = make_tokenizer(documents, size)
    rows = _packed(tokenizer, documents, size.length)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(_config(len(tokenizer), size))
    work = folder.with_name(f"{folder.name}-unfinished")
    loss = _train(model, rows, work / CHECKPOINT, seed, size, progress)
    with writing(folder):
        shutil.rmtree(work / "base", ignore_errors=True)
        model.save_pretrained(work / "base")
        tokenizer.save_pretrained(work / "base")
        remove(folder)
        (work / "base").rename(folder)
        shutil.rmtree(work, ignore_errors=True)
    return loss


def make_tokenizer(documents: Sequence[str], size: Size) -> PreTrainedTokenizerFast:
    """Byte-level BPE of the documents, in which every word is one token if the vocabulary suffices."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size.vocabulary, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=END, pad_token=PAD, clean_up_tokenization_spaces=False
    )


def _packed(tokenizer: PreTrainedTokenizerFast, documents: Sequence[str], length: int) -> Tensor:
    end: list[int] = [tokenizer.convert_tokens_to_ids(END)]  # ty: ignore[invalid-assignment]  one token, one id
    encoded = tokenizer(list(documents), add_special_tokens=False)["input_ids"]
    stream = [token for document in encoded for token in (*document, *end)]
    return torch.tensor(stream[: len(stream) // length * length]).view(-1, length)


def _config(vocabulary: int, size: Size) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=size.width,
        intermediate_size=size.feedforward,
        num_hidden_layers=size.layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=size.spread,
        bos_token_id=None,
        eos_token_id=SPECIAL.index(END),
        pad_token_id=SPECIAL.index(PAD),
    )


def _train(model: LlamaForCausalLM, rows: Tensor, checkpoint: Path, seed: int, size: Size, progress: Progress) -> float:
    steps, each = size.pretraining_steps, size.rows
    optimizer = torch.optim.AdamW(
        model.parameters(), size.pretraining_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / steps))
    order = _order(len(rows), steps * each, seed)
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    losses = _restore(checkpoint, parts)
    in_bfloat16 = has_bfloat16()
    model.train()
    with progress("pre-training", steps, len(losses)) as advance:
        for step in range(len(losses), steps):
            batch = rows[order[step * each : (step + 1) * each]]
            with torch.autocast("cpu", torch.bfloat16, enabled=in_bfloat16):
                loss = model(input_ids=batch, labels=batch, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            if len(losses) % size.checkpoint_steps == 0 and len(losses) < steps:
                _keep(checkpoint, parts, losses)
            advance(1)
    model.eval()
    last = losses[-50:]
    return sum(last) / len(last)


def _rate(done: float) -> float:
    """Up over 5 % of the steps, flat until 30 %, then down to a twentieth."""
    return min(1.0, done / 0.05 + 0.01, 1 - 0.95 * (done - 0.3) / 0.7)


def _order(rows: int, needed: int, seed: int) -> Tensor:
    """Every row once, then every row again in another order, until there are enough."""
    random = torch.Generator().manual_seed(seed)
    return torch.cat([torch.randperm(rows, generator=random) for _ in range(-(-needed // rows))])


def has_bfloat16() -> bool:
    """Does the processor multiply bfloat16 itself? Where it does not, float32 is quicker."""
    known = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))


def _keep(path: Path, parts: dict[str, Any], losses: list[float]) -> None:
    content = io.BytesIO()
    torch.save({"losses": losses, **{name: part.state_dict() for name, part in parts.items()}}, content)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content.getvalue())


def _restore(path: Path, parts: dict[str, Any]) -> list[float]:
    """The losses of the steps that are done."""
    if not path.exists():
        return []
    kept = torch.load(path, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(kept[name])
    return kept["losses"]
