"""The folder that merge writes: weights to the last bit of their rounding, in files as the hub has them, whole or not
at all."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.repocard import metadata_load
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

import adapter_files
import merge_files
import tiny_models
from adapter_files import Q, V
from conftest import Command, contents, start
from extsub import ExtSubError, merge
from extsub.adapters.adapter import sha256
from extsub.adapters.writing import make_header
from extsub.merging import writing
from killing import at_every_change, needs_fork
from merge_files import weights

INDEX = "model.safetensors.index.json"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A base and an adapter that fits."""
    merge_files.plain(tmp_path / "base")
    adapter_files.lora(tmp_path / "adapter")
    return tmp_path


def merged(folder: Path, **options: Any) -> dict[str, Tensor]:
    merge(folder / "base", folder / "adapter", folder / "merged", **options)
    return weights(folder / "merged")


def expected(folder: Path) -> dict[str, Tensor]:
    """Dense, in float64."""
    dense = {key: tensor.double() for key, tensor in weights(folder / "base").items()}
    for name in (Q, V):
        dense[f"{name}.weight"] += adapter_files.read_delta(folder / "adapter", name)
    return dense


# ---- numbers ---------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(
    rows=st.integers(1, 40), columns=st.integers(1, 40), rank=st.integers(1, 9), block=st.integers(1, 200),
    base=st.sampled_from([*DTYPES, "float64"]), factors=st.sampled_from([*DTYPES]),
    asked=st.sampled_from(["auto", *DTYPES]), seed=st.integers(0, 99),
)  # fmt: skip
def test_every_number_is_the_dense_one_rounded_once(
    tmp_path_factory: pytest.TempPathFactory, rows: int, columns: int, rank: int, block: int, base: str, factors: str,
    asked: str, seed: int,
) -> None:  # fmt: skip
    """In blocks of any size, whatever the dtypes."""
    folder = tmp_path_factory.mktemp("property")
    random = torch.Generator().manual_seed(seed)
    stored = getattr(torch, base)
    weight, other = (torch.randn(size, generator=random).to(stored) for size in ((rows, columns), (7,)))
    merge_files.base(folder / "base", {f"{Q}.weight": weight, "model.norm.weight": other})
    adapter_files.lora(folder / "adapter", {Q: (rows, columns)}, rank, seed, DTYPES[factors])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "BLOCK", block)
        ours = merged(folder, dtype=asked)
    dtype = stored if asked == "auto" else DTYPES[asked]
    assert torch.equal(ours["model.norm.weight"], other.to(dtype))
    A, B = (adapter_files.tensors_of(folder / "adapter")[
        f"base_model.model.{Q}.lora_{factor}.weight"].double() for factor in "AB")  # fmt: skip
    exact = weight.double() + 2 * B @ A
    wide = torch.float64 if base == "float64" else torch.float32
    computed = torch.finfo(wide).eps * (rank + 4) * (weight.double().abs() + 2 * B.abs() @ A.abs())
    limits = torch.finfo(dtype)
    unit = limits.eps * exact.abs().clamp(min=limits.tiny).log2().floor().exp2()
    assert ours[f"{Q}.weight"].dtype == dtype
    assert ((ours[f"{Q}.weight"].double() - exact).abs() <= unit / 2 + computed).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_dtype_that_is_asked_for_is_that_of_every_float_and_of_the_config(pair: Path, dtype: str) -> None:
    tensors = weights(pair / "base") | {"positions": torch.arange(3), "mask": torch.tensor([0.0, -torch.inf])}
    save_file(tensors, pair / "base" / "model.safetensors")
    (pair / "base" / "config.json").write_text(
        '{"model_type": "x", "torch_dtype": "auto", "limit": Infinity, "text_config": {"dtype": "float32", "size": 1}}'
    )
    ours = merged(pair, dtype=dtype)
    assert torch.equal(ours.pop("positions"), torch.arange(3))
    assert {tensor.dtype for tensor in ours.values()} == {DTYPES[dtype]}
    assert ours["mask"].tolist() == [0.0, -math.inf]
    assert json.loads((pair / "merged" / "config.json").read_text()) == {
        "model_type": "x", "torch_dtype": dtype, "limit": math.inf, "text_config": {"dtype": dtype, "size": 1},
    }  # fmt: skip
    torch.testing.assert_close(
        ours[f"{Q}.weight"].double(), expected(pair)[f"{Q}.weight"], atol=0.1, rtol=torch.finfo(DTYPES[dtype]).eps
    )


