"""The keys of an adapter file, told apart: which belong to which module, which are copies of base weights, which
nobody should have put there. PEFT ignores keys that it does not know, or lets them overwrite the base; here every
key is either understood or refused.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from extsub.adapters.adapter import PREFIX
from extsub.adapters.names import last_part, runs_of, without_wrappers
from extsub.adapters.tensors import TensorInfo
from extsub.errors import ExtSubError, counted
from extsub.escaping import brief

# PEFT's prefix, which some tools repeat, with DistributedDataParallel's around any part of it.
_FRONT = re.compile(r"(module\.)*(base_model\.(module\.)*model\.(module\.)*)+")

# The name of the adapter, which PEFT leaves out when it saves: lora_A.NAME.weight, lora_embedding_A.NAME
_NAMED = re.compile(r"\.(lora_\w+|ia3_l)\.(?!weight$|bias$)([^.]+)(?=\.weight$|\.bias$|$)")
_STORED_WHOLE = re.compile(r"\.(modules_to_save)\.([^.]+)(?=\.)")

# Heads that PEFT stores whole for classifiers even where modules_to_save is null, and resized vocabularies.
HEADS = ("score", "classifier", "pre_classifier", "qa_outputs")
VOCABULARY = ("embed_tokens", "lm_head", "wte", "word_embeddings", "embed_in", "embed_out", "shared")

# (what a key contains, why its adapter cannot be combined), the most telling first
_OTHER_ADAPTERS = (
    ("flat_param", "it is a flat parameter of FSDP, which holds many tensors in one: save the full state instead"),
    ("lora_magnitude_vector", "DoRA rescales the base weights, so its change is known only with them"),
    ("lora_B.bias", "lora_bias adds a bias that servers cannot carry"),
    ("lora_diag", "KaSA changes the base weights when it is loaded"),
    ("lora_monteclora", "MonteCLoRA samples its weights"),
    ("trainable_tokens_delta", "trained token embeddings are absolute values, not a change"),
    ("hada_", "these are LoHa tensors"),
    ("lokr_", "these are LoKr tensors"),
    ("lora_down", "this is the kohya layout, not PEFT's"),
    ("lora_up", "this is the kohya layout, not PEFT's"),
    ("lora_a", "this is the MLX layout, not PEFT's"),
    ("prompt_embeddings", "these are tensors of prefix or prompt tuning"),
    ("ia3_l", "these are IA3 tensors"),
    ("lora_", "these are LoRA tensors"),
)
_BASE_TENSORS = (
    (".base_layer.", "it would overwrite a weight of the base model"),
    (".bias", "it is an absolute bias, which loading would put over the base model's own"),
    (".weight", "it is a weight of the base model, which loading would overwrite"),
)


@dataclass
class Keys:
    """The keys of one file by meaning. Values are the keys as the file spells them."""

    modules: dict[str, dict[str, str]] = field(default_factory=dict)
    """Each module name, and its {suffix: key}."""

    copies: dict[str, str] = field(default_factory=dict)
    """Clean key to key of whole tensors that replace the base model's."""

    base_layers: dict[str, str] = field(default_factory=dict)
    """Clean key to key of the base weights under adapted embeddings, unchanged."""

    notes: list[str] = field(default_factory=list)


def sort_keys(
    tensors: Mapping[str, TensorInfo],
    suffixes: Collection[str],
    saved: Collection[str],
    where: str,
    ignored: Collection[str] = (),
) -> Keys:
    """Tell the keys of ``tensors`` apart for an adapter whose tensors end in one of ``suffixes``.

    ``saved`` are the modules that the config says are stored whole, ``ignored`` suffixes that carry nothing.

    Raises:
        ExtSubError: a key is none of these, two mean the same tensor, or a tensor is empty that should not be.
    """
    result = Keys()
    unknown: dict[str, str] = {}
    whole = {*saved, *HEADS}
    for clean, key in _clean(list(tensors), where, result.notes).items():
        name = clean.removeprefix(PREFIX)
        suffix = next((end for end in suffixes if name.endswith(f".{end}")), None)
        if not clean.startswith(PREFIX):
            unknown[clean] = key
        elif suffix:
            result.modules.setdefault(name.removesuffix(f".{suffix}"), {})[suffix] = key
        elif name.endswith(tuple(f".{end}" for end in ignored)):
            pass
        elif name.endswith(".base_layer.weight"):
            result.base_layers[clean] = key
        elif _is_copy(name, whole):
            result.copies[clean] = key
        else:
            unknown[clean] = key
    unknown |= {clean: key for clean, key in result.base_layers.items() if not _under_embedding(clean, result)}
    if unknown:
        raise ExtSubError(_explain(dict(sorted(unknown.items())), where))
    if not result.modules:
        raise ExtSubError(f"{where}: none of its {len(tensors)} tensors belongs to an adapter of its peft_type")
    _leave_out_placeholders(result, tensors, where)
    if result.base_layers:
        result.notes.append(
            f"base weights under adapted embeddings, taken as unchanged and left out: {len(result.base_layers):,}"
        )
    return result


