"""Adapters as GGUF: every tensor by the rules of llama.cpp written out by hand, and all that is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import peft
import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

import adapter_files
import gguf_bases
from conftest import Command
from extsub import ExtSubError, combine, export_gguf, load_adapter, save_adapter
from extsub.export import gguf as exporting
from extsub.export.architectures import ARCHITECTURES, Base
from extsub.export.gguf_file import llama_rows

NAMES = {
    "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "qkv_proj": "attn_qkv",
    "gate_proj": "ffn_gate", "up_proj": "ffn_up", "gate_up_proj": "ffn_up", "down_proj": "ffn_down",
}  # fmt: skip
"""What llama.cpp calls them: its gguf-py/gguf/constants.py."""
TURNING = ("LlamaForCausalLM", "MistralForCausalLM")
HEADS = {"q_proj": 4, "k_proj": 2}


def read(path: Path) -> tuple[float, dict[str, np.ndarray]]:
    """(alpha, the tensors in float64)"""
    reader = gguf.GGUFReader(path)
    tensors = {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type).astype(float) for tensor in reader.tensors}
    return reader.fields["adapter.lora.alpha"].contents(), tensors


def applied(path: Path, weight: str) -> np.ndarray:
    """What llama.cpp adds to a weight: ``get_scale`` of its src/llama-adapter.h."""
    alpha, tensors = read(path)
    a, b = tensors[f"{weight}.lora_a"], tensors[f"{weight}.lora_b"]
    return alpha / b.shape[1] * b @ a


def in_llama_order(rows: np.ndarray, heads: int) -> np.ndarray:
    """Neighbours are turned together there, and number i and i + half of a head in transformers."""
    width = len(rows) // heads
    return np.stack([rows[head * width + j % 2 * (width // 2) + j // 2] for head in range(heads) for j in range(width)])


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A base of the shapes of ``adapter_files.lora``: q (12, 8), v (4, 8)."""
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "vocab_size": 16, "head_dim": 4}
    heads = {"num_attention_heads": 3, "num_key_value_heads": 1}
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text(
        json.dumps({"architectures": ["LlamaForCausalLM"], **sizes, **heads})
    )
    return tmp_path / "base"


@pytest.mark.parametrize("architecture", gguf_bases.CONFIGS)
def test_every_layer_adds_what_it_adds_in_peft(tmp_path: Path, architecture: str) -> None:
    base, shapes = gguf_bases.made(tmp_path / "base", architecture)
    adapter = adapter_files.lora(tmp_path / "a", shapes)
    record = export_gguf(adapter, tmp_path / "a.gguf", base=base)
    assert record["modules"] == len(shapes) >= 8
    _, tensors = read(tmp_path / "a.gguf")
    assert len(tensors) == 2 * len(shapes)
    for name in shapes:
        leaf, layer = name.rpartition(".")[2], name.partition("layers.")[2].partition(".")[0]
        expected = adapter_files.read_delta(adapter, name).numpy()
        if architecture in TURNING and leaf in HEADS:
            expected = in_llama_order(expected, HEADS[leaf])
        np.testing.assert_allclose(
            applied(tmp_path / "a.gguf", f"blk.{layer}.{NAMES[leaf]}.weight"), expected, 1e-6, 1e-6
        )