def test_a_config_without_a_dtype_gets_one_that_every_version_reads(pair: Path) -> None:
    merged(pair, dtype="bfloat16")
    assert json.loads((pair / "merged" / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_what_is_not_changed_is_copied_to_the_bit(pair: Path) -> None:
    """Also what has no number that could be added to; and odd sizes leave every tensor where torch can read it."""
    others = {
        "a.bias": torch.randn(3).bfloat16(), "b": torch.tensor([True, False, True]), "c": torch.arange(5),
        "d": torch.tensor(1.5, dtype=torch.float64), "e": torch.zeros(0, 4), "f": torch.tensor([torch.nan, 1.0]),
    }  # fmt: skip
    save_file(weights(pair / "base") | others, pair / "base" / "model.safetensors")
    ours = merged(pair, max_shard_size="0.1KB")
    for key, tensor in others.items():
        assert (ours[key].dtype, ours[key].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(ours[key].reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))
    torch.testing.assert_close(ours[f"{Q}.weight"].double(), expected(pair)[f"{Q}.weight"], atol=1e-6, rtol=1e-6)


def test_every_tensor_begins_where_torch_can_read_it(pair: Path) -> None:
    """Also where the base has narrow numbers first: other libraries write such files."""
    others = {"narrow": torch.randn(3).bfloat16(), "wide": torch.arange(5)}
    tensors = others | weights(pair / "base")
    sizes = {torch.bfloat16: ("BF16", 2), torch.int64: ("I64", 8), torch.float32: ("F32", 4)}
    header, _ = make_header(
        {key: (sizes[tensor.dtype][0], tuple(tensor.shape), sizes[tensor.dtype][1]) for key, tensor in tensors.items()}
    )
    numbers = b"".join(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() for tensor in tensors.values())
    (pair / "base" / "model.safetensors").write_bytes(header + numbers)
    ours = merged(pair)
    assert all(torch.equal(ours[key], tensor) for key, tensor in others.items())
    content = (pair / "merged" / "model.safetensors").read_bytes()
    entries = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert all(entries[key]["data_offsets"][0] % tensor.element_size() == 0 for key, tensor in ours.items())


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 3])
def test_shards_have_the_hubs_names_an_index_and_the_size_asked_for(pair: Path, shards: int) -> None:
    tensors = weights(pair / "base")
    shutil.rmtree(pair / "base")
    merge_files.base(pair / "base", tensors, shards=shards)
    ours = merged(pair, max_shard_size="0.5KB")
    for key, tensor in expected(pair).items():
        torch.testing.assert_close(ours[key].double(), tensor, atol=1e-6, rtol=1e-6)
    files = sorted(path.name for path in (pair / "merged").glob("*.safetensors"))
    assert len(files) > 2
    assert files == [f"model-{number:05d}-of-{len(files):05d}.safetensors" for number in range(1, len(files) + 1)]
    index = json.loads((pair / "merged" / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(4 * tensor.numel() for tensor in ours.values())
    for file in files:
        inside = load_file(pair / "merged" / file)
        assert {key for key, name in index["weight_map"].items() if name == file} == inside.keys()
        assert len(inside) == 1 or sum(4 * tensor.numel() for tensor in inside.values()) <= 500


def test_transformers_loads_shards_and_tokenizer(tmp_path: Path) -> None:
    base = tiny_models.llama(tmp_path / "base")
    adapter_files.lora(tmp_path / "adapter", {Q: (32, 32)})
    merge(base, tmp_path / "adapter", tmp_path / "merged", max_shard_size="50KB")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    whole = weights(base)[f"{Q}.weight"].double() + adapter_files.read_delta(tmp_path / "adapter", Q)
    torch.testing.assert_close(model.get_parameter(f"{Q}.weight").double(), whole, atol=1e-5, rtol=1e-5)
    said = [AutoTokenizer.from_pretrained(folder)("Who wrote it?") for folder in (base, tmp_path / "merged")]
    assert said[0]["input_ids"] == said[1]["input_ids"]


CARRIED = (
    "generation_config.json tokenizer.json tokenizer_config.json special_tokens_map.json added_tokens.json vocab.json "
    "merges.txt vocab.txt tokenizer.model spiece.model chat_template.jinja preprocessor_config.json LICENSE "
    "LICENSE.txt video_preprocessor_config.json processor_config.json qwen.tiktoken "
    "additional_chat_templates/tools.jinja"
).split()
LEFT = (
    "README.md modeling_own.py optimizer.pt training_args.bin trainer_state.json people.json consolidated.safetensors "
    "model.fp16.safetensors adapter_config.json original/params.json pytorch_model.bin .gitattributes tokenizer.py"
).split()


def test_small_files_come_along_and_never_weights_code_or_anything_unknown(pair: Path) -> None:
    for name in CARRIED + LEFT:
        (pair / "base" / name).parent.mkdir(exist_ok=True)
        (pair / "base" / name).write_text(f"content of {name}")
    (pair / "base" / "config.json").write_text('{"auto_map": {"AutoConfig": "own.C", "AutoModel": ["modeling_own.M"]}}')
    record = merge(pair / "base", pair / "adapter", pair / "merged")
    ours = contents(pair / "merged")
    ourselves = {"config.json", "model.safetensors", "README.md", "extsub.json"}
    assert ours.keys() == {*CARRIED, *ourselves}
    assert all(ours[name] == f"content of {name}".encode() for name in CARRIED)
    assert ours["config.json"] == (pair / "base" / "config.json").read_bytes()
    assert record["files"] == sorted(ours.keys() - {"README.md", "extsub.json"})
    assert record["notes"] == [
        "an adapter lies beside the base model (adapter_config.json), and was left out",
        "config.json names code (modeling_own.py, own.py), which is not carried along: put these files beside the "
        "merged model if you trust them",
    ]  # fmt: skip


def test_links_as_in_the_hubs_cache_become_files(pair: Path) -> None:
    for path in [*(pair / "base").iterdir()]:
        (pair / "blobs").mkdir(exist_ok=True)
        path.rename(pair / "blobs" / path.name)
        path.symlink_to(pair / "blobs" / path.name)
    merged(pair)
    assert not any(path.is_symlink() for path in (pair / "merged").iterdir())


def test_the_record_and_the_card(pair: Path) -> None:
    (pair / "base" / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A base\n")
    (pair / "adapter" / "training.json").write_text('{"format": 1, "settings": {"template": "chat"}}')
    record = merge(pair / "base", pair / "adapter", pair / "merged")
    assert record == adapter_files.record_of(pair / "merged")
    assert record["adapter"]["weights_sha256"] == sha256(pair / "adapter" / "adapter_model.safetensors")
    assert (record["base"]["name"], record["base"]["commit"], len(record["base"]["sha256"])) == ("base", None, 64)
    assert (record["template"], record["tensors"], record["changed"], record["dtypes"]) == ("chat", 5, 2, ["float32"])
    assert record["parameters"] == sum(tensor.numel() for tensor in weights(pair / "base").values())
    assert record["verification"]["rows"] == 8
    assert 0 < record["verification"]["largest_relative_error"] < 1e-6
    card = (pair / "merged" / "README.md").read_text()
    assert metadata_load(pair / "merged" / "README.md") == {
        "library_name": "transformers", "pipeline_tag": "text-generation", "license": "apache-2.0",
        "tags": ["extsub", "merged"],
    }  # fmt: skip
    assert "The local model base with the adapter adapter merged in by extsub" in card
    assert str(pair) not in card + (pair / "merged" / "extsub.json").read_text()


def test_the_same_inputs_give_the_same_bytes(pair: Path) -> None:
    merged(pair)
    first = contents(pair / "merged")
    merged(pair, overwrite=True)
    assert contents(pair / "merged") == first


# ---- whole or not at all ---------------------------------------------------------------------------------------------


def test_overwrite_replaces_what_merge_wrote_and_nothing_else(pair: Path) -> None:
    merged(pair, max_shard_size="0.1KB")
    before = contents(pair / "merged")
    with pytest.raises(ExtSubError, match="merged already exists: choose another output, or pass --overwrite"):
        merged(pair)
    (pair / "merged" / "data.json").write_text("{}")
    with pytest.raises(ExtSubError, match="merged holds files that extsub did not write, first data.json"):
        merged(pair, overwrite=True)
    (pair / "merged" / "data.json").unlink()
    assert contents(pair / "merged") == before
    merged(pair, overwrite=True)
    assert [path.name for path in (pair / "merged").glob("model*")] == ["model.safetensors"]
    shutil.copytree(pair / "base", pair / "base2")
    with pytest.raises(ExtSubError, match="base2 was not written by extsub"):
        merge(pair / "base", pair / "adapter", pair / "base2", overwrite=True)


@needs_fork
@pytest.mark.slow
def test_a_run_that_is_killed_anywhere_leaves_nothing_or_all(pair: Path) -> None:
    merged(pair, max_shard_size="0.5KB")
    whole = contents(pair / "merged")

    def work() -> None:
        merge(pair / "base", pair / "adapter", pair / "merged", max_shard_size="0.5KB")

    def prepare() -> None:
        shutil.rmtree(pair / "merged", ignore_errors=True)

    def check() -> None:
        if (pair / "merged").exists():
            assert contents(pair / "merged") == whole
        else:
            work()
            assert contents(pair / "merged") == whole
        assert sorted(path.name for path in pair.iterdir()) == ["adapter", "base", "merged"]

    assert at_every_change(work, prepare, check) > 8


def test_too_little_room_is_seen_before_anything_is_written(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1000))
    with pytest.raises(ExtSubError, match="merged needs 0 MB and the disk has 0 MB: make room first"):
        merged(pair)
    assert sorted(path.name for path in pair.iterdir()) == ["adapter", "base"]


@pytest.mark.parametrize("key", [f"{Q}.weight", "lm_head.weight"])
def test_a_wrong_number_in_a_written_file_is_caught(pair: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """Whether it was computed or copied."""
    right = writing.Output.compute

    def wrong(self: writing.Output, piece: writing.Piece) -> np.ndarray:
        numbers = right(self, piece)
        return numbers + numbers.dtype.type(1) if self.key == key else numbers

    monkeypatch.setattr(writing.Output, "compute", wrong)
    with pytest.raises(RuntimeError, match=f"{key} was (written|copied) wrongly.*: please report this"):
        merged(pair)
    assert sorted(path.name for path in pair.iterdir()) == ["adapter", "base"]


MEASURED = """
import re, sys
from extsub import merge
merge(*sys.argv[1:4])
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""
"""prints the most memory that the process had"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_memory_grows_neither_with_the_model_nor_with_its_largest_tensor(tmp_path: Path) -> None:
    """A largest tensor of 24 and 48 MB, a model of 48 and 192 MB, and nearly the same memory."""
    peaks = []
    for number, (rows, layers) in enumerate(((6000, 1), (12_000, 3))):
        names = [f"model.layers.{layer}.mlp.up_proj" for layer in range(layers)]
        tensors = {f"{name}.weight": torch.zeros(rows, 1000) for name in names}
        merge_files.base(tmp_path / f"b{number}", tensors | {"lm_head.weight": torch.zeros(rows, 1000)})
        adapter_files.lora(tmp_path / f"a{number}", dict.fromkeys(names, (rows, 1000)), rank=2)
        done = start(tmp_path, "-c", MEASURED, f"b{number}", f"a{number}", f"o{number}")
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 12_000


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command_says_what_it_did(pair: Path, extsub: Command) -> None:
    done = extsub("merge", "base", "adapter", "--output", "merged")
    assert (done.returncode, done.stderr) == (0, "")
    record = adapter_files.record_of(pair / "merged")
    error = record["verification"]["largest_relative_error"]
    assert done.stdout.splitlines() == [
        "merged: base with adapter merged in",
        "  size           5 tensors, 296 parameters, float32, 1.2 kB",
        "  changed        2 tensors; the others are the base's",
        f"  verified       8 rows against the dense formula, largest relative error {error:.1e}",
        "written: merged/: model.safetensors, config.json, what the base has beside them, README.md, extsub.json",
        "next:    extsub evaluate truthfulqa-mc --model merged --output results",
    ]
    options = ("--dtype", "float16", "--max-shard-size", "0.5KB", "--overwrite")
    done = extsub("merge", "base", "adapter", "-o", "merged", *options, "--json", "--quiet")
    record = adapter_files.record_of(pair / "merged")
    assert json.loads(done.stdout) == {"output": "merged", **record}
    assert record["dtypes"] == ["float16"]
    done = extsub("merge", "base", "adapter", "-o", "merged")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("Error: merged already exists")