def _clean(keys: list[str], where: str, notes: list[str]) -> dict[str, str]:
    """Clean key to key, without what training left in them. Each key by itself: some layers are wrapped, others not."""
    clean: dict[str, str] = {}
    left_out: Counter[str] = Counter()
    adapters: set[str] = set()
    bases = 0
    for key in keys:
        name, removed = without_wrappers(key)
        if ".original_module." in name:
            bases += 1
            continue
        front = _FRONT.match(name)
        if front and front[0] != PREFIX:
            removed.append("module" if "module." in front[0] else f"a second {PREFIX.rstrip('.')}")
            name = PREFIX + name[front.end() :]
        if named := _NAMED.search(name):
            name = _NAMED.sub(r".\1", name)
        elif named := _STORED_WHOLE.search(name):
            name = _STORED_WHOLE.sub("", name)
        if named:
            adapters.add(named[2])
        left_out.update(set(removed))
        if name in clean:
            raise ExtSubError(f"{where}: {brief(clean[name])} and {brief(key)} both mean one tensor: keep one of them")
        clean[name] = key
    if len(adapters) > 1:
        raise ExtSubError(
            f"{where}: it holds several adapters ({', '.join(map(brief, sorted(adapters)[:3]))}): save one of them"
        )
    notes += [f"{what} was left out of {number} of {len(keys)} keys" for what, number in sorted(left_out.items())]
    notes += [f"the name of the adapter, {brief(name)}, was left out of the keys" for name in adapters]
    notes += [f"{bases} tensors under original_module are the base's own and are left out"] if bases else []
    return clean


def _leave_out_placeholders(keys: Keys, tensors: Mapping[str, TensorInfo], where: str) -> None:
    """Layers of which the file has nothing but empty tensors: training services write them where a model lacks one.

    Raises:
        ExtSubError: nothing is left, or some tensors of a layer are empty and others are not.
    """

    def is_empty(key: str) -> bool:
        return not math.prod(tensors[key].shape)

    empty = []
    for name, by_suffix in keys.modules.items():
        # AdaLoRA, rank 0
        pruned = "lora_E" in by_suffix and all(len(tensors[key].shape) == 2 for key in by_suffix.values())
        if pruned or "ia3_l" in by_suffix:
            continue
        if all(map(is_empty, by_suffix.values())):
            empty.append(name)
        elif half := next(filter(is_empty, by_suffix.values()), None):
            raise ExtSubError(_sharded(half, tensors, where))
    whole = [*keys.copies.values(), *keys.base_layers.values()]
    if len(empty) == len(keys.modules):
        whole += keys.modules[empty[0]].values()
    if missing := next(filter(is_empty, whole), None):
        raise ExtSubError(_sharded(missing, tensors, where))
    for name in empty:
        del keys.modules[name]
    if empty:
        keys.notes.append(
            f"{counted(len(empty), 'layer')} of empty tensors alone, first {brief(empty[0])}: taken for placeholders, "
            "left out; if they were trained, export the adapter again"
        )


def _sharded(key: str, tensors: Mapping[str, TensorInfo], where: str) -> str:
    return (
        f"{where}: {brief(key)} is empty, of shape {list(tensors[key].shape)}: it was saved from a sharded model "
        "(DeepSpeed ZeRO-3 or FSDP) without gathering it first: export the adapter again"
    )


def _under_embedding(base_layer_key: str, keys: Keys) -> bool:
    """Whether PEFT stores this base weight of its own accord: that of an adapted embedding or head."""
    name = base_layer_key.removeprefix(PREFIX).removesuffix(".base_layer.weight")
    suffixes = keys.modules.get(name, {})
    return "lora_embedding_A" in suffixes or (bool(suffixes) and last_part(name) in VOCABULARY)


def _is_copy(name: str, whole: Collection[str]) -> bool:
    """Whether a tensor belongs to a module stored whole: one of ``whole``, or a vocabulary."""
    if any(mark in name for mark, _ in _OTHER_ADAPTERS):
        return False
    module = name.rpartition(".")[0]
    return not runs_of(module).isdisjoint(whole) or last_part(module) in VOCABULARY


def _explain(keys: Mapping[str, str], where: str) -> str:
    """Why none of these, clean key to key, can be combined."""
    for mark, reason in _OTHER_ADAPTERS + _BASE_TENSORS:
        marked = [key for clean, key in keys.items() if mark in clean and clean.startswith(PREFIX)]
        if marked:
            return f"{where}: {brief(marked[0])} cannot be combined or merged: {reason} ({len(marked)} such tensors)"
    bare = [key for clean, key in keys.items() if not clean.startswith(PREFIX)]
    some = bare or list(keys.values())
    examples = ", ".join(map(brief, some[:3])) + (", ..." if len(some) > 3 else "")
    if bare:
        return (
            f"{where}: {len(bare)} keys do not start with {PREFIX!r} ({examples}): the file was not saved by PEFT's "
            "save_pretrained; save it so, or rename the keys"
        )
    return f"{where}: {len(keys)} tensors that extsub does not know ({examples}): remove them, or ask for support"
