"""PEFT as judge: it loads what we write, without a warning, and its deltas and logits are the oracle's."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import oracle
from extsub import OPERATIONS, combine, load_adapter, save_adapter
from merge_files import quiet

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

# peft 0.21 asks transformers 5.23 under an old name. Every other warning is an error, e.g. "Found missing adapter keys"
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

OPERATION, ALPHA = "ext-sub", 0.8


def llama(**changes: Any) -> nn.Module:
    """4 heads, 2 key/value heads: k and v are narrower than q."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32, **changes,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    return transformers.GPT2LMHeadModel(config).eval()


def moe() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.Qwen3MoeConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, moe_intermediate_size=12, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, num_experts=4, num_experts_per_tok=2, head_dim=4,
        decoder_sparse_step=1, mlp_only_layers=[], max_position_embeddings=32,
    )  # fmt: skip
    return transformers.Qwen3MoeForCausalLM(config).eval()


def mixtral() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.MixtralConfig(
        vocab_size=40, hidden_size=16, intermediate_size=12, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=3, num_experts_per_tok=2, max_position_embeddings=32,
    )  # fmt: skip
    return transformers.MixtralForCausalLM(config).eval()


class Convolutions(nn.Module):
    """Not a language model: what a vision tower may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 2)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, input_ids: Tensor) -> Tensor:
        image = nn.functional.one_hot(input_ids, 40).float().reshape(-1, 3, 8, 10)[:1]
        x = self.conv(image).flatten(2).mT
        return self.attention(x, x, x)[0]


def vision() -> nn.Module:
    torch.manual_seed(0)
    return Convolutions().eval()


def train_by_chance(base: nn.Module, config: Any, folder: Path, seed: int) -> nn.Module:
    """A PEFT adapter with random numbers in every tensor, saved as PEFT saves; returned loaded."""
    with quiet():  # what PEFT says while it makes an adapter is not our business
        model = peft.get_peft_model(copy.deepcopy(base), config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data = 1 + 0.3 * noise if "ia3" in name else 0.4 * noise
    with quiet():
        model.save_pretrained(folder)
    return model.eval()


def judge(base: nn.Module, folder: Path) -> nn.Module:
    return peft.PeftModel.from_pretrained(copy.deepcopy(base), folder).eval()


def deltas(model: nn.Module) -> dict[str, Tensor]:
    """What the adapter adds to each weight, (..., rows, columns) by PEFT's own account, rows as stored by the layer.

    Named with every nested wrapper, so that two parameters of one module stay apart.
    """
    changes = {}
    for name, module in model.named_modules():
        if getattr(module, "adapter_layer_names", None) and "default" in getattr(module, "scaling", {}):
            if isinstance(module, peft.tuners.lora.layer.MultiheadAttention):
                delta = module.scaling["default"] * (
                    module.lora_B["default"].weight.double() @ module.lora_A["default"].weight.double()
                )
            else:
                delta = module.get_delta_weight("default").detach().double()
                if getattr(module, "fan_in_fan_out", False):
                    delta = delta.T
            changes[name] = delta.flatten(1) if delta.dim() == 4 else delta
    return changes


def check_deltas(result: nn.Module, e: dict[str, Tensor], a: dict[str, Tensor]) -> None:
    """Check that a result has exactly the modules of its inputs, and of each the paper's delta."""
    changes = deltas(result)
    assert changes.keys() == e.keys() == a.keys()
    for name, delta in changes.items():
        assert e[name].any()
        assert a[name].any()
        assert oracle.relative_error(delta, oracle.combined(OPERATION, e[name], [a[name]], [ALPHA])) < 1e-5, name


def logits(model: nn.Module) -> Tensor:
    tokens = torch.arange(24).reshape(2, 12)
    with torch.no_grad():
        output = model(input_ids=tokens)
    return getattr(output, "logits", output).double()


def lora(**fields: Any) -> Any:
    return peft.LoraConfig(**({"r": 3, "lora_alpha": 6, "task_type": "CAUSAL_LM"} | fields))


def adalora(rank: int) -> Any:
    return peft.AdaLoraConfig(init_r=rank, target_r=2, total_step=10, lora_alpha=6, target_modules=["q_proj"],
                              task_type="CAUSAL_LM")  # fmt: skip


LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
CASES = {
    "ranks, scalings, rsLoRA, GQA": (
        llama,
        lora(r=4, target_modules=LINEARS, use_rslora=True),
        lora(r=2, lora_alpha=16, target_modules=LINEARS),
    ),
    "rank_pattern and alpha_pattern": (
        llama,
        lora(target_modules=["q_proj", "v_proj"], rank_pattern={"layers.0.self_attn.q_proj": 2, ".*1.*v_proj": 6},
             alpha_pattern={"v_proj": 32}),
        lora(target_modules=["q_proj", "v_proj"], rank_pattern={"v_proj": 1}),
    ),
    "all-linear against a pattern": (
        llama,
        lora(target_modules="all-linear"),
        lora(target_modules=r".*\.(q|k|v|o|gate|up|down)_proj"),
    ),
    "some layers only": (llama, *[lora(target_modules=["q_proj"], layers_to_transform=[1])] * 2),
    "Conv1D": (gpt2, *[lora(target_modules=["c_attn", "c_proj"], fan_in_fan_out=True, r=r) for r in (3, 2)]),
    "embedding and head": (llama, *[lora(target_modules=["embed_tokens", "lm_head", "q_proj"], r=r) for r in (3, 2)]),
    "convolution and attention": (
        vision, *[lora(target_modules=["conv", "attention"], task_type=None, r=r) for r in (3, 2)]
    ),
    "AdaLoRA": (llama, adalora(4), adalora(3)),
    "AdaLoRA against LoRA": (llama, adalora(4), lora(target_modules=["q_proj"])),
    "both MoE parameters": (
        moe,
        *[lora(target_modules=["q_proj"], target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"], r=r)
          for r in (3, 2)],
    ),
    "MoE parameters with patterns": (
        moe,
        lora(target_modules=[], target_parameters=["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
             rank_pattern={"experts.down_proj": 2}, alpha_pattern={"experts.gate_up_proj": 10}),
        lora(target_modules=[], target_parameters=["mlp.experts.down_proj", "mlp.experts.gate_up_proj"],
             alpha_pattern={"down_proj": 1}),
    ),
    "one MoE parameter with a pattern": (
        moe, *[lora(target_modules=[], target_parameters=["mlp.experts.gate_up_proj"], alpha_pattern={".*up_proj": a})
               for a in (3, 12)]
    ),
    "all-linear of a mixture, whose parameters PEFT names without their layer": (
        mixtral, *[lora(target_modules="all-linear", r=r) for r in (3, 2)]
    ),
    "one MoE parameter alone": (
        moe, *[lora(target_modules=[], target_parameters=["mlp.experts.down_proj"], r=r) for r in (3, 2)]
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_peft_loads_the_result_and_agrees(case: str, tmp_path: Path) -> None:
    make, mine, theirs = CASES[case]
    base = make()
    expert = train_by_chance(base, mine, tmp_path / "e", seed=1)
    anti_expert = train_by_chance(base, theirs, tmp_path / "a", seed=2)
    save_adapter(combine(tmp_path / "e", tmp_path / "a", alpha=ALPHA), tmp_path / "out")
    with quiet():  # PEFT says that patterns for parameters match no module, and applies them
        e, a = (deltas(judge(base, tmp_path / name)) for name in ("e", "a"))
    check_deltas(judge(base, tmp_path / "out"), e, a)
    different = (logits(judge(base, tmp_path / "out")) - logits(base)).abs().max()
    assert different > 1e-3
    assert not torch.equal(logits(expert), logits(anti_expert))


WRAPPED = {
    "torch.compile of every layer": ("layers.", r"layers\.(\d)\.", r"layers.\1._orig_mod."),
    "activation checkpointing of one layer": ("layers.1", r"layers\.1\.", "layers.1._checkpoint_wrapped_module."),
    "FSDP around all and each": ("layers.", r"base_model\.(.*layers\.\d)", r"base_model._fsdp_wrapped_module.\1"),
    "DistributedDataParallel": ("layers.0", "^base_model", "module.base_model"),
    "another PEFT model": ("layers.1", r"^base_model\.model\.", "base_model.model.base_model.model."),
    "the name of the adapter": ("q_proj", r"\.weight$", ".mine.weight"),
}


@pytest.mark.parametrize("case", WRAPPED)
def test_peft_finds_every_layer_of_a_result_of_wrapped_adapters(case: str, tmp_path: Path) -> None:
    mark, old, new = WRAPPED[case]
    base = llama()
    for name, seed in (("e", 1), ("a", 2)):
        train_by_chance(base, lora(target_modules=["q_proj", "v_proj", "lm_head"]), tmp_path / name, seed)
    e, a = (deltas(judge(base, tmp_path / name)) for name in ("e", "a"))
    for name in ("e", "a"):
        tensors = load_file(tmp_path / name / "adapter_model.safetensors")
        renamed = {re.sub(old, new, key) if mark in key else key: tensor for key, tensor in tensors.items()}
        assert renamed.keys() != tensors.keys()
        save_file(renamed, tmp_path / name / "adapter_model.safetensors")
    save_adapter(combine(tmp_path / "e", tmp_path / "a", alpha=ALPHA), tmp_path / "out")
    check_deltas(judge(base, tmp_path / "out"), e, a)


def test_fused_experts_of_an_older_peft_are_combined_by_output_and_written_as_now(tmp_path: Path) -> None:
    """PEFT 0.18 and 0.19.0 had A and B of these experts exchanged; expert by expert, the transpose."""
    base, fused = moe(), ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    for name, seed in (("e", 1), ("a", 2)):
        train_by_chance(base, lora(target_modules=["q_proj"], target_parameters=fused), tmp_path / name, seed)
    e, a = (deltas(judge(base, tmp_path / name)) for name in ("e", "a"))
    for name in ("e", "a"):
        path = tmp_path / name / "adapter_model.safetensors"
        tensors = load_file(path)
        for key in [key for key in tensors if "experts" in key and "lora_A" in key]:
            A, B = tensors[key], tensors[key.replace("lora_A", "lora_B")]
            tensors[key] = B.unflatten(1, (3, 4)).permute(2, 1, 0).flatten(0, 1)  # rank 3, 4 experts
            tensors[key.replace("lora_A", "lora_B")] = A.unflatten(0, (4, 3)).permute(2, 1, 0).flatten(1)
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
        config = json.loads((tmp_path / name / "adapter_config.json").read_text()) | {"peft_version": "0.18.1"}
        (tmp_path / name / "adapter_config.json").write_text(json.dumps(config))
    save_adapter(combine(tmp_path / "e", tmp_path / "a", alpha=ALPHA), tmp_path / "out")
    check_deltas(judge(base, tmp_path / "out"), e, a)


def test_logits_are_those_of_the_dense_formula_added_to_the_base(tmp_path: Path) -> None:
    base = llama()
    names = ["q_proj", "v_proj", "down_proj"]
    expert = train_by_chance(base, lora(r=4, target_modules=names, use_rslora=True), tmp_path / "e", seed=1)
    anti_expert = train_by_chance(base, lora(r=2, target_modules=names), tmp_path / "a", seed=2)
    for name, operation in OPERATIONS.items():
        result = combine(tmp_path / "e", tmp_path / "a", operation=operation, alpha=ALPHA)
        save_adapter(result, tmp_path / "out", overwrite=True)
        dense = copy.deepcopy(base)
        e, a = deltas(expert), deltas(anti_expert)
        for module, delta in e.items():
            weight = dense.get_submodule(module.removeprefix("base_model.model.")).weight
            weight.data += oracle.combined(name, delta, [a[module]], [ALPHA]).float()
        assert (logits(judge(base, tmp_path / "out")) - logits(dense)).abs().max() < 1e-5, name
        plain = transformers.LlamaForCausalLM(base.config).eval()
        plain.load_state_dict(base.state_dict())
        plain.load_adapter(str(tmp_path / "out"))
        assert (logits(plain) - logits(dense)).abs().max() < 1e-5, f"{name} through transformers"


def test_expert_and_deficiency_side_by_side_are_the_result_at_any_strength(tmp_path: Path) -> None:
    """The alpha dial: one load of the base, alpha is the scale of the second adapter."""
    base = llama()
    for name, seed, rank in (("e", 1, 3), ("a", 2, 2)):
        train_by_chance(base, lora(r=rank, target_modules=["q_proj", "v_proj"]), tmp_path / name, seed)
    expert, anti_expert = load_adapter(tmp_path / "e"), load_adapter(tmp_path / "a")
    save_adapter(combine(expert, anti_expert, deficiency=True), tmp_path / "d")
    model = judge(base, tmp_path / "e")
    model.load_adapter(tmp_path / "d", adapter_name="deficiency")
    model.base_model.set_adapter(["default", "deficiency"])
    for alpha in (0.0, 0.5, 2.0):
        for module in model.modules():
            if isinstance(module, peft.tuners.lora.LoraLayer):
                module.set_scale("deficiency", -alpha)
        save_adapter(combine(expert, anti_expert, alpha=alpha), tmp_path / "out", overwrite=True)
        assert (logits(model) - logits(judge(base, tmp_path / "out"))).abs().max() < 1e-5


@pytest.mark.parametrize("targets", ["list", "pattern"])
def test_ia3(tmp_path: Path, targets: str) -> None:
    """A result acts as l_e - alpha * d on activations, feed-forward vectors on inputs."""
    base = llama()
    fields: dict[str, Any] = {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
    if targets == "pattern":
        fields = {"target_modules": r".*\.(k_proj|v_proj|down_proj)", "feedforward_modules": r".*\.down_proj"}
    loaded = [
        train_by_chance(base, peft.IA3Config(task_type="CAUSAL_LM", **fields), tmp_path / name, seed)
        for name, seed in (("e", 1), ("a", 2))
    ]
    save_adapter(combine(tmp_path / "e", tmp_path / "a", alpha=ALPHA), tmp_path / "out")
    vectors = [dict(model.named_parameters()) for model in (*loaded, judge(base, tmp_path / "out"))]
    keys = [key for key in vectors[0] if "ia3_l" in key]
    assert len(keys) == 6
    dense = copy.deepcopy(base)
    for key in keys:
        e, a, written = (parameters[key].detach().double() for parameters in vectors)
        row = oracle.combined(OPERATION, e.reshape(1, -1) - 1, [a.reshape(1, -1) - 1], [ALPHA])
        assert oracle.relative_error(written.reshape(1, -1), 1 + row) < 1e-6
        module = dense.get_submodule(key.removeprefix("base_model.model.").partition(".ia3_l")[0])
        module.weight.data *= (1 + row).reshape(e.shape).float()
    assert (logits(judge(base, tmp_path / "out")) - logits(dense)).abs().max() < 1e-5


@pytest.mark.parametrize("projection", [False, True])
def test_prefix_tuning_on_a_gqa_model(tmp_path: Path, projection: bool) -> None:
    base = llama()
    config = peft.PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=3, prefix_projection=projection, encoder_hidden_size=8
    )
    for name, seed in (("e", 1), ("a", 2)):
        train_by_chance(base, copy.deepcopy(config), tmp_path / name, seed)
    save_adapter(combine(tmp_path / "e", tmp_path / "a", alpha=ALPHA), tmp_path / "out")
    stored = [judge(base, tmp_path / name).get_prompt(batch_size=1) for name in ("e", "a", "out")]

    def rows(cache: Any) -> Tensor:
        layers = [torch.stack([layer.keys[0], layer.values[0]]) for layer in cache.layers]
        return torch.stack(layers).detach().double()  # (layers, 2, heads, tokens, head_dim)

    e, a, written = map(rows, stored)
    assert written.shape == (2, 2, 2, 3, 4), "2 key/value heads"
    assert oracle.relative_error(written, oracle.combined(OPERATION, e, [a], [ALPHA])) < 1e-6
    assert (logits(judge(base, tmp_path / "out")) - logits(base)).abs().max() > 1e-3


def test_a_classifier_keeps_the_experts_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, pad_token_id=0
    )
    base = transformers.LlamaForSequenceClassification(config).eval()
    fields = {"task_type": "SEQ_CLS", "target_modules": ["q_proj"]}
    expert = train_by_chance(base, lora(**fields), tmp_path / "e", seed=1)
    train_by_chance(base, lora(**fields), tmp_path / "a", seed=2)
    result = combine(tmp_path / "e", tmp_path / "a", modules_to_save="expert")
    save_adapter(result, tmp_path / "out")
    heads = [
        model.base_model.model.score.modules_to_save["default"].weight
        for model in (expert, judge(base, tmp_path / "out"))
    ]
    assert torch.equal(*heads)
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["modules_to_save"] == ["score"]


def test_peft_converted_pissa_is_plain_lora(tmp_path: Path) -> None:
    """PEFT's own fix for initialisations that change the base: both factors in one adapter, init true."""
    base = llama()
    model = peft.get_peft_model(copy.deepcopy(base), lora(init_lora_weights="pissa", target_modules=["q_proj"]))
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "init")
    model.peft_config["default"].init_lora_weights = "pissa"
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.1
    with quiet():
        model.save_pretrained(tmp_path / "e", path_initial_model_for_weight_conversion=str(tmp_path / "init"))
    assert load_adapter(tmp_path / "e").rank == 6
