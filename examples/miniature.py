"""The main job in miniature, from nothing, on a CPU, in seconds: two adapters of a tiny Llama, combined into one.

Makes a model with grouped-query attention and two LoRA adapters of different ranks and scalings (one with rsLoRA),
runs ``extsub combine`` and ``extsub inspect`` on them, loads the result with PEFT, and compares its logits with those
of the base model plus the formula on dense matrices.

    python examples/miniature.py [FOLDER]
"""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

ALPHA = 1.0
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main(folder: Path) -> None:
    warnings.filterwarnings("ignore", category=FutureWarning)  # peft asks transformers under old names
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    shutil.rmtree(folder, ignore_errors=True)

    say("A tiny Llama (4 heads, 2 key/value heads), and two adapters with random numbers for training")
    torch.manual_seed(0)
    base = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=256,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    )
    base.name_or_path = "made-up/tiny-llama"  # PEFT writes this into the adapters
    expert = LoraConfig(r=8, lora_alpha=16, use_rslora=True, target_modules=MODULES, task_type="CAUSAL_LM")
    anti_expert = LoraConfig(r=4, lora_alpha=32, target_modules=MODULES, task_type="CAUSAL_LM")
    for name, config in (("expert", expert), ("anti-expert", anti_expert)):
        make_adapter(base, config, folder / name)

    extsub(folder, "combine", "expert", "anti-expert", "--alpha", str(ALPHA), "--output", "result")
    extsub(folder, "inspect", "expert", "anti-expert", "--plot", "expert-against-anti-expert.png")

    say("The result loaded with PEFT, against the base model plus the formula on dense matrices")
    tokens = torch.arange(48).reshape(3, 16)
    result = PeftModel.from_pretrained(copy.deepcopy(base), folder / "result")
    dense = base_plus_formula(base, folder)
    with torch.no_grad():
        found, wanted, plain = (model(tokens).logits for model in (result, dense, base))
    error, effect = (found - wanted).abs().max().item(), (wanted - plain).abs().max().item()
    print(f"  the adapter changes logits by up to {effect:.3f}; PEFT and the formula differ by {error:.1e} at most")
    if not error < 1e-5 * max(1, effect):
        sys.exit("they should agree to 1e-5: please report this")
    print(f"  {folder}/result is an ordinary PEFT adapter, {folder}/result/README.md says how it was made,")
    print(f"  {folder}/expert-against-anti-expert.png shows where the two differ")


def say(what: str) -> None:
    print(f"\n{what}", flush=True)


def extsub(folder: Path, *arguments: str) -> None:
    """Run the command line, as anyone would."""
    say(f"$ extsub {' '.join(arguments)}")
    subprocess.run([sys.executable, "-m", "extsub", *arguments], cwd=folder, check=True)


def make_adapter(base: LlamaForCausalLM, config: LoraConfig, folder: Path) -> None:
    model = get_peft_model(copy.deepcopy(base), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # A starts at random anyway, B at zero
            torch.nn.init.normal_(parameter, std=0.02)
    model.save_pretrained(folder)


def base_plus_formula(base: LlamaForCausalLM, folder: Path) -> LlamaForCausalLM:
    """The base model with the paper's formula added to its weights, from what PEFT says the two adapters add."""
    experts = [PeftModel.from_pretrained(copy.deepcopy(base), folder / name) for name in ("expert", "anti-expert")]
    model = copy.deepcopy(base)
    for name, layer in experts[0].base_model.model.named_modules():
        if hasattr(layer, "get_delta_weight"):
            other = experts[1].base_model.model.get_submodule(name)
            e, a = (delta.get_delta_weight("default").detach().double() for delta in (layer, other))
            model.get_submodule(name).weight.data += (e - ALPHA * deficiency(e, a)).float()
    return model


def deficiency(e: Tensor, a: Tensor) -> Tensor:
    """What the anti-expert does not share with the expert, row by row: minus its projection on their bisector."""
    bisector = e / e.norm(dim=1, keepdim=True) + a / a.norm(dim=1, keepdim=True)
    bisector /= bisector.norm(dim=1, keepdim=True)
    return a - (a * bisector).sum(1, keepdim=True) * bisector


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "miniature"))
