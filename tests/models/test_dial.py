"""The dial says what the combined adapter says, at every position, and leaves no trace."""

from __future__ import annotations

from pathlib import Path

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

import adapter_files
import tiny_models
from conftest import LIBRARIES_WARN
from extsub import ExtSubError, combine, load_adapter, save_adapter
from extsub.combination.profile import Profile, read_profile
from extsub.models.dial import Dial

pytestmark = LIBRARIES_WARN

IDS = torch.tensor([[0, 5, 9, 33, 7]])
LORA = {"task_type": "CAUSAL_LM", "init_lora_weights": False}
CONFIGS = {
    "lora": peft.LoraConfig(r=4, **LORA),
    "rslora": peft.LoraConfig(r=4, lora_alpha=7, use_rslora=True, target_modules="all-linear", **LORA),
    "embeddings": peft.LoraConfig(r=4, target_modules=["embed_tokens", "q_proj"], **LORA),
    "adalora": peft.AdaLoraConfig(target_modules=["q_proj"], total_step=10, **LORA),
    "ia3": peft.IA3Config(task_type="CAUSAL_LM", init_ia3_weights=False),
    "prefix": peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
}
TURNS = (("ext-sub", 0.5), ("ext-sub", 3.0), ("subtract", 1.0), ("contrast", 0.7), ("amplify", -0.5), ("add", 2.0))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dial")
    tiny_models.llama(folder / "base")
    return folder


def adapter(folder: Path, kind: str, seed: int) -> Path:
    result = folder / f"{kind}-{seed}"
    if not result.exists():
        torch.manual_seed(seed)
        model = peft.get_peft_model(base(folder), CONFIGS[kind])
        for name, weight in model.named_parameters():
            if "lora_" in name:  # AdaLoRA begins with singular values of 0
                torch.nn.init.normal_(weight, std=0.3)
        model.save_pretrained(result)
    return result


def base(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32).eval()


def logits(module: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return module(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits


def with_adapter(folder: Path, name: Path) -> torch.Tensor:
    return logits(peft.PeftModel.from_pretrained(base(folder), str(name)).eval())


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_position_says_what_the_combined_adapter_says(folder: Path, kind: str, tmp_path: Path) -> None:
    paths = [adapter(folder, kind, seed) for seed in (0, 1)]
    expert, anti_expert = (load_adapter(str(path)) for path in paths)
    model = base(folder)
    plain = logits(model)
    dial = Dial(model, expert, anti_expert)
    for number, (operation, alpha) in enumerate(TURNS):
        save_adapter(
            combine(expert, anti_expert, operation=operation, alpha=alpha, dtype="float32"), tmp_path / f"{number}"
        )
        expected = with_adapter(folder, tmp_path / f"{number}")
        dial.set(operation, alpha)
        torch.testing.assert_close(logits(dial.module), expected, atol=3e-5, rtol=1e-5)
        assert (expected - plain).abs().max() > 1e-2
    dial.set_parts(1)
    torch.testing.assert_close(logits(dial.module), with_adapter(folder, paths[0]), atol=3e-5, rtol=1e-5)
    dial.set_parts(0, 1)
    torch.testing.assert_close(logits(dial.module), with_adapter(folder, paths[1]), atol=3e-5, rtol=1e-5)
    if kind != "prefix":  # a prefix of zeros is still attended to
        dial.set_parts(0)
        torch.testing.assert_close(logits(dial.module), plain, atol=3e-5, rtol=1e-5)
    dial.remove()
    assert torch.equal(logits(model), plain)


def test_several_anti_experts_have_a_dial_each(folder: Path, tmp_path: Path) -> None:
    expert, first, second = (load_adapter(str(adapter(folder, "lora", seed))) for seed in range(3))
    dial = Dial(base(folder), expert, first, second)
    save_adapter(combine(expert, first, second, alpha=[0.5, 2.0], dtype="float32"), tmp_path / "both")
    dial.set("ext-sub", [0.5, 2.0])
    torch.testing.assert_close(logits(dial.module), with_adapter(folder, tmp_path / "both"), atol=3e-5, rtol=1e-5)
    with pytest.raises(ExtSubError, match="3 values of alpha for 2 anti-experts"):
        dial.set("ext-sub", [1.0, 1.0, 1.0])
    with pytest.raises(ExtSubError, match="operation must be one of ext-sub, subtract"):
        dial.set("divide")


def test_a_profile_gives_every_module_its_own_strength(folder: Path, tmp_path: Path) -> None:
    """By dial, by combine, and by hand: each module combined at its own alpha."""
    expert, anti_expert = (load_adapter(str(adapter(folder, "rslora", seed))) for seed in (0, 1))
    profile = Profile({"q_proj": 0.5, "down_proj": 2.0}, ramp=0.25)
    combined = combine(expert, anti_expert, alpha=0.8, profile=profile, dtype="float32")
    record = save_adapter(combined, tmp_path / "spread")
    assert record["profile"] == {"kinds": {"q_proj": 0.5, "down_proj": 2.0}, "ramp": 0.25}
    factors = {"q_proj": 0.5, "down_proj": 2.0}
    for name, module in load_adapter(str(tmp_path / "spread")).modules.items():
        depth = 0.75 if ".layers.0." in name else 1.25  # two layers
        alpha = 0.8 * factors.get(name.rpartition(".")[2], 1.0) * depth
        alone = combine(expert, anti_expert, alpha=alpha, dtype="float32").modules[name]
        torch.testing.assert_close(
            adapter_files.dense(module.read()), adapter_files.dense(alone.read()), atol=1e-6, rtol=1e-5
        )
    dial = Dial(base(folder), expert, anti_expert)
    dial.set("ext-sub", 0.8, profile)
    torch.testing.assert_close(logits(dial.module), with_adapter(folder, tmp_path / "spread"), atol=3e-5, rtol=1e-5)
    with pytest.raises(ExtSubError, match=r"profile: no module is called k_prj; there are down_proj, gate_proj"):
        combine(expert, anti_expert, profile=Profile({"k_prj": 1.0}))
    with pytest.raises(ExtSubError, match="has no profile"):
        combine(expert, anti_expert, profile=profile, deficiency=True)


def test_profiles_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text('{"kinds": {"q_proj": 2}}')
    assert read_profile(path) == Profile({"q_proj": 2.0})
    for text in (
        '{"kinds": {"q_proj": "2"}}',
        '{"ramps": 1}',
        "[]",
        '{"ramp": NaN}',
        '{"kinds": [1]}',
        '{"ramp": true}',
    ):
        path.write_text(text)
        with pytest.raises(ExtSubError, match="expected"):
            read_profile(path)
    path.write_text("{")
    with pytest.raises(ExtSubError, match="is not JSON"):
        read_profile(path)
    with pytest.raises(ExtSubError, match="No such file"):
        read_profile(tmp_path / "missing.json")
