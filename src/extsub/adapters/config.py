"""adapter_config.json, field by field: what every kind of adapter shares, and how a field is refused by name.

PEFT warns of fields that it does not know and goes on. Here a field either has no effect on the weights, is
understood, is empty, or the adapter is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set
from typing import Any

from extsub.errors import ExtSubError
from extsub.escaping import brief, shown
from extsub.values import LONGEST_TEXT

# Fields of every kind that the weights do not depend on, or that are read where they matter.
COMMON_FIELDS = frozenset(
    "peft_type task_type base_model_name_or_path revision inference_mode auto_mapping peft_version runtime_config "
    "target_modules exclude_modules layers_to_transform layers_pattern fan_in_fan_out modules_to_save".split()
)

LARGEST = 1e300
"""Beyond this no number in a config is meant."""

LARGEST_WHOLE = 2**31
"""Beyond this no rank or count is meant."""

_SOFT_TOKENS = "its soft tokens are absolute and have no common origin to subtract from"
_ABSOLUTE = "it stores absolute values, and what it adds is known only with the base model's weights"
_MULTIPLIES = "it rotates or multiplies the base weights instead of adding to them"
_OWN_BASIS = "its parameters live in a basis of their own (seeds, masks, shared or base-dependent projections)"
_CONVERTIBLE = "extsub does not convert it to LoRA"

REFUSED_KINDS = {
    **dict.fromkeys(("PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "CPT", "CARTRIDGE"), _SOFT_TOKENS),
    **dict.fromkeys(("LN_TUNING", "BEFT", "TRAINABLE_TOKENS"), _ABSOLUTE),
    **dict.fromkeys(("OFT", "BOFT", "HRA", "ROAD", "PSOFT", "OSF"), _MULTIPLIES),
    **dict.fromkeys(("LOHA", "LOKR"), _CONVERTIBLE),
    **dict.fromkeys(
        (
            "VERA PVERA FOURIERFT WAVEFT C3A RANDLORA VBLORA UNILORA TINYLORA SHIRA MISS GRALORA DELORA HIRA LILY FROD "
            "DEFT PEANUT SUPERTUNING ADAMSS SHADOW GLORA"
        ).split(),
        _OWN_BASIS,
    ),
    **dict.fromkeys(("POLY", "XLORA"), "it routes between several adapters at run time"),
    "ADAPTION_PROMPT": "it adds gated attention, not a change of a weight",
}


def kind_of(config: Mapping[str, Any], combined: Collection[str], where: str) -> str:
    """The ``peft_type``, one of those that can be ``combined``.

    Raises:
        ExtSubError: it is another kind, or not a PEFT adapter; the message says which.
    """
    kind = config.get("peft_type")
    if kind is None:
        raise ExtSubError(f"{where}: adapter_config.json has no peft_type{_other_library(config)}")
    if not isinstance(kind, str):
        raise ExtSubError(f"{where}: peft_type in adapter_config.json must be a string, found {shown(kind)}")
    if kind in combined:
        return kind
    if kind in REFUSED_KINDS:
        raise ExtSubError(f"{where}: {kind} adapters cannot be combined or merged: {REFUSED_KINDS[kind]}")
    raise ExtSubError(f"{where}: peft_type is {shown(kind)}, expected one of {', '.join(combined)}")


def _other_library(config: Mapping[str, Any]) -> str:
    if config.keys() & {"lora_parameters", "fine_tune_type"}:
        return ": it looks like an MLX adapter; convert it to PEFT first"
    if isinstance(config.get("config"), dict) and config["config"].keys() & {"reduction_factor", "output_adapter"}:
        return ": it looks like an AdapterHub adapter, which is not a change of weights"
    if config.keys() & {"r", "lora_alpha"}:
        return ': if this is a LoRA adapter, add "peft_type": "LORA"'
    return ": it is not a PEFT adapter"


def check_fields(config: Mapping[str, Any], known: Set[str], refused: Mapping[str, str], where: str) -> None:
    """Refuse every field that is set and not known. Empty ones (null, false, 0, {}, []) say nothing.

    Raises:
        ExtSubError: a field of ``refused`` (with its reason) or an unknown one is set.
    """
    wrong = [name for name, value in config.items() if value and name not in known]
    wrong.sort(key=lambda name: name not in refused)  # the reasons that we know come first
    for name in wrong:
        reason = refused.get(name, "extsub does not know this field, and it may change what the weights mean")
        raise ExtSubError(f"{where}: {brief(name)} is {shown(config[name])} in adapter_config.json: {reason}")


def whole_number(config: Mapping[str, Any], name: str, where: str) -> int:
    """A field that must be a whole number above 0."""
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        problem = f"found {shown(value)}" if name in config else "it is missing"
        raise ExtSubError(f"{where}: {brief(name)} in adapter_config.json must be a whole number above 0, {problem}")
    if value >= LARGEST_WHOLE:
        raise ExtSubError(f"{where}: {brief(name)} is {shown(value)} in adapter_config.json: no adapter is so large")
    return value


def number(config: Mapping[str, Any], name: str, where: str) -> float:
    """A field that must be a finite number."""
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LARGEST:
        problem = f"found {shown(value)}" if name in config else "it is missing"
        raise ExtSubError(f"{where}: {brief(name)} in adapter_config.json must be a number, {problem}")
    return float(value)


def flag(config: Mapping[str, Any], name: str, where: str) -> bool:
    """A field that must be true, false or null."""
    value = config.get(name)
    if value not in (None, True, False) or (isinstance(value, int) and not isinstance(value, bool)):
        raise ExtSubError(f"{where}: {name} in adapter_config.json must be true or false, found {shown(value)}")
    return bool(value)


def text(config: Mapping[str, Any], name: str, where: str) -> str | None:
    """A field that must be a string or null."""
    value = config.get(name)
    if value is not None and (not isinstance(value, str) or not value.isprintable() or len(value) > LONGEST_TEXT):
        raise ExtSubError(f"{where}: {name} in adapter_config.json must be a string on one line, found {shown(value)}")
    return value or None


def names(config: Mapping[str, Any], name: str, where: str) -> list[str]:
    """A field that must be a list of strings or null."""
    value = config.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) and item.isprintable() for item in value):
        raise ExtSubError(f"{where}: {name} in adapter_config.json must be a list of names, found {shown(value)}")
    return value


def settings(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields that every result keeps."""
    kept = {"task_type": text(config, "task_type", where)}
    revision = text(config, "revision", where)
    return kept | ({"revision": revision} if revision else {})
