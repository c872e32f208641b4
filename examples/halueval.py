"""Expert and anti-expert from HaluEval's question answering pairs, on a CPU in minutes, by the public commands: train,
combine, evaluate on pairs that were held out, compare.

    python examples/halueval.py qa_data.jsonl [FOLDER]

The data has one object a line with question, right_answer and hallucinated_answer (github.com/RUCAIBox/HaluEval). The
base model is a small Llama that learns to read from the questions and the knowledge beside them first. It is far too
small to know the answers: what the adapters learn is how right and hallucinated answers look.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging

STEPS, ROWS, LENGTH = 400, 16, 128
"""of the base model's training"""
HELD_OUT = ["--data", "held-out.jsonl"]


def main(source: Path, folder: Path) -> None:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines() if line.strip()]
    for name, part in (("train", rows[len(rows) // 5 :]), ("held-out", rows[: len(rows) // 5])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    print(f"{len(rows)} questions, {len(rows) // 5} of them held out; the base model learns to read for {STEPS} steps")
    make_base(folder)

    common = ["--model", "base", "--data", "train.jsonl", "--field", "instruction=question"]
    common += ["--batch-size", "16", "--learning-rate", "1e-3", "--epochs", "4"]
    extsub(folder, "train", *common, "--field", "output=right_answer", "--output", "expert")
    extsub(folder, "train", *common, "--field", "output=hallucinated_answer", "--output", "anti-expert")
    extsub(folder, "combine", "expert", "anti-expert", "--output", "result")
    extsub(folder, "combine", "expert", "anti-expert", "--operation", "subtract", "--output", "subtracted")

    adapters = ["--adapter", "expert", "anti-expert", "result", "subtracted"]
    extsub(folder, "evaluate", "halueval-qa", *HELD_OUT, "--model", "base", "--output", "results/base")
    extsub(folder, "evaluate", "halueval-qa", *HELD_OUT, *adapters, "--output", "results")
    for answer in ("right_answer", "hallucinated_answer"):
        fields = ["--field", "instruction=question", f"output={answer}"]
        extsub(folder, "evaluate", "perplexity", *HELD_OUT, *fields, *adapters, "--output", f"results-{answer}")
    extsub(folder, "compare", *(f"results/{name}" for name in ("expert", "result", "subtracted")))


def extsub(folder: Path, *arguments: str) -> None:
    """Run the command line, as anyone would."""
    print(f"\n$ extsub {' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", "extsub", *arguments], cwd=folder, check=True)


def make_base(folder: Path) -> None:
    """A Llama of 1.2 million parameters and its tokenizer, trained on what the training rows say apart from answers."""
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    texts = [f"<|user|>\n{row['question']}\n<|assistant|>\n{row['knowledge']}</s>" for row in rows]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=2000, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    )
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=0,
        eos_token_id=1,
    )
    model = LlamaForCausalLM(config)
    stream = torch.tensor([token for text in texts for token in tokenizer(text)["input_ids"]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(STEPS):
        starts = torch.randint(len(stream) - LENGTH, (ROWS,))
        batch = torch.stack([stream[start : start + LENGTH] for start in starts])
        reading = model(input_ids=batch, labels=batch).loss
        reading.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 99:
            print(f"  step {step + 1}: loss {reading.item():.3f}", flush=True)
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) > 2 else "halueval").resolve())
