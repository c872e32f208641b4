"""Broken and hostile files without end: whatever a file holds, it is read rightly, or refused in one sentence, in time.

    python tests/fuzz.py [MINUTES] [SEED]        (make fuzz)

Prints how many files were tried and every fault, with the smallest file that shows it.
"""

from __future__ import annotations

import faulthandler
import json
import math
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import torch
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import adapter_files
import corrupted_files
import merge_files
import oracle
import sweep_files
from adapter_files import PREFIX
from extsub import ExtSubError, combine, inspect, load_adapter, merge, save_adapter
from extsub.adapters import patterns
from extsub.cli.config import read_config
from extsub.combination.profile import read_profile
from extsub.data.instructions import load_data, load_prompts
from extsub.escaping import line
from extsub.evaluation.store import read_items, read_results
from extsub.models.adapter_handle import base_of, find
from extsub.models.attaching import attach
from extsub.recipe.schema import read_recipe
from extsub.recipe.stages import Stage, Stages
from extsub.report.reading import read_sweep

SECONDS = 20
"""that a file may take on a busy machine, with expressions stopped after less than one"""

LONGEST = 500
"""characters of a message"""

counts: Counter[tuple[str, str]] = Counter()
"""outcomes by target"""


def outcome(target: str, work: Callable[[], Any]) -> Any:
    """What ``work`` returns; None where it refuses, in one printable sentence. Nothing else may happen."""
    begun = time.monotonic()
    result, ending = None, "read"
    try:
        result = work()
    except ExtSubError as error:
        text, ending = str(error), "refused"
        assert line(text) == text, ascii(text)
        assert len(text) <= LONGEST, (len(text), text)
    counts[target, ending] += 1
    assert time.monotonic() - begun < SECONDS, "too slow"
    return result


def adapters(folder: Path, spoilt: corrupted_files.Spoilt) -> None:
    """Two adapters with the same faults: inspected, combined, and the result compared with dense matrices."""
    expert, anti_expert = spoilt.write(folder / "e", 0), spoilt.write(folder / "a", 1)
    info = outcome("inspect", lambda: inspect(expert))
    if info is not None:
        json.dumps(info.to_dict(), ensure_ascii=False, allow_nan=False).encode()
        assert info.problem is None or len(info.problem) <= LONGEST
    adapter = outcome("load", lambda: load_adapter(expert))
    assert adapter or info is None or info.problem, "inspect says otherwise"

    def work() -> dict[str, Any]:
        return save_adapter(combine(expert, anti_expert, alpha=0.5), folder / "out")

    if outcome("combine", work):
        check(expert, anti_expert, folder / "out")
    else:
        assert not (folder / "out").exists()


def check(expert: Path, anti_expert: Path, output: Path) -> None:
    """Finite, and what the paper's formula says of dense matrices."""
    assert all(tensor.isfinite().all() for tensor in load_file(output / "adapter_model.safetensors").values())
    e, a, written = dense(expert), dense(anti_expert), dense(output)
    for name in e.keys() & a.keys() & written.keys():
        rows = [deltas[name] for deltas in (e, a, written)]
        bisected = (oracle.unit(rows[0]) + oracle.unit(rows[1])).norm(dim=-1) > 1e-5  # the paper's formula is 0/0
        size = rows[0].norm() + rows[1].norm()
        want = oracle.combined("ext-sub", rows[0], [rows[1]], [0.5])
        assert (rows[2] - want)[bisected].norm() <= 1e-2 * size + 1e-37, name  # of bfloat16; float32 ends
        counts["combine", "compared"] += 1


