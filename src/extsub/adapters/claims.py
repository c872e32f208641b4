"""What adapter_config.json claims of the tensors beside it, held against them.

Where the tensors say something, they decide; a claim that contradicts them is refused or noted, never followed.

| field | what decides |
|---|---|
| `peft_type` | the config; tensors of another kind are refused |
| `r`, `rank_pattern` | both: a rank that the shapes do not have is refused, for the scale is divided by it |
| `init_r` (AdaLoRA) | the config, for the scale; the ranks are the tensors' |
| `lora_alpha`, `alpha_pattern`, `use_rslora` | the config: a scale leaves no trace; 0 is refused |
| `init_lora_weights` | the config: whether the base was changed leaves no trace |
| `fan_in_fan_out`, `layer_replication` | the config: they are about the base |
| `target_modules`, `exclude_modules`, `layers_to_transform`, `layers_pattern` | the tensors; noted if PEFT differs |
| `target_parameters` | the config says what is a parameter, the tensors which are there and which way round |
| `feedforward_modules` (IA3) | the shapes; the config where a vector has one dimension |
| `bias` | the tensors: biases are refused whatever it says |
| `modules_to_save` | the tensors; noted where the file lacks one |
| `ensure_weight_tying` | the tensors: it says something of embeddings and heads only |
| `use_dora`, `lora_bias`, `trainable_token_indices` | both: refused if the config or the tensors say so |
| `num_virtual_tokens`, `num_layers`, `token_dim` (prefix) | both must agree; the heads are the tensors' |
| `use_qalora`, `use_bdlora`, `megatron_config`, `kasa_config`, ... | the config, and it is refused |
| `peft_version` | the tensors; the config where they leave open how fused experts are stored |
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping
from typing import Any

from extsub.adapters import config as fields
from extsub.adapters.keys import HEADS, VOCABULARY, Keys
from extsub.adapters.names import ends_of, runs_of
from extsub.errors import ExtSubError
from extsub.escaping import brief, shown

# Fields that promise tensors of their own: (what their names contain, why the adapter cannot be combined)
PROMISES = {
    "use_dora": ("lora_magnitude_vector", "DoRA rescales the base weights, so its change is known only with them"),
    "lora_bias": ("lora_B.bias", "it adds a bias that servers cannot carry"),
    "trainable_token_indices": (
        "trainable_tokens_delta",
        "trained token embeddings are absolute values, not a change",
    ),
}


def refuse_promises(config: Mapping[str, Any], where: str) -> None:
    """Refuse a config that promises tensors which cannot be combined and which, by now, the file is known to lack.

    Raises:
        ExtSubError: they were lost, or the field is wrong; PEFT would make new ones.
    """
    for name, (mark, reason) in PROMISES.items():
        if config.get(name):
            raise ExtSubError(
                f"{where}: {name} is {shown(config[name])} in adapter_config.json: {reason}; the file has no {mark}: "
                "they were lost, or the field is wrong; remove it if the adapter was trained without"
            )


def check_claims(config: Mapping[str, Any], keys: Keys, layers: Collection[str], where: str) -> list[str]:
    """What a careful user should know of a config that says otherwise than its file.

    ``layers`` are those that ``target_modules`` would have to reach.

    Raises:
        ExtSubError: a claim that nothing in the file can settle.
    """
    notes = []
    if (bias := config.get("bias")) not in (None, "none"):
        if bias not in ("all", "lora_only"):
            raise ExtSubError(f"{where}: bias is {shown(bias)} in adapter_config.json, expected none, all or lora_only")
        notes.append(f"bias is {bias}, and the file has no biases: taken to be of a base without")
    tied = [name for name in (*layers, *keys.copies) if not set(name.split(".")).isdisjoint(VOCABULARY)]
    if fields.flag(config, "ensure_weight_tying", where) and tied:
        raise ExtSubError(
            f"{where}: ensure_weight_tying is True in adapter_config.json, and the file has {brief(tied[0])}: a tied "
            "head would be stored twice and could come apart"
        )
    whole = {run for key in keys.copies for run in runs_of(key)}
    whole |= set(HEADS) if not whole.isdisjoint(HEADS) else set()  # PEFT lists every name that a head may have
    if lacking := [name for name in fields.names(config, "modules_to_save", where) if name not in whole]:
        notes.append(f"modules_to_save names {brief(lacking[0])}, which the file lacks: if it was trained, it was lost")
    reached = _reached(config, where)
    if left_out := [name for name in layers if not reached(name)]:
        notes.append(
            f"{len(left_out)} of {len(layers)} layers, first {brief(left_out[0])}, are not what the config names: PEFT "
            "would leave them out, here they count"
        )
    return notes


def _reached(config: Mapping[str, Any], where: str) -> Callable[[str], bool]:
    """Whether PEFT finds a layer by the lists in ``config``. Its patterns are taken to fit."""
    if not isinstance(config.get("target_modules"), list):
        return lambda name: True
    wanted = set(fields.names(config, "target_modules", where))
    excluded = config.get("exclude_modules")
    unwanted = set(fields.names(config, "exclude_modules", where)) if isinstance(excluded, list) else set()
    whole = set(fields.names(config, "modules_to_save", where))
    numbers, pattern = config.get("layers_to_transform"), config.get("layers_pattern")
    numbers = {
        str(number) for number in (numbers if isinstance(numbers, list) else [numbers] if numbers is not None else [])
    }
    lists = {pattern} if isinstance(pattern, str) else set(fields.names(config, "layers_pattern", where))
    lists.discard("")

    def reached(name: str) -> bool:
        ends = set(ends_of(name))
        if ends.isdisjoint(wanted) or not ends.isdisjoint(unwanted) or not whole.isdisjoint(runs_of(name)):
            return False
        if not numbers or name in wanted:
            return True
        steps = enumerate(itertools.pairwise(name.split(".")), start=1)
        layers = (
            after for depth, (before, after) in steps if after.isdecimal() and (before in lists if lists else depth > 1)
        )
        return next(layers, None) in numbers

    return reached
