"""The keys of an adapter file, told apart: which belong to which module, which are copies of base weights, which
nobody should have put there. PEFT ignores keys that it does not know, or lets them overwrite the base; here every
key is either understood or refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field

from extsub.adapters.adapter import PREFIX
from extsub.errors import ExtSubError
from extsub.escaping import brief

# Left in the keys by torch.compile, FSDP, activation checkpointing and DataParallel.
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")

# Heads that PEFT stores whole for classifiers even where modules_to_save is null, and resized vocabularies.
HEADS = ("score", "classifier", "pre_classifier", "qa_outputs")
VOCABULARY = ("embed_tokens", "lm_head", "wte", "word_embeddings", "embed_in", "embed_out", "shared")

# (what a key contains, why its adapter cannot be combined), the most telling first
_OTHER_ADAPTERS = (
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
    """module name to {suffix: key}"""

    copies: dict[str, str] = field(default_factory=dict)
    """clean key to key: whole tensors that replace the base model's"""

    base_layers: dict[str, str] = field(default_factory=dict)
    """clean key to key: the base weights under adapted embeddings, unchanged"""

    notes: list[str] = field(default_factory=list)


def sort_keys(
    keys: Collection[str], suffixes: Collection[str], saved: Collection[str], where: str, ignored: Collection[str] = ()
) -> Keys:
    """Tell ``keys`` apart for an adapter whose tensors end in one of ``suffixes``.

    ``saved`` are the modules that the config says are stored whole, ``ignored`` suffixes that carry nothing.

    Raises:
        ExtSubError: a key is none of these.
    """
    result = Keys()
    unknown = []
    for clean, key in _clean(list(keys), where, result.notes).items():
        name = clean.removeprefix(PREFIX)
        suffix = next((end for end in suffixes if name.endswith(f".{end}")), None)
        if not clean.startswith(PREFIX) or name.startswith((PREFIX, "module.")):
            unknown.append(key)
        elif suffix:
            result.modules.setdefault(name.removesuffix(f".{suffix}"), {})[suffix] = key
        elif name.endswith(tuple(f".{end}" for end in ignored)):
            pass
        elif name.endswith(".base_layer.weight"):
            result.base_layers[clean] = key
        elif _is_copy(name, saved):
            result.copies[clean] = key
        else:
            unknown.append(key)
    stray = [key for clean, key in result.base_layers.items() if not _under_embedding(clean, result)]
    if unknown or stray:
        raise ExtSubError(_explain(sorted(unknown + stray), where))
    if not result.modules:
        raise ExtSubError(f"{where}: none of its {len(keys)} tensors belongs to an adapter of its peft_type")
    if result.base_layers:
        result.notes.append(
            f"{len(result.base_layers)} base weights under adapted embeddings count as unchanged and are left out"
        )
    return result


def _clean(keys: list[str], where: str, notes: list[str]) -> dict[str, str]:
    """Clean key to key, without what compilers and wrappers leave behind, where all keys have it."""
    clean = {key: key for key in keys}
    for wrapper in _WRAPPERS:
        if all(wrapper in key for key in clean):
            clean = {key.replace(wrapper, ""): original for key, original in clean.items()}
            notes.append(f"all keys carry {wrapper!r}, which was dropped")
    for extra, kept in ((f"module.{PREFIX}", PREFIX), (f"{PREFIX}module.", PREFIX), (PREFIX + PREFIX, PREFIX)):
        if all(key.startswith(extra) for key in clean):
            clean = {kept + key.removeprefix(extra): original for key, original in clean.items()}
            notes.append(f"all keys start with {extra!r}, read as {kept!r}")
    if any(".default" in key for key in clean):
        clean = {re.sub(r"\.default(?=\.|$)", "", key): original for key, original in clean.items()}
        notes.append("keys carry the adapter name '.default', which was dropped")
    if len(clean) < len(keys):
        raise ExtSubError(f"{where}: several of its tensors have the same name apart from wrapper names: keep one set")
    return clean


def _under_embedding(base_layer_key: str, keys: Keys) -> bool:
    """Whether PEFT stores this base weight of its own accord: that of an adapted embedding or head."""
    name = base_layer_key.removeprefix(PREFIX).removesuffix(".base_layer.weight")
    suffixes = keys.modules.get(name, {})
    return "lora_embedding_A" in suffixes or (bool(suffixes) and name.rpartition(".")[2] in VOCABULARY)


def _is_copy(name: str, saved: Collection[str]) -> bool:
    """Whether a tensor belongs to a module stored whole: one the config names, a head, or a vocabulary."""
    if any(mark in name for mark, _ in _OTHER_ADAPTERS):
        return False
    path = f".{name.rpartition('.')[0]}."
    leaf = path.rstrip(".").rpartition(".")[2]
    return any(f".{module}." in path for module in (*saved, *HEADS)) or leaf in VOCABULARY


def _explain(keys: list[str], where: str) -> str:
    examples = ", ".join(map(brief, keys[:3])) + (", ..." if len(keys) > 3 else "")
    if not any(key.startswith(PREFIX) for key in keys):
        return (
            f"{where}: {len(keys)} keys do not start with {PREFIX!r} ({examples}): the file was not saved by PEFT's "
            "save_pretrained; save it so, or rename the keys"
        )
    doubled = [key for key in keys if key.startswith((PREFIX + PREFIX, f"{PREFIX}module."))]
    if doubled:
        return f"{where}: {brief(doubled[0])} repeats its prefix, and not all keys do: save it with save_pretrained"
    for mark, reason in _OTHER_ADAPTERS + _BASE_TENSORS:
        found = [key for key in keys if mark in key]
        if found:
            return f"{where}: {brief(found[0])} cannot be combined: {reason} ({len(keys)} such tensors)"
    return f"{where}: {len(keys)} tensors that extsub does not know ({examples}): remove them, or ask for support"
