"""llama.cpp itself, as it lies in a source package of PyPI: its converters, and its server, which is built here.

Nothing of it is needed for anything else: what is missing (network, cmake, a compiler) is a reason to skip.
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs
import pytest

PACKAGE = "llama-cpp-python==0.3.36"
"""llama.cpp 0c1e570 lies in it."""
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
FOLDER = "llama_cpp_python-0.3.36"
OFF = "BUILD_SHARED_LIBS LLAMA_BUILD_EXAMPLES LLAMA_BUILD_TESTS LLAMA_BUILD_UI LLAMA_OPENSSL LLAMA_USE_PREBUILT_UI"
"""What the server is built without; nothing is fetched for it."""
EXACT = "--flash-attn off --cache-type-k f32 --cache-type-v f32 --cache-ram 0 --ctx-size 512 --threads 1 --parallel 1"
"""Options by which it computes in float32, and keeps no prompt of one strength for another."""


def source() -> Path:
    """llama.cpp's folder, downloaded once (77 MB) into the user's cache folder."""
    cache = platformdirs.user_cache_path("extsub", appauthor=False)
    if not (cache / FOLDER).is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        (cache / "llama-cpp.txt").write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "llama-cpp-python", "--quiet"]
        command += ["--require-hashes", "--requirement", str(cache / "llama-cpp.txt"), "--dest", str(cache)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        archive = cache / f"{FOLDER}.tar.gz"
        if done.returncode or not archive.is_file():
            pytest.skip(f"{PACKAGE} could not be downloaded: {done.stderr[-500:]}")
        with tarfile.open(archive) as packed:
            packed.extractall(cache / "unpacked", filter="data")
        (cache / "unpacked" / FOLDER).rename(cache / FOLDER)
        archive.unlink()
    return cache / FOLDER / "vendor" / "llama.cpp"


def convert_lora(adapter: Path, base: Path, output: Path, outtype: str) -> Path:
    """By ``convert_lora_to_gguf.py``, with the gguf that lies beside it."""
    return _converted("convert_lora_to_gguf.py", adapter, output, "--base", base, "--outtype", outtype)


def convert_model(folder: Path, output: Path) -> Path:
    """By ``convert_hf_to_gguf.py``, in float32; any tokenizer in BPE is taken for SmolLM2's."""
    return _converted("convert_hf_to_gguf.py", folder, output, "--outtype", "f32")


CONVERTER = """
import runpy, sys
sys.path.insert(0, sys.argv.pop(1))
from conversion.base import TextModel
TextModel.get_vocab_base_pre = lambda *_: "smollm"
TextModel._set_vocab_sentencepiece = TextModel._set_vocab_gpt2
runpy.run_path(sys.argv.pop(1), run_name="__main__")
"""


def _converted(script: str, given: Path, output: Path, *options: object) -> Path:
    words = (source(), source() / script, given, "--outfile", output, *options)
    command = [sys.executable, "-c", CONVERTER, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return output


def server() -> Path:
    """The program llama-server, built once: about fifteen minutes on one core."""
    build = source().parents[1] / "build"
    program = build / "bin" / "llama-server"
    if not program.exists():
        if not shutil.which("cmake"):
            pytest.skip("llama-server is not built, and there is no cmake to build it")
        options = [f"-D{name}=OFF" for name in OFF.split()]
        for command in (
            ["cmake", "-S", source(), "-B", build, "-DCMAKE_BUILD_TYPE=Release", *options],
            ["cmake", "--build", build, "--target", "llama-server"],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"llama-server could not be built: {done.stderr[-500:]}")
    return program


@dataclass(frozen=True)
class Server:
    """A server that is ready."""

    url: str

    def post(self, path: str, content: Any) -> Any:
        request = urllib.request.Request(self.url + path, json.dumps(content).encode())
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.load(answer)

    def answer(self, prompt: list[int], tokens: int = 24, **more: Any) -> dict[str, Any]:
        """What the model says greedily: ``content``, and ``tokens`` with their log-probabilities."""
        asked = {"prompt": prompt, "n_predict": tokens, "temperature": 0, "n_probs": 1}
        said = self.post("/completion", {**asked, **more})
        chosen = [(token["id"], token["logprob"]) for token in said["completion_probabilities"]]
        return {"content": said["content"], "tokens": chosen}


@contextmanager
def serving(model: Path, *options: object) -> Iterator[Server]:
    """A server of a model on this machine, until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(server()), "--model", str(model), "--port", str(port), *EXACT.split(), *map(str, options)]
    log = model.parent / "server.log"
    with log.open("w") as said, subprocess.Popen(command, stdout=said, stderr=said) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            while not _is_ready(url):
                if process.poll() is not None:
                    raise RuntimeError(f"llama-server ended: {log.read_text()[-2000:]}")
                time.sleep(0.2)
            yield Server(url)
        finally:
            process.terminate()


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:  # not listening yet, or still loading
        return False
