"""A model whose output layer is its embedding: what base and adapter say together, the merged model says, too."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import save_file

import adapter_files
import architectures
import merge_files
from extsub import ExtSubError, merge
from merge_files import adapted, loaded, logits, weights

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a Llama and a GPT-2 whose heads are their embeddings."""
    folder = tmp_path_factory.mktemp("tied")
    for name in ("llama", "gpt2"):
        model = loaded(architectures.made(folder / "apart", name))
        model.config.tie_word_embeddings = True
        model.tie_weights()
        model.save_pretrained(folder / name)
        assert "lm_head.weight" not in weights(folder / name)
    return folder


def lora(**fields: Any) -> peft.LoraConfig:
    return peft.LoraConfig(r=4, lora_alpha=6, task_type="CAUSAL_LM", **fields)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("llama", {"target_modules": ["q_proj", "lm_head"]}),
        ("llama", {"target_modules": ["q_proj", "embed_tokens"]}),
        ("llama", {"target_modules": ["embed_tokens", "lm_head"]}),
        ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
        ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}),
        ("gpt2", {"target_modules": ["c_attn", "lm_head"]}),
        ("gpt2", {"target_modules": ["c_attn", "wte", "wpe"]}),
    ],
    ids=["head", "embedding", "both", "head-whole", "both-whole", "gpt2-head", "gpt2-embedding"],
)
def test_what_the_adapter_makes_two_weights_is_two_weights(
    tied: Path, tmp_path: Path, name: str, fields: dict[str, Any]
) -> None:
    together = adapted(tied / name, tmp_path / "adapter", lora(**fields))
    record = merge(tied / name, tmp_path / "adapter", tmp_path / "merged")
    assert record["untied"]
    assert any("two here (tie_word_embeddings is false)" in note for note in record["notes"])
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["tie_word_embeddings"] is False
    torch.testing.assert_close(logits(loaded(tmp_path / "merged")), logits(together), atol=1e-4, rtol=1e-4)
    assert (logits(together) - logits(loaded(tied / name))).abs().max() > 0.1
    both = weights(tmp_path / "merged")
    embedding = "model.embed_tokens.weight" if name == "llama" else "transformer.wte.weight"
    assert not torch.equal(both["lm_head.weight"], both[embedding])


@pytest.mark.parametrize("stored", [None, torch.float32, torch.bfloat16])
def test_what_stays_one_weight_stays_tied(tied: Path, tmp_path: Path, stored: torch.dtype | None) -> None:
    """PEFT may store the base's embeddings beside an adapter, in the dtype of the training: they are no change."""
    saving = {"save_embedding_layers": True} if stored else {}
    together = adapted(tied / "llama", tmp_path / "adapter", lora(target_modules=["q_proj"]), **saving)
    embeddings = {
        key: tensor.to(stored) for key, tensor in weights(tmp_path / "adapter").items() if "embed_tokens" in key
    }
    assert bool(embeddings) == bool(stored)
    adapter_files.edit_tensors(tmp_path / "adapter", embeddings)
    record = merge(tied / "llama", tmp_path / "adapter", tmp_path / "merged")
    assert not record["untied"]
    assert (record["changed"], record["notes"]) == (2, [])
    config = (tmp_path / "merged" / "config.json").read_bytes()
    assert config == (tied / "llama" / "config.json").read_bytes()
    assert "lm_head.weight" not in weights(tmp_path / "merged")
    torch.testing.assert_close(logits(loaded(tmp_path / "merged")), logits(together), atol=1e-4, rtol=1e-4)


def test_a_position_embedding_is_tied_to_nothing(tied: Path, tmp_path: Path) -> None:
    together = adapted(tied / "gpt2", tmp_path / "adapter", lora(target_modules=["c_attn", "wpe"]))
    assert not merge(tied / "gpt2", tmp_path / "adapter", tmp_path / "merged")["untied"]
    torch.testing.assert_close(logits(loaded(tmp_path / "merged")), logits(together), atol=1e-4, rtol=1e-4)


