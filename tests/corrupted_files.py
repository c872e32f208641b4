"""Files as nobody should write them: valid ones, with edits that Hypothesis chooses."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

import adapter_files
from adapter_files import PREFIX
from extsub.adapters import ia3, lora, prefix

LAYERS = {adapter_files.Q: (12, 8), adapter_files.V: (6, 8)}

GONE = object()
"""in the place of a value: the field is not there"""

TEXTS = (
    *(
        "",
        "x" * 5000,
        "a\nb",
        "\x1b[31mred",
        "\ud800",
        "\u202e",
        "\0",
        "'\"`$(touch x)`;",
        "[/b]<script>",
        "a$\\frac$b",
    ),
    *(
        "../../x",
        "/dev/zero",
        "q_proj",
        "model.layers.0.self_attn.q_proj",
        r".*\.q_proj",
        "all-linear",
        "lora_A.weight",
    ),
    *("(.*)*x", "([a-z_.0-9]+)+!", "((.|..)*)*#", "(a|a)*$", "(a?){40}a{40}!", ".*" * 8 + "x", r"(.)\1", "(?=(.*)*x)"),
    *("(", ")", "a)|(b", "(?i)q_proj", "{", "*", "[", "\\", "(" * 300, "a{99999}{9}", "pissa", "gaussian", "float16"),
)
NUMBERS = (0, 1, 2, 3, 4, -1, 7, 2**31, 2**63, 10**400, 0.5, -0.0, 1e-320, 1e308, 1e309, float("nan"))
PLAIN = st.sampled_from([None, True, False, *NUMBERS, *TEXTS])
VALUES = st.recursive(
    PLAIN | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(TEXTS) | st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
"""what a JSON file may hold, and some that it may not"""

EXPRESSIONS = st.dictionaries(
    st.sampled_from(["rank_pattern", "alpha_pattern", "target_modules", "exclude_modules", "modules_to_save"]),
    st.sampled_from(TEXTS) | st.dictionaries(st.sampled_from(TEXTS), st.just(3), min_size=1, max_size=3),
    max_size=2,
)

FIELDS = sorted(lora.KNOWN_FIELDS | set(lora.REFUSED_FIELDS) | ia3.KNOWN_FIELDS | prefix.KNOWN_FIELDS | {"new", "\x1b"})
SUFFIXES = (*lora.SUFFIXES, "ia3_l", "lora_magnitude_vector", "lora_B.bias", "base_layer.weight", "weight", "lora_a")
KEYS = st.sampled_from(
    [
        *(
            f"{PREFIX}{name}.{suffix}"
            for name in (adapter_files.Q, "lm_head", "x" * 500, "a\nb", "é")
            for suffix in SUFFIXES
        ),
        *(f"{PREFIX}{key}" for key in ("_orig_mod.x.lora_A.weight", "x.default.lora_A.weight", "module.x.ia3_l")),
        *("prompt_embeddings", "", "weight", f"{PREFIX}{PREFIX}x.lora_A.weight"),
        *TEXTS,
    ]
)
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 8, 12]), max_size=5)
DTYPES = ("float64", "float16", "bfloat16", "int8", "bool", "complex64")

TENSOR_EDITS = st.tuples(st.integers(0, 7)).flatmap(
    lambda place: st.one_of(
        st.tuples(st.just("drop"), st.just(place[0]), st.none()),
        st.tuples(st.just("rename"), st.just(place[0]), KEYS),
        st.tuples(st.just("copy"), st.just(place[0]), KEYS),
        st.tuples(st.just("shape"), st.just(place[0]), SHAPES),
        st.tuples(st.just("dtype"), st.just(place[0]), st.sampled_from(DTYPES)),
        st.tuples(st.just("fill"), st.just(place[0]), st.sampled_from([0.0, 1.0, 1e-45, 3e38, float("nan")])),
    )
)
BYTE_EDITS = st.tuples(
    st.sampled_from(["cut", "insert", "replace", "remove", "repeat"]),
    st.floats(0, 1),
    st.binary(min_size=1, max_size=9),
)
HEADER_EDITS = st.tuples(
    st.integers(0, 7), st.sampled_from(["dtype", "shape", "data_offsets", "more"]), PLAIN | st.lists(PLAIN, max_size=3)
)


@dataclass(frozen=True)
class Spoilt:
    """An adapter of some kind, and what is wrong with it."""

    kind: str
    fields: dict[str, Any]
    tensors: Sequence[tuple[str, int, Any]] = ()
    header: Sequence[tuple[int, str, Any]] = ()
    config_bytes: Sequence[tuple[str, float, bytes]] = ()
    weights_bytes: Sequence[tuple[str, float, bytes]] = ()
    pickled: bool = False
    expressions: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path, seed: int) -> Path:
        """The folder; other seeds have other numbers and the same faults."""
        config, tensors = whole(self.kind, seed)
        config |= self.expressions | self.fields
        text = json.dumps({name: value for name, value in config.items() if value is not GONE})
        for edit in self.tensors:
            tensors = edited(tensors, *edit)
        weights = pickled(tensors) if self.pickled else packed(tensors, self.header)
        folder.mkdir(parents=True)
        (folder / "adapter_config.json").write_bytes(spoil(text.encode(), self.config_bytes))
        name = "adapter_model.bin" if self.pickled else "adapter_model.safetensors"
        (folder / name).write_bytes(spoil(weights, self.weights_bytes))
        return folder


def few(edit: st.SearchStrategy[Any], most: int = 2) -> st.SearchStrategy[Any]:
    """None, mostly."""
    return st.just(()) | st.lists(edit, max_size=most)


ADAPTERS = st.builds(
    Spoilt,
    kind=st.sampled_from(["lora", "lora", "patterns", "embedding", "conv", "experts", "adalora", "ia3", "prefix"]),
    fields=st.dictionaries(st.sampled_from(FIELDS), VALUES | st.just(GONE), max_size=3),
    tensors=few(TENSOR_EDITS),
    header=few(HEADER_EDITS),
    config_bytes=few(BYTE_EDITS),
    weights_bytes=few(BYTE_EDITS),
    pickled=st.booleans(),
    expressions=st.just({}) | EXPRESSIONS,
)


def whole(kind: str, seed: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and tensors of a valid adapter."""
    chance = torch.Generator().manual_seed(seed)

    def tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
        return {f"{PREFIX}{key}": torch.randn(shape, generator=chance) for key, shape in shapes.items()}

    config, q = adapter_files.lora_config(3), adapter_files.Q
    if kind == "patterns":
        more = {
            "rank_pattern": {"v_proj": 3, ".*q_proj": 3},
            "alpha_pattern": {"self_attn.q_proj": 5},
            "use_rslora": True,
        }
        return config | more, adapter_files.factors(LAYERS, seed=seed)
    if kind == "embedding":
        shapes = {"model.embed_tokens.lora_embedding_A": (3, 9), "model.embed_tokens.lora_embedding_B": (8, 3)}
        return config | {"target_modules": ["embed_tokens"]}, tensors(shapes)
    if kind == "conv":
        return config, tensors({"q_proj.lora_A.weight": (3, 2, 3, 3), "q_proj.lora_B.weight": (4, 3, 1, 1)})
    if kind == "experts":
        more = {"target_modules": [], "target_parameters": ["mlp.experts.gate_up_proj"]}
        return config | more, tensors({"mlp.experts.lora_A.weight": (6, 5), "mlp.experts.lora_B.weight": (7, 6)})
    if kind == "adalora":
        shapes = {f"{q}.lora_A": (3, 8), f"{q}.lora_B": (12, 3), f"{q}.lora_E": (3, 1)}
        return config | {
            "peft_type": "ADALORA",
            "init_r": 3,
            "target_r": 2,
            "total_step": 9,
            "target_modules": ["q_proj"],
        }, tensors(shapes)
    if kind == "ia3":
        more = {"peft_type": "IA3", "target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
        return {"task_type": "CAUSAL_LM", "base_model_name_or_path": adapter_files.BASE} | more, tensors(
            {f"{q}.ia3_l".replace("q_", "k_"): (6, 1), "model.layers.0.mlp.down_proj.ia3_l": (1, 8)}
        )
    if kind == "prefix":
        sizes = {"num_virtual_tokens": 3, "num_layers": 1, "num_attention_heads": 2, "token_dim": 12}
        config = {"peft_type": "PREFIX_TUNING", "task_type": "CAUSAL_LM", "num_transformer_submodules": 1}
        return config | sizes, {"prompt_embeddings": torch.randn(3, 12, generator=chance)}
    return config, adapter_files.factors(LAYERS, seed=seed)


def edited(tensors: dict[str, Tensor], what: str, place: int, how: Any) -> dict[str, Tensor]:
    """``tensors`` with one of them changed."""
    if not tensors:
        return tensors
    key = sorted(tensors)[place % len(tensors)]
    chosen, others = tensors[key], {name: tensor for name, tensor in tensors.items() if name != key}
    if what == "drop":
        return others
    if what in ("rename", "copy"):
        return (tensors if what == "copy" else others) | {how: chosen}
    if what == "shape":
        return others | {key: torch.ones(how)}
    return others | {key: chosen.to(getattr(torch, how)) if what == "dtype" else torch.full_like(chosen, how)}


def packed(tensors: dict[str, Tensor], edits: Sequence[tuple[int, str, Any]] = ()) -> bytes:
    """A safetensors file, with edits of its header."""
    names = {torch.float64: "F64", torch.float16: "F16", torch.bfloat16: "BF16", torch.int8: "I8", torch.bool: "BOOL"}
    header, data = {}, b""
    for key, tensor in tensors.items():
        content = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        dtype = names.get(tensor.dtype, "C64" if tensor.is_complex() else "F32")
        header[key] = {"dtype": dtype, "shape": [*tensor.shape], "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    for place, name, value in edits:
        if header:
            header[sorted(header)[place % len(header)]][name] = value
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def pickled(tensors: dict[str, Tensor]) -> bytes:
    """A PyTorch file."""
    file = io.BytesIO()
    torch.save(tensors, file)
    return file.getvalue()


def spoil(content: bytes, edits: Sequence[tuple[str, float, bytes]]) -> bytes:
    """``content`` with bytes changed; a place is a part of its length."""
    for what, part, other in edits:
        place, size = int(part * len(content)), len(other)
        before, here, after = content[:place], content[place : place + size], content[place + size :]
        new = {"cut": b"", "remove": after, "insert": other + here + after, "replace": other + after}
        content = before + new.get(what, here * 3 + after)
    return content
