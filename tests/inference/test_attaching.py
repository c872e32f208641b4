"""An adapter is put on a base exactly as PEFT has it, and taken off without a trace; what does not fit is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Lfm2Config, Mamba2Config

import tiny_models
from adapter_files import edit_config
from conftest import LIBRARIES_WARN
from extsub import Dial, ExtSubError, load_adapter
from extsub.inference.language_model import Base, load_base, switched_to
from extsub.models.adapter_handle import base_of, find
from extsub.models.attaching import attach_reference
from extsub.models.source import find_model

pytestmark = LIBRARIES_WARN

IDS = torch.tensor([[0, 5, 9, 33, 7]])
LORA = {"task_type": "CAUSAL_LM", "init_lora_weights": False}
PROMPT = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 5}
CONFIGS = {
    "lora": peft.LoraConfig(**LORA),
    "lora-on-head": peft.LoraConfig(target_modules=["q_proj", "lm_head"], **LORA),
    "lora-on-embeddings": peft.LoraConfig(target_modules=["q_proj", "embed_tokens"], **LORA),
    "lora-with-head-saved": peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"], **LORA),
    "ia3": peft.IA3Config(task_type="CAUSAL_LM", init_ia3_weights=False),
    "prefix": peft.PrefixTuningConfig(**PROMPT),
    "prefix-with-projection": peft.PrefixTuningConfig(prefix_projection=True, encoder_hidden_size=16, **PROMPT),
    "p-tuning": peft.PromptEncoderConfig(encoder_hidden_size=16, **PROMPT),
    "prompt": peft.PromptTuningConfig(**PROMPT),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_models.llama(folder / "base")
    return folder


@pytest.fixture(scope="module")
def base(folder: Path) -> Base:
    return load_base(find_model(str(folder / "base")), "float32")


def adapter(folder: Path, kind: str, seed: int = 0) -> tuple[Path, torch.Tensor]:
    """(its folder, the logits that PEFT itself gives with it)."""
    torch.manual_seed(seed)
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder / "base"), CONFIGS[kind]).eval()
    model.save_pretrained(folder / f"{kind}-{seed}")
    return folder / f"{kind}-{seed}", logits(model)


def logits(module: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return module(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits[:, -IDS.shape[1] :]


@pytest.mark.parametrize("kind", CONFIGS)
def test_an_adapter_is_put_on_and_taken_off_without_a_trace(folder: Path, base: Base, kind: str) -> None:
    (first, expected), (second, expected_of_other) = adapter(folder, kind), adapter(folder, kind, seed=1)
    plain = logits(base.model)
    reference = None if kind == "lora-with-head-saved" else find(str(second))
    with base.with_adapter(find(str(first))) as model:
        if reference:
            attach_reference(model.module, reference)
        assert torch.equal(logits(model.module), expected)
        with switched_to(model, None) as switched:
            assert torch.equal(logits(switched.module), plain)
        if reference:
            with switched_to(model, reference) as switched:
                assert torch.equal(logits(switched.module), expected_of_other)
        assert torch.equal(logits(model.module), expected)
    assert torch.equal(logits(base.model), plain)
    assert (expected - plain).abs().max() > 1e-3
    with base.with_adapter(None) as model:
        assert model.module is base.model


def changed(folder: Path, name: str, change: dict[str, torch.Tensor | None]) -> Path:
    """A copy of the LoRA adapter with some tensors added, replaced or taken out."""
    source, _ = adapter(folder, "lora")
    result = shutil.copytree(source, folder / name)
    weights = {**load_file(source / "adapter_model.safetensors"), **change}
    kept = {key: tensor for key, tensor in weights.items() if tensor is not None}
    save_file(kept, result / "adapter_model.safetensors")
    return result


HEAD = "base_model.model.lm_head.weight"
FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def test_a_copy_of_the_bases_own_weight_is_harmless_and_another_one_is_refused(folder: Path, base: Base) -> None:
    head = base.model.get_output_embeddings().weight.detach().clone()
    with base.with_adapter(find(str(changed(folder, "same-head", {HEAD: head})))):
        pass
    with (
        pytest.raises(ExtSubError, match="lm_head.weight is a weight of the base, and another than in"),
        base.with_adapter(find(str(changed(folder, "other-head", {HEAD: head + 1})))),
    ):
        pass
    assert torch.equal(base.model.get_output_embeddings().weight, head)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("less", {FIRST: None}, f"1 tensor missing, first {FIRST}: is the base another?"),
        (
            "more",
            {f"{FIRST}x": torch.ones(2)},
            f"1 tensor without a place in this base, first {FIRST}x: say which --model",
        ),
        ("wider", {FIRST: torch.ones(8, 64)}, "the adapter does not fit its base model: "),  # PEFT says how
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    folder: Path, base: Base, name: str, change: dict[str, torch.Tensor | None], message: str
) -> None:
    plain = logits(base.model)
    with pytest.raises(ExtSubError) as error, base.with_adapter(find(str(changed(folder, name, change)))):
        pass
    assert message in str(error.value)
    assert torch.equal(logits(base.model), plain)


@pytest.mark.parametrize("kind", ["lora", "prefix"])
def test_an_adapter_beside_a_model_is_not_put_on_and_said(folder: Path, base: Base, kind: str) -> None:
    source, _ = adapter(folder, kind)
    both = folder / f"both-{kind}"
    shutil.copytree(folder / "base", both)
    for path in source.glob("adapter_*"):
        shutil.copy(path, both)
    name = find_model(str(both))
    assert name.notes == (
        f"{both} also holds an adapter (adapter_config.json), which was not put on: pass it as --adapter, "
        "unless the model has it merged in already",
    )
    assert find_model(str(folder / "base")).notes == ()
    loaded = load_base(name, "float32")
    assert torch.equal(logits(loaded.model), logits(base.model))
    other, expected = adapter(folder, "lora", seed=1)
    with loaded.with_adapter(find(str(other))) as model:
        assert torch.equal(logits(model.module), expected)
    plain = logits(base.model)
    with base.with_adapter(find(str(both))) as model:  # as an adapter it is one
        assert (logits(model.module) - plain).abs().max() > 1e-3


def test_a_model_that_has_an_adapter_already_takes_no_other(folder: Path) -> None:
    (lora, _), (prefix, _) = adapter(folder, "lora"), adapter(folder, "prefix")
    pair = [load_adapter(str(adapter(folder, "lora", seed)[0])) for seed in (0, 1)]
    plain = AutoModelForCausalLM.from_pretrained(folder / "base")
    attached = peft.PeftModel.from_pretrained(plain, str(lora))
    of_transformers = AutoModelForCausalLM.from_pretrained(folder / "base")
    of_transformers.load_adapter(str(lora))
    soft = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder / "base"), str(prefix))
    for model in (attached, attached.get_base_model(), of_transformers, soft):
        with pytest.raises(ExtSubError, match="the model in memory has an adapter already: load the base model alone"):
            Dial(model, *pair)
    Dial(attached.unload(), *pair)


def test_a_head_that_an_adapter_stores_goes_with_it(folder: Path, base: Base) -> None:
    torch.manual_seed(0)
    made = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(folder / "base"), CONFIGS["lora-with-head-saved"]
    ).eval()
    made.get_submodule("base_model.model.lm_head.modules_to_save.default").weight.data += 0.1  # trained
    made.save_pretrained(folder / "trained-head")
    plain = logits(base.model)
    with base.with_adapter(find(str(folder / "trained-head"))) as model:
        assert torch.equal(logits(model.module), logits(made))
    assert torch.equal(logits(base.model), plain)


def test_virtual_tokens_that_an_architecture_cannot_use_are_refused(tmp_path: Path) -> None:
    """A state in place of keys and values; and an architecture that takes none and would say nothing."""
    shape = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 2, "bos_token_id": 0, "eos_token_id": 1}
    configs = {
        "goes past": Mamba2Config(num_heads=4, head_dim=8, n_groups=1, state_size=8, chunk_size=8, **shape),
        "does not fit its base model": Lfm2Config(
            intermediate_size=16, num_attention_heads=2, num_key_value_heads=2,
            layer_types=["conv", "full_attention"], **shape,
        ),
    }  # fmt: skip
    prefix = {"peft_type": "PREFIX_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 3, "num_layers": 2}
    for message, config in configs.items():
        path = tmp_path / config.model_type
        AutoModelForCausalLM.from_config(config).save_pretrained(path)
        tiny_models.tokenizer().save_pretrained(path)
        adapter = tmp_path / f"{config.model_type}-prefix"
        adapter.mkdir()
        save_file({"prompt_embeddings": torch.ones(3, 64)}, adapter / "adapter_model.safetensors")
        fields = {**prefix, "token_dim": 16, "num_attention_heads": 2, "num_transformer_submodules": 1}
        (adapter / "adapter_config.json").write_text(json.dumps(fields))
        base = load_base(find_model(str(path)), "float32")
        plain = logits(base.model)
        with pytest.raises(ExtSubError, match=message), base.with_adapter(find(str(adapter))):
            pass
        assert torch.equal(logits(base.model), plain)


def test_the_base_is_read_from_the_adapter_or_named(folder: Path) -> None:
    lora, prefix = find(str(adapter(folder, "lora")[0])), find(str(adapter(folder, "prefix")[0]))
    assert base_of(None, [lora, prefix]).name == str((folder / "base").resolve())
    named = tiny_models.llama(folder / "named")
    assert base_of(str(named), [lora]).name == str(named.resolve())
    elsewhere = shutil.copytree(lora.source.folder, folder / "elsewhere")
    for base, message in (
        (None, "no base model: give --model"),
        ("./gone", "./gone: no such folder"),
    ):
        edit_config(elsewhere, base_model_name_or_path=base)
        with pytest.raises(ExtSubError, match=message):
            base_of(None, [find(str(elsewhere))])
    edit_config(elsewhere, base_model_name_or_path="owner/other")
    with pytest.raises(ExtSubError, match="the adapters name different base models"):
        base_of(None, [lora, find(str(elsewhere))])
