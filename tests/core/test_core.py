"""``pip install extsub`` and nothing else: what works, and what says that it lacks something (make test-core).

Runs in the full installation too, in which torch is hidden from the commands.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "lora"
LACKING = "torch", "transformers", "peft", "accelerate", "datasets", "matplotlib", "jinja2", "gguf", "gradio"
HIDDEN = """
import sys
from importlib import metadata
missing, installed = set(sys.argv.pop(1).split(",")), metadata.version
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
def version(name):
    if name in missing:
        raise metadata.PackageNotFoundError(name)
    return installed(name)
sys.meta_path.insert(0, Hidden())
metadata.version = version
from extsub.__main__ import main
main()
"""
"""the program, in a Python that finds none of these libraries"""


@pytest.fixture
def extsub(tmp_path: Path) -> object:
    """Runs a command in ``tmp_path``, where the pair of the golden files lies."""
    for name in ("expert", "anti_expert"):
        shutil.copytree(GOLDEN / name, tmp_path / name)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", HIDDEN, ",".join(LACKING), *words]
        environment = {**os.environ, "PYTHONUTF8": "1", "COLUMNS": "200"}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, encoding="utf-8")

    return run


def test_two_files_in_one_out(extsub, tmp_path: Path) -> None:
    """What the authors' script computed, as a whole matrix."""
    done = extsub("combine", "expert", "anti_expert", "--alpha", "0.7", "-o", "better", "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["verification"]["rows"] > 0
    written = load_file(tmp_path / "better" / "adapter_model.safetensors")
    config = json.loads((tmp_path / "better" / "adapter_config.json").read_text())
    assert config["lora_alpha"] == config["r"]
    authors = load_file(GOLDEN / "authors-ext-sub-alpha0.7.safetensors")
    assert authors
    for name, expected in authors.items():
        ours = product(written, name)
        assert np.abs(ours - expected).max() <= 1e-5 * np.abs(expected).max(), name


def product(tensors: dict[str, np.ndarray], name: str) -> np.ndarray:
    A, B = (next(tensors[key] for key in tensors if name in key and f"lora_{factor}" in key) for factor in "AB")
    return B.astype(float) @ A.astype(float)


def test_looking_at_a_pair(extsub) -> None:
    alone, pair = extsub("inspect", "expert"), extsub("inspect", "expert", "anti_expert", "--json")
    assert (alone.returncode, pair.returncode) == (0, 0), alone.stderr + pair.stderr
    assert "combine    yes" in alone.stdout
    assert json.loads(pair.stdout)["modules"]


def test_a_model_merged(extsub, tmp_path: Path) -> None:
    """In float16, against the whole product."""
    factors, rng = load_file(GOLDEN / "expert" / "adapter_model.safetensors"), np.random.default_rng(0)
    config = json.loads((GOLDEN / "expert" / "adapter_config.json").read_text())
    names = {key.removeprefix("base_model.model.").partition(".lora_")[0] for key in factors}
    deltas = {name: config["lora_alpha"] / config["r"] * product(factors, f"{name}.") for name in names}
    base = {f"{name}.weight": rng.normal(size=delta.shape).astype(np.float16) for name, delta in deltas.items()}
    (tmp_path / "base").mkdir()
    save_file(base | {"norm.weight": np.ones(5, np.float32)}, tmp_path / "base" / "model.safetensors")
    (tmp_path / "base" / "config.json").write_text('{"model_type": "llama", "tie_word_embeddings": false}')
    done = extsub("merge", "base", "expert", "-o", "merged", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["changed"] == len(names) > 0
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    for name, delta in deltas.items():
        exact = base[f"{name}.weight"].astype(float) + delta
        assert merged[f"{name}.weight"].dtype == np.float16
        assert (np.abs(merged[f"{name}.weight"] - exact) <= 2**-11 * np.abs(exact) + 1e-6).all(), name


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        ("train --model m --data d.jsonl --output o", "train"),
        ("evaluate perplexity --adapter expert", "evaluate"),
        ("generate --adapter expert --prompts p.jsonl --output o.jsonl", "evaluate"),
        ("sweep expert anti_expert --tasks perplexity --output o", "evaluate"),
        ("run recipe.yaml", "train,evaluate,report"),
        ("report o", "report"),
        ("demo", "demo"),
        ("ui expert anti_expert", "ui"),
        ("inspect expert anti_expert --plot o.png", "plot"),
        ("export gguf expert --output o.gguf --base m", "gguf"),
    ],
)
def test_other_commands_say_what_they_lack(extsub, tmp_path: Path, words: str, extra: str) -> None:
    for name, text in {"d.jsonl": '{"instruction": "a", "output": "b"}\n', "p.jsonl": '{"prompt": "a"}\n'}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "m" / "model.safetensors").touch()
    before = sorted(tmp_path.rglob("*"))
    done = extsub(*words.split())
    assert done.returncode == 2
    assert f"pip install 'extsub[{extra}]'" in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("Error: ")
    assert sorted(tmp_path.rglob("*")) == before


