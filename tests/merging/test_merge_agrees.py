"""PEFT as judge: a merged file is what merge_and_unload writes, and says what base and adapter say together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

import adapter_files
import architectures
import merge_files
from extsub import ExtSubError, merge
from merge_files import adapted, loaded, logits, merged_by_peft, weights

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries

SHAPE: dict[str, Any] = {
    "vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 8, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
QWEN3 = {"num_experts": 4, "intermediate_size": 24, "num_experts_per_tok": 2}
GPT_OSS = {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16}
MIXTURES = {
    "mixtral": lambda: transformers.MixtralConfig(num_local_experts=3, intermediate_size=12, **SHAPE),
    "qwen3": lambda: transformers.Qwen3MoeConfig(moe_intermediate_size=12, **QWEN3, **SHAPE),
    "qwen3, square": lambda: transformers.Qwen3MoeConfig(moe_intermediate_size=16, **QWEN3, **SHAPE),
    "gpt-oss": lambda: transformers.GptOssConfig(intermediate_size=12, **GPT_OSS, **SHAPE),
    "gpt-oss, down square": lambda: transformers.GptOssConfig(intermediate_size=16, **GPT_OSS, **SHAPE),
    "gpt-oss, gate and up square": lambda: transformers.GptOssConfig(intermediate_size=8, **GPT_OSS, **SHAPE),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def lora(**fields: Any) -> peft.LoraConfig:
    return peft.LoraConfig(**({"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM"} | fields))


def agrees(base: Path, folder: Path, config: Any) -> None:
    """In float32: the same tensors under the same keys, and the same logits."""
    together = adapted(base, folder / "adapter", config)
    record = merge(base, folder / "adapter", folder / "merged")
    assert record["changed"] > 0
    expected, plain = logits(together), logits(loaded(base))
    assert (expected - plain).abs().max() > 0.1
    torch.testing.assert_close(logits(loaded(folder / "merged")), expected, atol=1e-4, rtol=1e-4)
    theirs, ours = merged_by_peft(together, folder / "theirs"), weights(folder / "merged")
    assert theirs.keys() == ours.keys()
    for key, tensor in theirs.items():
        torch.testing.assert_close(ours[key], tensor, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    "architecture", ["llama", "qwen2", "gemma2", "gpt2", "opt", "bloom", "phi3", "bert-generation", "mixtral"]
)
def test_lora_of_every_linear_layer(models: Path, tmp_path: Path, architecture: str) -> None:
    """GPT-2's Conv1D, square and not; square layers with a bias (OPT); projections in one (Phi-3, BLOOM); a router."""
    agrees(architectures.made(models, architecture), tmp_path, lora(target_modules="all-linear"))


@pytest.mark.parametrize(
    "config",
    [
        lora(target_modules=["q_proj", "down_proj"], use_rslora=True, rank_pattern={"q_proj": 2},
             alpha_pattern={"layers.0.*down_proj": 31}),
        lora(target_modules=["embed_tokens", "lm_head", "k_proj"]),
        lora(target_modules=["v_proj"], modules_to_save=["lm_head", "model.norm"]),
        peft.AdaLoraConfig(init_r=4, target_r=2, total_step=10, target_modules=["q_proj"], task_type="CAUSAL_LM"),
        peft.IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"],
                       task_type="CAUSAL_LM"),
    ],
    ids=["rslora-and-patterns", "embeddings", "modules-to-save", "adalora", "ia3"],
)  # fmt: skip
def test_every_kind_of_change(models: Path, tmp_path: Path, config: Any) -> None:
    agrees(architectures.made(models, "llama"), tmp_path, config)


@pytest.mark.parametrize(
    ("architecture", "targets", "feedforward"),
    [("gpt2", ["c_attn", "mlp.c_proj"], ["mlp.c_proj"]), ("opt", ["k_proj", "v_proj", "fc2"], ["fc2"])],
)
def test_ia3_multiplies_conv1d_and_biases(
    models: Path, tmp_path: Path, architecture: str, targets: list[str], feedforward: list[str]
) -> None:
    config = peft.IA3Config(target_modules=targets, feedforward_modules=feedforward, task_type="CAUSAL_LM")
    base = architectures.made(models, architecture)
    biased = loaded(base)
    for name, parameter in biased.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_(0, 0.5)
    biased.save_pretrained(tmp_path / "base")
    agrees(tmp_path / "base", tmp_path, config)


def made_mixture(folder: Path, name: str) -> Path:
    base = folder / "mixtures" / name
    if not base.exists():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(MIXTURES[name]())
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(0, 0.2)
        model.save_pretrained(base)
    return base


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("parameters", [("gate_up_proj", "down_proj"), ("gate_up_proj",), ("down_proj",)])
def test_fused_experts(models: Path, tmp_path: Path, name: str, parameters: tuple[str, ...]) -> None:
    """Checkpoints have them in one tensor, or one for each expert with gate and up apart; either way round."""
    targets = [f"mlp.experts.{parameter}" for parameter in parameters]
    agrees(made_mixture(models, name), tmp_path, lora(target_parameters=targets, target_modules=["q_proj"]))