def test_the_order_of_rows_is_that_of_llama_cpps_rotation() -> None:
    """A query and a key of both orders, each turned as its program turns them, meet in the same product."""
    heads, width = 2, 6
    angles = np.array([0.3, 0.7, 1.1])
    q, k = np.random.default_rng(0).normal(size=(2, heads * width))

    def in_transformers(x: np.ndarray, position: int) -> np.ndarray:
        halves = x.reshape(heads, 2, width // 2)
        return (halves[:, 0] + 1j * halves[:, 1]) * np.exp(1j * angles * position)

    def in_llama_cpp(x: np.ndarray, position: int) -> np.ndarray:
        pairs = x[llama_rows(heads * width, heads)].reshape(heads, width // 2, 2)
        return (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angles * position)

    products = [np.real(turned(q, 3) * turned(k, 5).conj()).sum(-1) for turned in (in_transformers, in_llama_cpp)]
    np.testing.assert_allclose(*products)


@pytest.mark.filterwarnings("ignore")  # of the libraries
@pytest.mark.parametrize(
    "fields",
    [
        {"use_rslora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 7, "q_proj": 5}},
        {"lora_alpha": -3},
    ],
    ids=str,
)
def test_scalings_that_llama_cpp_has_no_word_for_are_applied(tmp_path: Path, fields: dict[str, Any]) -> None:
    """llama.cpp's own converter ignores rsLoRA and patterns. PEFT is the judge."""
    base, _ = gguf_bases.made(tmp_path / "base", "Qwen2ForCausalLM")
    config = transformers.AutoConfig.from_pretrained(base)
    settings = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}
    model = peft.get_peft_model(AutoModelForCausalLM.from_config(config), peft.LoraConfig(**{**settings, **fields}))
    model.save_pretrained(tmp_path / "a")
    export_gguf(tmp_path / "a", tmp_path / "a.gguf", base=base)
    for leaf in settings["target_modules"]:
        expected = model.get_submodule(f"base_model.model.model.layers.1.self_attn.{leaf}").get_delta_weight("default")
        ours = applied(tmp_path / "a.gguf", f"blk.1.{NAMES[leaf]}.weight")
        np.testing.assert_allclose(ours, expected.detach().numpy(), 1e-5, 1e-6)


def test_a_head_and_an_embedding_of_their_own_are_written_as_llama_cpp_looks_them_up(
    tmp_path: Path, llama: Path
) -> None:
    adapter = adapter_files.lora(tmp_path / "a", {"lm_head": (16, 8)}, target_modules=["lm_head", "embed_tokens"])
    A, B = torch.randn(3, 16), torch.randn(8, 3)
    prefix = f"{adapter_files.PREFIX}model.embed_tokens.lora_embedding_"
    adapter_files.edit_tensors(adapter, {f"{prefix}A": A, f"{prefix}B": B})
    export_gguf(adapter, tmp_path / "a.gguf", base=llama)
    alpha, tensors = read(tmp_path / "a.gguf")
    a, b = (tensors[f"token_embd.weight.lora_{factor}"] for factor in "ab")
    token = alpha / 3 * b @ a[5]  # ggml_get_rows of a, multiplied by b: build_inp_embd of its src/llama-graph.cpp
    np.testing.assert_allclose(token, 2 * (B @ A[:, 5]).numpy(), 1e-5)
    expected = adapter_files.read_delta(adapter, "lm_head")
    np.testing.assert_allclose(applied(tmp_path / "a.gguf", "output.weight"), expected, 1e-6, 1e-6)


@pytest.mark.parametrize(("dtype", "error"), [("float16", 2**-11), ("bfloat16", 2**-8)])
def test_numbers_are_rounded_once(tmp_path: Path, llama: Path, dtype: str, error: float) -> None:
    adapter = adapter_files.lora(tmp_path / "a", lora_alpha=5)
    record = export_gguf(adapter, tmp_path / "a.gguf", base=llama, dtype=dtype)
    types = {tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "a.gguf").tensors}
    assert (record["dtype"], types) == (dtype, {"F16" if dtype == "float16" else "BF16"})
    _, tensors = read(tmp_path / "a.gguf")
    (delta,) = load_adapter(adapter).modules[adapter_files.V].read().terms
    np.testing.assert_allclose(tensors["blk.0.attn_v.weight.lora_b"], 5 / 3 * delta.B.astype(float), error)


def test_the_same_adapter_gives_the_same_bytes_saved_or_not(tmp_path: Path, llama: Path) -> None:
    for seed, name in enumerate(("e", "a")):
        adapter_files.lora(tmp_path / name, seed=seed)
    result = combine(tmp_path / "e", tmp_path / "a")
    save_adapter(result, tmp_path / "the result")
    for adapter, output in ((result, "1.gguf"), (tmp_path / "the result", "2.gguf")):
        assert export_gguf(adapter, tmp_path / output, base=llama)["rank"] == 6
    assert (tmp_path / "1.gguf").read_bytes() == (tmp_path / "2.gguf").read_bytes()
    assert (str(tmp_path)).encode() not in (tmp_path / "1.gguf").read_bytes()


def test_what_config_json_leaves_out_is_what_transformers_takes() -> None:
    """Of every architecture, against its config class; of Gemma 3 with images, the sizes in the nested config."""
    for name, architecture in ARCHITECTURES.items():
        class_ = type(gguf_bases.CONFIGS[name]().get_text_config())
        config = (
            class_(hidden_size=64, num_attention_heads=8)
            if name in ("LlamaForCausalLM", "Phi3ForCausalLM")
            else class_()
        )
        expected = {field: getattr(config, field) for field in architecture.defaults}
        assert dict(architecture.defaults) == expected, name
        assert Base("", architecture, {}).is_tied == config.tie_word_embeddings, name
        if "num_key_value_heads" not in architecture.defaults:
            assert config.num_key_value_heads == config.num_attention_heads, name
        if "head_dim" not in architecture.defaults:
            assert getattr(config, "head_dim", None) in (None, config.hidden_size // config.num_attention_heads), name


# ---- what is refused -------------------------------------------------------------------------------------------------


def stored_whole(folder: Path) -> Path:
    adapter_files.lora(folder, modules_to_save=["lm_head"])
    return adapter_files.edit_tensors(folder, {f"{adapter_files.PREFIX}lm_head.weight": torch.ones(16, 8)})


def of_layer(name: str, shape: tuple[int, int] = (12, 8), **fields: Any) -> Callable[[Path], Path]:
    return lambda folder: adapter_files.lora(folder, {name: shape}, target_modules=[name.rpartition(".")[2]], **fields)


def embedding(folder: Path) -> Path:
    prefix = f"{adapter_files.PREFIX}model.embed_tokens.lora_embedding_"
    tensors = {f"{prefix}A": torch.ones(3, 16), f"{prefix}B": torch.ones(8, 3)}
    return adapter_files.write(folder, tensors, adapter_files.lora_config(target_modules=["embed_tokens"]))


def too_large(folder: Path) -> Path:
    adapter_files.lora(folder)
    key = f"{adapter_files.PREFIX}{adapter_files.V}.lora_B.weight"
    return adapter_files.edit_tensors(folder, {key: torch.full((4, 3), 4e4)})


def pruned(folder: Path) -> Path:
    """AdaLoRA that has taken every rank away."""
    name = f"{adapter_files.PREFIX}{adapter_files.Q}"
    tensors = {f"{name}.lora_A": torch.zeros(0, 8), f"{name}.lora_B": torch.zeros(12, 0)}
    config = adapter_files.lora_config(peft_type="ADALORA", init_r=4, target_r=2)
    return adapter_files.write(folder, {**tensors, f"{name}.lora_E": torch.zeros(0, 1)}, config)


LAYER = "model.layers.0."
REFUSED = {
    "kind": (adapter_files.ia3, {}, "a: GGUF holds adapters of kind LORA, and this one is IA3: merge the adapter into"),
    "prefix": (adapter_files.prefix, {}, "a: GGUF holds adapters of kind LORA, and this one is PREFIX_TUNING"),
    "prompt": (lambda folder: adapter_files.lora(folder, peft_type="PROMPT_TUNING"), {}, "a: PROMPT_TUNING adapters"),
    "dora": (lambda folder: adapter_files.lora(folder, use_dora=True), {}, "a: use_dora is True"),
    "bias": (lambda folder: adapter_files.lora(folder, lora_bias=True), {}, "a: lora_bias is True"),
    "no alpha": (lambda folder: adapter_files.lora(folder, lora_alpha=0), {}, "a: lora_alpha is 0"),
    "whole": (stored_whole, {}, "a: base_model.model.lm_head.weight is stored whole (modules_to_save, or a resized"),
    "rank 0": (pruned, {}, "a: its rank is 0, so it changes nothing"),
    "replicated": (lambda folder: adapter_files.lora(folder, layer_replication=[[0, 1], [0, 1]]), {}, "a: it repeats"),
    "tied head": (of_layer("lm_head", (16, 8)), {"tie_word_embeddings": True}, "a: lm_head: the base has its"),
    "tied embedding": (embedding, {"tie_word_embeddings": True}, "a: model.embed_tokens: the base has its"),
    "experts": (of_layer(f"{LAYER}mlp.experts", target_parameters=["mlp.experts.down_proj"]), {},
                "a: model.layers.0.mlp.experts is fused experts, which have no place in an adapter for llama: merge"),
    "expert": (of_layer(f"{LAYER}mlp.experts.0.up_proj"), {}, "a: model.layers.0.mlp.experts.0.up_proj is a layer"),
    "tower": (of_layer("model.vision_tower.layers.0.self_attn.q_proj"), {}, "a: model.vision_tower.layers.0.self_attn"),
    "fused layer": (of_layer(f"{LAYER}self_attn.qkv_proj", (20, 8)), {}, "a: model.layers.0.self_attn.qkv_proj is a"),
    "layer beyond": (of_layer("model.layers.1.self_attn.q_proj"), {}, "a: model.layers.1.self_attn.q_proj is a layer "),
    "no number": (of_layer("model.layers.00.self_attn.q_proj"), {}, "a: model.layers.00.self_attn.q_proj is a layer "),
    "endless": (of_layer("model.layers.1000000000.self_attn.q_proj"), {"num_hidden_layers": 10**12, "head_dim": 2},
                "a: model.layers.1000000000.self_attn.q_proj is 12x8, and 6x8"),
    "other base": (adapter_files.lora, {"num_attention_heads": 6}, "a: model.layers.0.self_attn.q_proj is 12x8, and 2"),
    "unknown": (adapter_files.lora, {"architectures": ["MambaForCausalLM"]}, "base: the architecture is 'MambaForCaus"),
    "nameless": (adapter_files.lora, {"architectures": None}, "base: the architecture is None, and adapters are"),
    "no size": (adapter_files.lora, {"hidden_size": "8"}, "the config of base: hidden_size must be a whole number"),
    "odd heads": (adapter_files.lora, {"head_dim": 3}, "the config of base: heads of 3 numbers cannot be"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_llama_cpp_could_not_apply_is_refused_by_name(
    extsub: Command, tmp_path: Path, llama: Path, case: str
) -> None:
    make, config, message = REFUSED[case]
    make(tmp_path / "a")
    told = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps({**told, **config}))
    done = extsub("export", "gguf", "a", "--output", "new/a.gguf", "--base", "base")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"Error: {message}")
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "base"], "nothing was written"


FIELDS = ["hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "num_hidden_layers", "vocab_size"]
FIELDS += ["intermediate_size", "tie_word_embeddings", "architectures", "text_config"]
VALUES = st.one_of(
    st.none(), st.booleans(), st.floats(), st.integers(-2, 40), st.text(max_size=3), st.just(["LlamaForCausalLM"]),
    st.lists(st.integers(), max_size=1), st.dictionaries(st.sampled_from(FIELDS), st.integers(0, 20)),
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fields=st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4))
def test_whatever_a_config_says_is_written_or_refused(tmp_path: Path, llama: Path, fields: dict[str, Any]) -> None:
    adapter = adapter_files.lora(tmp_path / "a") if not (tmp_path / "a").exists() else tmp_path / "a"
    told = {**json.loads((llama / "config.json").read_text()), **fields}
    (tmp_path / "config.json").write_text(json.dumps(told))
    try:
        export_gguf(adapter, tmp_path / "a.gguf", base=tmp_path / "config.json", overwrite=True)
    except ExtSubError:
        (tmp_path / "a.gguf").unlink(missing_ok=True)
    else:
        assert (tmp_path / "a.gguf").exists()


def test_numbers_that_do_not_fit_are_refused_and_nothing_is_left(extsub: Command, tmp_path: Path, llama: Path) -> None:
    too_large(tmp_path / "a")
    (tmp_path / "a.gguf").write_bytes(b"before")
    words = ("export", "gguf", "a", "-o", "a.gguf", "--base", "base", "--overwrite")
    done = extsub(*words, "--dtype", "float16")
    assert done.returncode == 2
    assert done.stderr.startswith(f"Error: {adapter_files.V} has numbers too large for float16: choose --dtype float32")
    assert (tmp_path / "a.gguf").read_bytes() == b"before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.gguf", "base"]
    assert extsub(*words).returncode == 0
    assert np.abs(applied(tmp_path / "a.gguf", "blk.0.attn_v.weight")).max() > 65504


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("a -o a.bin --base base", "a.bin: the name of a GGUF file ends in .gguf"),
        ("a -o folder.gguf --base base", "folder.gguf is a folder: give the name of a file"),
        ("a -o there.gguf --base base", "there.gguf already exists: choose another output, or pass --overwrite to rep"),
        ("a -o a/adapter_config.json/a.gguf --base base", "a/adapter_config.json/a.gguf cannot be written: a/adapter_"),
        ("none -o a.gguf --base base", "none: no such folder, and not an adapter of the hub"),
        ("a -o a.gguf", "the base of a: made-up/tiny: no such folder here, and it is not in the cache of the hub"),
        ("nameless -o a.gguf", "nameless names no base model: say with --base where its config.json is"),
        ("a -o a.gguf --base a", "a: no config.json in this folder: give the folder of the base model"),
        ("a -o a.gguf --base there.gguf", "there.gguf: there.gguf is not the config of a model"),
        ("a -o a.gguf --base no/where/at/all", "no/where/at/all: no such folder or file, and not a model of the hub"),
    ],
)
def test_names_that_are_wrong_are_told_before_any_work(
    extsub: Command, tmp_path: Path, llama: Path, words: str, message: str
) -> None:
    adapter_files.lora(tmp_path / "a")
    adapter_files.lora(tmp_path / "nameless", base_model_name_or_path=None)
    (tmp_path / "folder.gguf").mkdir()
    (tmp_path / "there.gguf").write_bytes(b"GGUF")
    before = sorted(tmp_path.rglob("*"))
    done = extsub("export", "gguf", *words.split())
    assert done.returncode == 2
    assert done.stderr.startswith(f"Error: {message}")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_that_reads_otherwise_than_it_was_written_is_a_bug_and_is_not_kept(
    tmp_path: Path, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter_files.lora(tmp_path / "a")
    write = exporting.write

    def broken(path: Path, *arguments: Any) -> None:
        write(path, *arguments)
        content = bytearray(path.read_bytes())
        content[-40] ^= 1
        path.write_bytes(content)

    monkeypatch.setattr(exporting, "write", broken)
    with pytest.raises(RuntimeError, match="does not hold blk.0.attn_v.weight.lora_b as it was written"):
        export_gguf(tmp_path / "a", tmp_path / "a.gguf", base=llama)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "base"]