def test_finished_results_are_compared(extsub, tmp_path: Path) -> None:
    for name, scores in {"one": [0] * 8 + [1] * 3, "two": [1] * 11}.items():
        folder = tmp_path / name
        folder.mkdir()
        items = [{"index": index, "scores": {"accuracy_sum": score}} for index, score in enumerate(scores)]
        (folder / "halueval-qa.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
        identity = {"data": "d", "seed": 0, "prompt": "extsub", "limit": None, "model": name}
        results = {
            "model": {"base": "b", "adapter": None},
            "tasks": {"halueval-qa": {"accuracy_sum": {"value": 0.5, "ci95": [0, 1], "n": len(scores)}}},
            "runs": {"halueval-qa": {"identity": identity}},
        }
        (folder / "results.json").write_text(json.dumps(results))
    done = extsub("compare", "one", "two", "--json")
    assert done.returncode == 0, done.stderr
    difference = json.loads(done.stdout)["tasks"]["halueval-qa"]["accuracy_sum"][1]["difference"]
    assert difference["value"] == pytest.approx(8 / 11)
    assert difference["p"] == pytest.approx(2 / 2**8)  # McNemar's: eight coins that all fall the same way


def test_a_card_for_the_hub_with_scores(extsub, tmp_path: Path) -> None:
    assert extsub("combine", "expert", "anti_expert", "-o", "better").returncode == 0
    digest = hashlib.sha256((tmp_path / "better" / "adapter_model.safetensors").read_bytes()).hexdigest()
    results = {
        "model": {"base": "b", "base_commit": None, "base_sha256": "f" * 64, "adapter": {"weights_sha256": digest}},
        "tasks": {"halueval-qa": {"accuracy_sum": {"value": 0.5, "ci95": [0.25, 0.75], "n": 11}}},
        "runs": {"halueval-qa": {"identity": {"data": "d", "limit": None}, "data": "qa.json"}},
    }
    (tmp_path / "results.json").write_text(json.dumps(results))
    done = extsub("push", "better", "ann/better", "--scores", ".", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "PeftModel.from_pretrained(model, 'ann/better')" in done.stdout
    assert "| halueval-qa | accuracy\\_sum ↑ | 0.50 [0.25, 0.75] | 11 |" in done.stdout


def test_a_pickle_is_refused_with_the_way_to_read_it(extsub, tmp_path: Path) -> None:
    (tmp_path / "expert" / "adapter_model.safetensors").unlink()
    with zipfile.ZipFile(tmp_path / "expert" / "adapter_model.bin", "w") as file:
        file.writestr("adapter_model/data.pkl", pickle.dumps({}))
    done = extsub("combine", "expert", "anti_expert", "-o", "better")
    assert done.returncode == 2
    assert "adapter_model.bin is a pickle, which only PyTorch reads" in done.stderr
    assert "pip install 'extsub[" in done.stderr
    assert not (tmp_path / "better").exists()


def test_in_python(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom extsub import combine, inspect, save_adapter\n"
        "expert, anti = sys.argv[1:3]\nprint(inspect(expert, anti).to_dict()['modules'][:1])\n"
        "save_adapter(combine(expert, anti), sys.argv[3])\n"
        "assert not {'torch', 'transformers', 'peft', 'matplotlib'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-c", code, GOLDEN / "expert", GOLDEN / "anti_expert", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "README.md").is_file()