def test_an_adapter_of_single_experts(models: Path, tmp_path: Path) -> None:
    """As transformers 4 and PEFT made them, with a Linear for every expert: against dense deltas."""
    base = made_mixture(models, "mixtral")
    before = weights(base)
    shapes = {
        key.removesuffix(".weight"): tuple(tensor.shape) for key, tensor in before.items() if key.endswith("w1.weight")
    }
    shapes |= {key.replace("block_sparse_moe", "mlp").replace("w1", "down_proj"): shape[::-1]
               for key, shape in shapes.items()}  # fmt: skip
    adapter = adapter_files.lora(tmp_path / "adapter", shapes)
    assert merge(base, adapter, tmp_path / "merged")["changed"] == 12
    ours = weights(tmp_path / "merged")
    for name in shapes:
        key = f"{name.replace('.mlp.', '.block_sparse_moe.').replace('down_proj', 'w2')}.weight"
        expected = before[key].double() + adapter_files.read_delta(adapter, name)
        torch.testing.assert_close(ours[key].double(), expected, atol=1e-6, rtol=1e-6)


class Convolutions(nn.Module):
    """What a vision tower may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 2)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv(image).flatten(2).mT
        return self.attention(x, x, x)[0]


def saved(folder: Path, targets: list[str]) -> nn.Module:
    """An adapter on convolutions, of which its base is saved, too."""
    torch.manual_seed(0)
    base = Convolutions()
    merge_files.base(folder / "base", base.state_dict())
    together = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=targets))
    for name, parameter in together.named_parameters():
        parameter.data += 0.1 if "lora_" in name else 0
    together.save_pretrained(folder / "adapter")
    return together


def test_convolutions(tmp_path: Path) -> None:
    together, image = saved(tmp_path, ["conv"]), torch.randn(1, 3, 8, 10)
    assert merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")["changed"] == 1
    merged = Convolutions()
    merged.load_state_dict(weights(tmp_path / "merged"))
    torch.testing.assert_close(merged(image), together(image), atol=1e-5, rtol=1e-5)


def test_what_peft_adds_twice_is_refused(tmp_path: Path) -> None:
    """Should PEFT add it once, this is where it shows: then it can be merged."""
    together = saved(tmp_path, ["attention"])
    projection = together.base_model.model.attention.base_layer.out_proj
    delta, before = projection.get_delta_weight("default").detach(), projection.weight.detach().clone()
    torch.testing.assert_close(together.merge_and_unload().attention.out_proj.weight, before + 2 * delta)
    with pytest.raises(ExtSubError, match=r"attention.base_layer.out_proj belongs to torch's MultiheadAttention, wher"):
        merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once(models: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    """Nearer to the dense float64 result than half a unit in the last place, and within one of PEFT's."""
    whole = architectures.made(models, "llama")
    loaded(whole, dtype).save_pretrained(tmp_path / "base")
    together = adapted(tmp_path / "base", tmp_path / "adapter", lora(target_modules=["q_proj", "down_proj"]), dtype)
    merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    before, ours = weights(tmp_path / "base"), weights(tmp_path / "merged")
    theirs = merged_by_peft(together, tmp_path / "theirs")
    factors = weights(tmp_path / "adapter")
    changed = [key for key in ours if key.endswith(("q_proj.weight", "down_proj.weight"))]
    assert len(changed) == 4
    for key, tensor in ours.items():
        if key not in changed:
            assert torch.equal(tensor, before[key])
            continue
        name = f"base_model.model.{key.removesuffix('.weight')}"
        A, B = (factors[f"{name}.lora_{factor}.weight"].double() for factor in "AB")
        exact = before[key].double() + 6 / 4 * B @ A
        unit = torch.finfo(dtype).eps * exact.abs().log2().floor().exp2()
        assert ((tensor.double() - exact).abs() <= 0.5001 * unit + 1e-7).all()
        assert ((tensor.double() - theirs[key].double()).abs() <= unit + 1e-7).all()


def renamed(tensors: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {key.replace(old, new): tensor.contiguous() for key, tensor in tensors.items()}


def test_a_checkpoint_without_the_name_of_the_model_in_front(models: Path, tmp_path: Path) -> None:
    """GPT-2's on the hub: h.0.attn..., where the model calls it transformer.h.0.attn..."""
    base = architectures.made(models, "gpt2")
    together = adapted(base, tmp_path / "adapter", lora(target_modules="all-linear"))
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_bytes((base / "config.json").read_bytes())
    bare = {
        key: tensor for key, tensor in renamed(weights(base), "transformer.", "").items() if key != "lm_head.weight"
    }
    save_file(bare, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    record = merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    assert record["changed"] == 8
    torch.testing.assert_close(logits(loaded(tmp_path / "merged")), logits(together), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("there", "named"),
    [
        ("language_model.model.", "model.language_model."),
        ("model.language_model.", "model."),
        ("model.", "language_model.model."),
    ],
)
def test_prefixes_of_other_versions(tmp_path: Path, there: str, named: str) -> None:
    """Of multimodal models, beside a tower whose layers are called alike: against dense deltas."""
    base = merge_files.plain(tmp_path / "plain")
    tensors = renamed(weights(base), "model.", there)
    vision = {f"vision_tower.encoder.{key.split('model.')[-1]}": tensor + 1 for key, tensor in weights(base).items()}
    merge_files.base(tmp_path / "base", {**tensors, **renamed(vision, "lm_head", "head")})
    shapes = {name.replace("model.", named): shape for name, shape in adapter_files.SHAPES.items()}
    adapter = adapter_files.lora(tmp_path / "adapter", shapes)
    merge(tmp_path / "base", adapter, tmp_path / "merged")
    ours = weights(tmp_path / "merged")
    for name in shapes:
        key = f"{name.replace(named, there)}.weight"
        expected = tensors[key].double() + adapter_files.read_delta(adapter, name)
        torch.testing.assert_close(ours[key].double(), expected, atol=1e-6, rtol=1e-6)
    assert all(torch.equal(ours[key], tensor) for key, tensor in vision.items() if "lm_head" not in key)