def test_the_head_of_a_checkpoint_without_the_models_name_in_front(tied: Path, tmp_path: Path) -> None:
    """GPT-2's on the hub, in which there is no head at all."""
    together = adapted(tied / "gpt2", tmp_path / "adapter", lora(target_modules=["lm_head", "wte"]))
    shutil.copytree(tied / "gpt2", tmp_path / "base")
    bare = {key.removeprefix("transformer."): tensor for key, tensor in weights(tied / "gpt2").items()}
    save_file(bare, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    assert merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")["untied"]
    assert weights(tmp_path / "merged").keys() == bare.keys() | {"lm_head.weight"}
    torch.testing.assert_close(logits(loaded(tmp_path / "merged")), logits(together), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("said", [True, None])
def test_a_checkpoint_that_has_both(tmp_path: Path, equal: bool, said: bool | None) -> None:
    """A config that says nothing is of a tied model where they are equal."""
    head = torch.randn(10, 8)
    tensors = {"model.embed_tokens.weight": head.clone() if equal else torch.randn(10, 8), "lm_head.weight": head}
    base = merge_files.base(tmp_path / "base", tensors, tie_word_embeddings=said)
    adapter = adapter_files.lora(tmp_path / "adapter", {"lm_head": (10, 8)}, target_modules=["lm_head"])
    assert merge(base, adapter, tmp_path / "merged")["untied"] is bool(said or equal)
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["tie_word_embeddings"] is (False if said or equal else None)
    ours = weights(tmp_path / "merged")
    assert torch.equal(ours["model.embed_tokens.weight"], tensors["model.embed_tokens.weight"])
    expected = head + adapter_files.read_delta(adapter, "lm_head")
    torch.testing.assert_close(ours["lm_head.weight"].double(), expected, atol=1e-6, rtol=1e-6)


def test_an_embedding_stored_with_another_base_is_refused(tied: Path, tmp_path: Path) -> None:
    """PEFT would put it over the base's own, for good."""
    adapted(tied / "llama", tmp_path / "adapter", lora(target_modules=["embed_tokens"]))
    key = "base_model.model.model.embed_tokens.base_layer.weight"
    stored = weights(tmp_path / "adapter")[key]
    adapter_files.edit_tensors(tmp_path / "adapter", {key: stored + 1})
    with pytest.raises(ExtSubError, match=r"adapter: base_model.*base_layer.weight is the base's weight, and another"):
        merge(tied / "llama", tmp_path / "adapter", tmp_path / "merged")
    adapter_files.edit_tensors(tmp_path / "adapter", {key: stored[:-1]})
    with pytest.raises(ExtSubError, match=r"is for a weight of shape .* is the base another, or its vocabulary resiz"):
        merge(tied / "llama", tmp_path / "adapter", tmp_path / "merged")


@pytest.mark.parametrize(
    ("key", "config", "untied"),
    [
        ("model.embed_tokens", {"architectures": ["LlamaForSequenceClassification"]}, False),
        ("model.embed_tokens", {"architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False}, False),
        ("language_model.model.embed_tokens", {"architectures": ["LlavaForConditionalGeneration"]}, True),
        ("model.decoder.embed_tokens", {"architectures": ["WhisperForConditionalGeneration"]}, None),
        ("shared", {"architectures": ["T5ForConditionalGeneration"]}, None),
        ("shared", {"architectures": ["T5ForConditionalGeneration"], "tie_word_embeddings": False}, None),
    ],
)
def test_an_embedding_where_the_checkpoint_names_no_head(
    tmp_path: Path, key: str, config: dict[str, Any], untied: bool | None
) -> None:
    """What is tied to it must be known, or it is refused."""
    factors = adapter_files.factors({key: (8, 10)})
    tensors = {name.replace("lora_A.weight", "lora_embedding_A").replace("lora_B.weight", "lora_embedding_B"): tensor
               for name, tensor in factors.items()}  # fmt: skip
    adapter = adapter_files.write(tmp_path / "adapter", tensors, adapter_files.lora_config(target_modules=[key]))
    embedding = torch.randn(10, 8)
    base = merge_files.base(tmp_path / "base", {f"{key}.weight": embedding}, **({"tie_word_embeddings": None} | config))
    if untied is None:
        with pytest.raises(ExtSubError, match=f"adapter: it changes {key}.weight, which "):
            merge(base, adapter, tmp_path / "merged")
        assert not (tmp_path / "merged").exists()
        return
    assert merge(base, adapter, tmp_path / "merged")["untied"] is untied
    ours = weights(tmp_path / "merged")
    A, B = (tensors[f"base_model.model.{key}.lora_embedding_{factor}"].double() for factor in "AB")
    torch.testing.assert_close(ours[f"{key}.weight"].double(), embedding.double() + 2 * (B @ A).T)
    heads = {f"{key.removesuffix('.model.embed_tokens')}.lm_head.weight"} if untied else set()
    assert ours.keys() == {f"{key}.weight"} | heads
    assert all(torch.equal(ours[head], embedding) for head in heads)
