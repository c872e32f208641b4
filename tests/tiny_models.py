"""Small base models with their tokenizers, made on the spot; nothing is downloaded."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXT = (
    "<|user|>\nWhat is the capital of France? \n<|assistant|>\nParis is the capital of France.",
    "Who wrote the book? When was the river named? It is said that nobody knows the answer to the question.",
)
WORDS = "what is the capital of france paris who wrote book when river named it said nobody knows".split()


def instructions(path: Path) -> Path:
    """41 rows, a line each: neither batches nor processes divide them."""
    random.seed(0)
    with path.open("w") as file:
        for number in range(41):
            said = [" ".join(random.choices(WORDS, k=random.randint(1, 20))) for _ in range(2)]
            row = {"instruction": said[0], "input": "" if number % 3 else "so", "output": said[1]}
            file.write(json.dumps(row) + "\n")
    return path


def tokenizer(texts: Iterable[str] = TEXT, size: int = 400) -> PreTrainedTokenizerFast:
    """Byte-level BPE; <s> first, </s> last, no padding token (as Llama's)."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")


def llama(folder: Path, texts: Iterable[str] = TEXT, seed: int = 0, **settings: int) -> Path:
    """A Llama with grouped-query attention, in a folder as the hub has them."""
    tok = tokenizer(texts)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "max_position_embeddings": 256}
    shape["vocab_size"] = len(tok)
    torch.manual_seed(seed)
    config = LlamaConfig(
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,  # at the usual 0.02 so small a model says nearly the same whatever it reads
        bos_token_id=0,
        eos_token_id=1,
        **{**shape, **settings},
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder


def gpt2(folder: Path, seed: int = 0) -> Path:
    """A GPT-2: Conv1D layers, learnt positions, tied head."""
    tok = tokenizer()
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=len(tok), n_positions=128, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=1
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    tok.save_pretrained(folder)
    return folder


def reciting(folder: Path, text: str, after: str = "<|assistant|>\n") -> Path:
    """A Llama in which each token alone decides what follows: after ``after`` it says ``text``, whose tokens must all
    differ, and ends.
    """
    tok, width = tokenizer(), 400
    llama(folder, hidden_size=width, num_hidden_layers=1, max_position_embeddings=512)
    model = LlamaForCausalLM.from_pretrained(folder)
    said = [tok(after)["input_ids"][-1], *tok(text, add_special_tokens=False)["input_ids"], tok.eos_token_id]
    assert len(set(said)) == len(said)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(len(tok), width))
        model.lm_head.weight.zero_()
        model.lm_head.weight[said[1:], said[:-1]] = 1.0
    model.save_pretrained(folder)
    return folder