def test_a_disk_with_too_little_room_is_told_before_it_is_filled(
    extsub: Command, tmp_path: Path, llama: Path, disk_of: Callable[[str], Path]
) -> None:
    disk = disk_of("64k")
    adapter_files.lora(tmp_path / "a", rank=900)
    done = extsub("export", "gguf", "a", "-o", disk / "a.gguf", "--base", "base")
    assert done.returncode == 2
    assert "a.gguf needs 0 MB and the disk has 0 MB: make room first" in done.stderr
    assert not list(disk.iterdir())


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command_says_what_it_wrote_and_how_it_is_loaded(extsub: Command, tmp_path: Path, llama: Path) -> None:
    adapter_files.lora(tmp_path / "a", base_model_name_or_path=str(llama))
    done = extsub("export", "gguf", "a", "--output", "new/a.gguf")
    size = (tmp_path / "new" / "a.gguf").stat().st_size
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "new/a.gguf: a for llama.cpp's llama",
        f"  size   2 modules, rank 3, float32, {size / 1e3:.1f} kB",
        "  serve  llama-server -m BASE.gguf --lora new/a.gguf",
        "written: new/a.gguf",
        "see:     docs/serving.md for servers, several strengths and the way back",
    ]
    record = json.loads(extsub("export", "gguf", "a", "-o", "b.gguf", "--json").stdout)
    assert record == {
        "output": "b.gguf", "architecture": "llama", "modules": 2, "rank": 3, "dtype": "float32", "bytes": size,
        "deficiency": False, "notes": [],
    }  # fmt: skip
    assert extsub("export", "gguf", "a", "-o", "b.gguf", "--overwrite", "--quiet").stdout == ""