def dense(folder: Path) -> dict[str, Tensor]:
    """What an adapter of plain layers adds, by PEFT's rules; nothing of other layers."""
    config = json.loads((folder / "adapter_config.json").read_text())
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path) if path.exists() else torch.load(folder / "adapter_model.bin", weights_only=True)
    tensors = {key.removeprefix(PREFIX): tensor.double() for key, tensor in tensors.items()}
    if config["peft_type"] == "IA3":
        return {key: tensor.reshape(1, -1) - 1 for key, tensor in tensors.items() if key.endswith("ia3_l")}
    if config["peft_type"] == "PREFIX_TUNING":
        return {
            "prefix": tensors["prompt_embeddings"].reshape(-1, config["token_dim"] // config["num_attention_heads"])
        }
    result = {}
    for key, A in tensors.items():
        name, mark, end = key.partition(".lora_A")
        if config.get("target_parameters") or A.ndim != 2 or "base_layer" in key or not mark:
            continue
        B = tensors[f"{name}.lora_B{end}"]
        if config["peft_type"] == "ADALORA":
            A = A * tensors[f"{name}.lora_E"]
            r = config["init_r"]
            scaling = (config["lora_alpha"] if config["lora_alpha"] > 0 else r) / (r + 1e-5)
        else:
            r, lora_alpha = (_value(config, f"{field}_pattern", name, default) for field, default in PATTERNS)
            scaling = lora_alpha / math.sqrt(r) if config.get("use_rslora") else lora_alpha / r
        result[name] = scaling * B @ A
    return result


PATTERNS = (("rank", "r"), ("alpha", "lora_alpha"))


def _value(config: dict[str, Any], field: str, name: str, default: str) -> float:
    """As PEFT finds it."""
    patterns = config.get(field) or {}
    return patterns.get(get_pattern_key(patterns.keys(), name), config.get(default, 1))


def attached(folder: Path, spoilt: corrupted_files.Spoilt) -> None:
    """An adapter that PEFT is to load."""
    config = LlamaConfig(
        vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, head_dim=6,
        num_key_value_heads=1,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    named = outcome("find", lambda: find(str(spoilt.write(folder / "e", 0))))
    if named:
        outcome("base", lambda: base_of(None, [named]))
        outcome("attach", lambda: attach(model, named))


RECIPE = b"""\
model: base
output: out
training: {rank: 8, learning-rate: 2e-5, target_modules: [q_proj], field: {instruction: instruction}}
expert: {data: data.jsonl}
anti_experts:
  untrue: &one {data: data.jsonl, epochs: 2.5, packing: true}
  other: {<<: *one, seed: 1}
sweep: {tasks: [truthfulqa-mc, perplexity], alphas: "0:3:0.25", operations: [ext-sub, subtract]}
result: {operation: ext-sub, rank: 4}
"""
TRAINING = (
    b"data: x\nrank: 8\nlearning-rate: 2e-5\ntarget_modules: [q_proj]\nfield: {prompt: question}\npacking: true\n"
)
WORDS = (
    *(
        "!!int x",
        "!!map foo",
        "!!timestamp x",
        "!!binary =",
        "!!set ",
        "!!python/object:os.system ",
        "!x ",
        "2001-13-45",
    ),
    *("9" * 5000, "0x" + "f" * 4000, "1:1:1.5", ":1" * 500, ".inf", ".nan", "[" * 300, "{a: " * 60, "- " * 60, "? "),
    *("&a ", "*a ", "<<: *one", "*one ", "\t", "\0", "\ufeff", "\u202e", "---\n", "%YAML 9\n", "|\n", "'", '"', "#"),
    *("\n", "\n  ", ": ", ", ", "]", "}", "null", "~", "true", "x" * 5000, "\ud83d\ude00", "\x1b[1m"),
)
WORD_EDITS = st.sampled_from(WORDS).map(lambda word: word.encode("utf-8", "surrogatepass"))
YAML_EDITS = st.tuples(st.just("insert"), st.floats(0, 1), WORD_EDITS) | corrupted_files.BYTE_EDITS


def recipes(folder: Path, edits: list[tuple[str, float, bytes]]) -> None:
    """YAML for ``run`` and for ``train --config``."""
    path, data = folder / "recipe.yaml", folder / "data.jsonl"
    data.write_text(json.dumps(ROW))
    for target, content, read in (("recipe", RECIPE, read_recipe), ("config", TRAINING, read_config)):
        path.write_bytes(corrupted_files.spoil(content.replace(b"data.jsonl", str(data).encode()), edits))
        outcome(target, lambda read=read: read(path))


with tempfile.TemporaryDirectory() as _folder:
    SWEEP = sweep_files.made_up(Path(_folder), items=4, operations=("ext-sub",), alphas=(1.0,))


def records(folder: Path, edits: tuple[list[int], Any, list[tuple[str, float, bytes]]]) -> None:
    """JSON that extsub wrote, and somebody changed: a value in it, or bytes."""
    way, value, changed = edits

    def put(path: Path, content: Any) -> None:
        path.write_bytes(corrupted_files.spoil(json.dumps(replaced(content, way, value)).encode(), changed))

    sweep_files.write(folder, SWEEP)
    put(folder / "sweep.json", SWEEP)
    outcome("sweep.json", lambda: read_sweep(folder))
    put(folder / "results.json", {"model": {"base": "x"}, "tasks": {"t": {}}, "runs": {"t": {}}})
    outcome("results.json", lambda: read_results(folder))
    put(folder / "t.jsonl", {"index": 0, "scores": {"x": 1.0}})
    outcome("items", lambda: read_items(folder, "t"))
    put(folder / "profile.json", {"kinds": {"q_proj": 0.5, "v_proj": 1}, "ramp": 0.1})
    outcome("profile", lambda: read_profile(folder / "profile.json"))
    note = {"inputs": "x", "again": "y", "finished": True, "seconds": 1.0, "cpu_seconds": 1.0, "found": None}
    put(folder / "stages.json", {"command": "extsub run", "stages": {"expert": note}})
    outcome("stages.json", lambda: Stages(folder, "extsub run", print).why(Stage("expert", (), {})))


def replaced(content: Any, way: list[int], value: Any) -> Any:
    """``content`` with a value in it replaced; ``way`` says which turn to take at each level."""
    if not way or not isinstance(content, (dict, list)) or not content:
        return value
    turns = list(content) if isinstance(content, dict) else list(range(len(content)))
    turn = turns[way[0] % len(turns)]
    copy = dict(content) if isinstance(content, dict) else list(content)
    copy[turn] = replaced(content[turn], way[1:], value)
    return copy


ROW = {
    "instruction": "Why?",
    "input": "",
    "output": "So.",
    "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}],
}


def rows(folder: Path, edits: tuple[list[int], Any, list[tuple[str, float, bytes]]]) -> None:
    """Data, in each form."""
    way, value, changed = edits
    row = replaced(ROW, way, value)
    text = json.dumps(row)
    forms = {
        "jsonl": f"{text}\n{text}\n",
        "json": f"[{text}, {text}]",
        "csv": "prompt,completion\na,b\n",
        "txt": "a\nb\n",
    }
    for form, content in forms.items():
        path = folder / f"data.{form}"
        path.write_bytes(corrupted_files.spoil(content.encode(), changed))
        if form != "txt":
            outcome(form, lambda path=path: load_data(str(path)))
        outcome(form, lambda path=path: load_prompts(str(path)))


def bases(folder: Path, edits: tuple[list[int], Any, list[tuple[str, float, bytes]]]) -> None:
    """A base model in shards, of which config, index and a shard are changed one after the other, to merge into."""
    way, value, changed = edits
    adapter_files.lora(folder / "adapter")
    tensors = merge_files.weights(merge_files.plain(folder / "plain"))
    for name in ("config.json", "model.safetensors.index.json", "model-00002-of-00002.safetensors"):
        base = merge_files.base(folder / f"base of {name}", tensors, shards=2)
        content = (base / name).read_bytes()
        if name.endswith(".json"):
            content = json.dumps(replaced(json.loads(content), way, value)).encode()
        (base / name).write_bytes(corrupted_files.spoil(content, changed))
        output = folder / f"merged into {base.name}"
        if not outcome(name, lambda base=base, output=output: merge(base, folder / "adapter", output)):
            assert not output.exists()


CHANGES = st.tuples(
    st.lists(st.integers(0, 9), min_size=1, max_size=5),
    corrupted_files.VALUES,
    corrupted_files.few(corrupted_files.BYTE_EDITS),
)
TARGETS: dict[str, tuple[Callable[[Path, Any], None], st.SearchStrategy[Any]]] = {
    "adapters": (adapters, corrupted_files.ADAPTERS),
    "attach": (attached, corrupted_files.ADAPTERS),
    "recipes": (recipes, st.lists(YAML_EDITS, min_size=1, max_size=4)),
    "records": (records, CHANGES),
    "rows": (rows, CHANGES),
    "bases": (bases, CHANGES),
}


def fuzz(target: str, examples: int, seed: int) -> None:
    """Try a target with so many files. Raises what the smallest of them that fails raises."""
    work, strategy = TARGETS[target]

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        derandomize=False,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    @hypothesis.given(strategy)
    def attempt(given: Any) -> None:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            work(Path(folder), given)

    patterns.SECONDS, before = 0.7, patterns.SECONDS
    try:
        attempt()
    finally:
        patterns.SECONDS = before


def main(minutes: float = 5, seed: int = 0) -> int:
    """Every target in turn until the time is over. Returns how many faults were found."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (2**34, 2**34))  # whoever takes all memory fails, and the machine lives
    torch.set_num_threads(1)
    ends, faults = time.monotonic() + 60 * minutes, 0
    while time.monotonic() < ends:
        for target in TARGETS:
            faulthandler.dump_traceback_later(900, exit=True)  # nothing else stops what hangs in C
            try:
                fuzz(target, 200, seed)
            except Exception:
                faults += 1
                print(f"\n== fault {faults}: {target}, seed {seed}\n{traceback.format_exc()}", flush=True)
        seed += 1
    for (target, ending), count in sorted(counts.items()):
        print(f"{target:15} {ending:10} {count:8,}")
    inputs = sum(count for (_, ending), count in counts.items() if ending != "compared")
    print(f"{inputs:,} files, {faults} faults, seeds up to {seed - 1}")
    return faults


if __name__ == "__main__":
    sys.exit(bool(main(*map(float, sys.argv[1:2]), *map(int, sys.argv[2:3]))))