def test_a_deficiency_is_to_be_loaded_beside_the_expert(extsub: Command, tmp_path: Path, llama: Path) -> None:
    for seed, name in enumerate(("e", "a")):
        adapter_files.lora(tmp_path / name, seed=seed)
    assert extsub("combine", "e", "a", "-o", "d", "--deficiency").returncode == 0
    done = extsub("export", "gguf", "d", "-o", "d.gguf", "--base", "base/config.json")
    assert "  serve  llama-server -m BASE.gguf --lora EXPERT.gguf --lora-scaled d.gguf:-1" in done.stdout.splitlines()
    combined = combine(tmp_path / "e", tmp_path / "a", deficiency=True)
    assert export_gguf(combined, tmp_path / "d2.gguf", base=llama)["deficiency"]


def test_neither_torch_nor_transformers_is_needed(tmp_path: Path, llama: Path) -> None:
    adapter_files.lora(tmp_path / "a")
    code = (
        "import sys\nfrom extsub import export_gguf\nexport_gguf('a', 'a.gguf', base='base')\n"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.gguf").exists()


def test_without_the_library_it_says_how_to_get_it(
    tmp_path: Path, llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ExtSubError, match=r"gguf is not installed: pip install 'extsub\[gguf\]'"):
        export_gguf(tmp_path / "none", tmp_path / "a.gguf")
