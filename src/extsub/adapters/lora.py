"""LoRA and AdaLoRA on disk, to deltas and back. ``r``, ``lora_alpha``, rsLoRA and tensor names live and end here.

delta = scaling * B @ A (Hu et al., 2021), B (rows, r), A (r, columns). AdaLoRA: B @ diag(E) @ A with a scaling of
its own (Zhang et al., 2023). Written as LoRA with scaling 1, one rank for all modules and no patterns: the only
form that PEFT, vLLM, SGLang and llama.cpp read alike.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch

from extsub.adapters import config as fields
from extsub.adapters.adapter import Adapter, Module, Source
from extsub.adapters.keys import sort_keys
from extsub.adapters.layouts import Conv, Embedding, Experts, FactorLayout, Linear
from extsub.adapters.reading import TensorFile
from extsub.adapters.targets import saved_names, short_targets, written_targets
from extsub.algebra import Delta
from extsub.errors import ExtSubError

SUFFIXES = ("lora_A.weight", "lora_B.weight", "lora_embedding_A", "lora_embedding_B", "lora_A", "lora_B", "lora_E")

KNOWN_FIELDS = fields.COMMON_FIELDS | frozenset(
    "r lora_alpha use_rslora rank_pattern alpha_pattern bias lora_dropout init_lora_weights target_parameters "
    "layer_replication megatron_core qalora_group_size loftq_config eva_config corda_config lora_ga_config "
    "velora_config "
    # AdaLoRA's
    "init_r target_r tinit tfinal deltaT beta1 beta2 orth_reg_weight total_step".split()
)

REFUSED_FIELDS = {
    "use_dora": "DoRA rescales the base weights, so its change is known only with them",
    "lora_bias": "it adds a bias that servers cannot carry",
    "trainable_token_indices": "trained token embeddings are absolute values, not a change",
    "ensure_weight_tying": "a tied head would be stored twice and could come apart",
    "megatron_config": "Megatron's parallel layers have other tensor shapes",
    "use_qalora": "QA-LoRA pools the inputs of a GPTQ layer",
    "alora_invocation_tokens": "the adapter is active only after its invocation tokens",
    "arrow_config": "it routes between several adapters at run time",
    "use_bdlora": "its factors are block-diagonal",
    "monteclora_config": "MonteCLoRA samples its weights",
    "kasa_config": "KaSA changes the base weights when it is loaded",
    "lora_parameters": "it is MLX's field, whose tensors are laid out differently: convert the adapter to PEFT",
    "enable_lora": "MergedLinear of PEFT 0.2 stores grouped factors",
}

PARAMETER_ORDER = ("down_proj", "gate_up_proj")
"""The fused parameters of MoE layers, as PEFT nests its wrappers around them: the last one registered is outermost."""

# Initialisations that leave the base weights alone, so that B @ A is the whole change.
PLAIN_INITS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
CHANGED_BASE = "it changed the base weights when training began, so B @ A is not the whole change"
CONVERT = (
    "save the adapter again with save_pretrained(..., path_initial_model_for_weight_conversion=...), which converts it"
)


def decode(config: Mapping[str, Any], file: TensorFile, source: Source) -> Adapter:
    """The adapter that ``config`` and ``file`` describe, if they agree.

    Raises:
        ExtSubError: a field, a key or a shape that is not plain LoRA; the message names it.
    """
    where = source.name
    reader = _Reader(config, file, where)
    velora = ["lora_velora_embed"] if config.get("velora_config") else []
    saved = fields.names(config, "modules_to_save", where)
    keys = sort_keys(list(file.info), SUFFIXES, saved, where, ignored=velora)
    modules = {name: reader.module(name, found) for name, found in sorted(keys.modules.items())}
    return Adapter(
        kind="LORA",
        base=fields.text(config, "base_model_name_or_path", where),
        modules=modules,
        settings=reader.settings(),
        targets=short_targets(config, modules, where),
        saved=tuple(saved),
        copies=file.copies(keys.copies),
        base_layers=file.copies(keys.base_layers),
        source=source,
        notes=(*keys.notes, *reader.notes),
    )


def encode(adapter: Adapter) -> dict[str, Any]:
    """The smallest adapter_config.json that says what this adapter is, whichever library reads it."""
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": adapter.base,
        "r": adapter.rank,
        "lora_alpha": adapter.rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "init_lora_weights": True,
        "inference_mode": True,
        "target_modules": written_targets(adapter),
        "modules_to_save": saved_names(adapter),
    }
    return config | adapter.settings


def _why_not(init: Any) -> str:
    """Why an adapter with this initialisation cannot be combined, and what to do where something can be done."""
    known = str(init).partition("_niter_")[0]
    if known in ("pissa", "olora", "corda"):
        return f"{CHANGED_BASE}: {CONVERT}"
    if known in ("loftq", "lora_ga"):
        return CHANGED_BASE
    return "extsub does not know it, and it may have changed the base weights"


def check_scale(config: Mapping[str, Any], where: str) -> list[str]:
    """What a user should know of a LoRA's ``lora_alpha``, in sentences.

    Raises:
        ExtSubError: it is missing, no number, or 0.
    """
    lora_alpha = fields.number(config, "lora_alpha", where)
    if lora_alpha == 0:
        raise ExtSubError(
            f"{where}: lora_alpha is 0 in adapter_config.json: the adapter changes nothing; if its scale was lost when "
            "it was saved, write there what it was trained with"
        )
    if lora_alpha < 0:
        return [f"lora_alpha is {lora_alpha:g}: the adapter is applied with its sign flipped"]
    return []


class _Reader:
    """Reads modules of one file under one config."""

    def __init__(self, config: Mapping[str, Any], file: TensorFile, where: str):
        self.config, self.file, self.where = config, file, where
        self.notes: list[str] = []
        self.adalora = config["peft_type"] == "ADALORA"
        fields.check_fields(config, KNOWN_FIELDS, REFUSED_FIELDS, where)
        if config.get("bias") not in (None, "none"):
            raise ExtSubError(
                f"{where}: bias is {config['bias']!r} in adapter_config.json: it stores absolute biases, and what they "
                "add is known only with the base model's"
            )
        init = config.get("init_lora_weights")
        if init not in PLAIN_INITS or (init in (0, 1) and not isinstance(init, bool)):
            raise ExtSubError(f"{where}: init_lora_weights is {init!r}: {_why_not(init)}")
        self.rank_pattern = {} if self.adalora else self._pattern("rank_pattern")
        self.alpha_pattern = self._pattern("alpha_pattern")
        self.rslora = fields.flag(config, "use_rslora", where)
        self.r = fields.whole_number(config, "init_r" if self.adalora else "r", where)
        self.lora_alpha = fields.number(config, "lora_alpha", where)
        self.parameters = fields.names(config, "target_parameters", where)
        if not self.adalora:  # PEFT reads 0 and below as init_r there
            self.notes += check_scale(config, where)

    def _pattern(self, name: str) -> dict[str, Any]:
        pattern = self.config.get(name) or {}
        if not isinstance(pattern, dict):
            raise ExtSubError(f"{self.where}: {name} in adapter_config.json must be an object, found {pattern!r}")
        for key in pattern:
            try:
                re.compile(key)
            except re.error as error:
                raise ExtSubError(f"{self.where}: {name} has {key!r}, which is no regular expression") from error
            (fields.whole_number if name == "rank_pattern" else fields.number)(pattern, key, f"{self.where}: {name}")
        return pattern

    def settings(self) -> dict[str, Any]:
        """The config fields that a result keeps."""
        kept = fields.settings(self.config, self.where)
        kept["fan_in_fan_out"] = fields.flag(self.config, "fan_in_fan_out", self.where)
        if self.parameters:
            kept["target_parameters"] = sorted(self.parameters)
        if self.config.get("layer_replication"):
            kept["layer_replication"] = self.config["layer_replication"]
        return kept

    def module(self, name: str, keys: Mapping[str, str]) -> Module:
        """One module from its {suffix: key}."""
        A_key, B_key, E_key = self._roles(name, keys)
        A, B = self.file.info[A_key], self.file.info[B_key]
        experts = self._expert_parameters(name)
        # MultiheadAttention keeps its output projection inside the module that the config names
        names = experts or [name.partition(".base_layer.")[0]]
        candidates = {self._rank_and_scaling(parameter) for parameter in names}
        if len(candidates) > 1:
            raise ExtSubError(
                f"{self.where}: rank_pattern or alpha_pattern gives the parameters of {name} different values, and the "
                "file does not say which tensor is whose"
            )
        (r, scaling) = candidates.pop()
        if E_key:
            r = A.shape[0]
            if self.file.info[E_key].shape != (r, 1):
                raise ExtSubError(
                    f"{self.where}: {E_key} has shape {list(self.file.info[E_key].shape)}, expected [{r}, 1]: "
                    "the file is damaged"
                )
        layout, rank = self._layout(name, keys, A.shape, B.shape, r, bool(experts))

        def read() -> Delta:
            factor_B, factor_A = layout.unpack(self.file.read(A_key), self.file.read(B_key))
            if E_key:
                factor_B = factor_B.double() * self.file.read(E_key).double().flatten()
            return Delta.product(factor_B, factor_A, scaling)

        empty = layout.unpack(torch.empty(A.shape, device="meta"), torch.empty(B.shape, device="meta"))
        shape = Delta.product(*empty).shape
        return Module(layout, shape, rank, torch.promote_types(A.dtype, B.dtype), read, bool(experts), scaling)

    def _roles(self, name: str, keys: Mapping[str, str]) -> tuple[str, str, str | None]:
        """The keys of A, B and AdaLoRA's E."""
        kinds = {
            ("lora_A.weight", "lora_B.weight"): not self.adalora,
            ("lora_embedding_A", "lora_embedding_B"): not self.adalora,
            ("lora_A", "lora_B", "lora_E"): self.adalora,
        }
        for suffixes, fits in kinds.items():
            if fits and keys.keys() == set(suffixes):
                A, B, *E = (keys[suffix] for suffix in suffixes)
                return A, B, E[0] if E else None
        expected = "lora_A, lora_B and lora_E" if self.adalora else "a pair of lora_A.weight and lora_B.weight"
        raise ExtSubError(
            f"{self.where}: {name} has {', '.join(sorted(keys))}, expected {expected}: part of the adapter is missing"
        )

    def _expert_parameters(self, name: str) -> list[str]:
        """The full names of the target_parameters that ``name`` may hold, if any."""
        path = name
        while path.endswith(".base_layer"):
            path = path.removesuffix(".base_layer")
        owners = [(target.rpartition(".")[0], target.rpartition(".")[2]) for target in self.parameters]
        leaves = {leaf for owner, leaf in owners if path == owner or path.endswith(f".{owner}")}
        if leaves <= set(PARAMETER_ORDER):  # then the nesting says which one it is
            depth = (len(name) - len(path)) // len(".base_layer")
            leaves = [leaf for leaf in PARAMETER_ORDER if leaf in leaves][depth : depth + 1]
        return [f"{path}.{leaf}" for leaf in sorted(leaves)]

    def _rank_and_scaling(self, name: str) -> tuple[int, float]:
        """As PEFT resolves them: the first pattern that matches the end of the name wins."""
        if self.adalora:
            return self.r, (self.lora_alpha if self.lora_alpha > 0 else self.r) / (self.r + 1e-5)
        r = _resolve(self.rank_pattern, name, self.r)
        lora_alpha = _resolve(self.alpha_pattern, name, self.lora_alpha)
        return r, lora_alpha / math.sqrt(r) if self.rslora else lora_alpha / r

    def _layout(
        self, name: str, keys: Mapping[str, str], A: tuple[int, ...], B: tuple[int, ...], r: int, experts: bool
    ) -> tuple[FactorLayout, int]:
        """How A and B of these shapes are stored, and their rank, which must be ``r``."""
        shapes = f"A {list(A)} and B {list(B)}"
        if len(A) == len(B) == 2:
            if "lora_embedding_A" in keys:
                layout, rank = Embedding(), A[0]
            elif experts and A[0] % r == 0:
                layout, rank = Experts(A[0] // r), r
            else:
                layout, rank = Linear(), A[0]
        elif len(A) == len(B) > 2 and all(size == 1 for size in B[2:]):
            layout, rank = Conv(A[1:]), A[0]
        else:
            raise ExtSubError(f"{self.where}: {name} has {shapes}: that is no layer whose change is B @ A")
        inner = B[1] // layout.count if isinstance(layout, Experts) else B[1]
        if isinstance(layout, Conv) and inner < rank:
            raise ExtSubError(f"{self.where}: {name} has {shapes}: a grouped convolution, which is not combined")
        if inner != rank or (isinstance(layout, Experts) and B[1] % layout.count):
            raise ExtSubError(f"{self.where}: {name} has {shapes}: their ranks differ, so the file is damaged")
        if rank != r:
            raise ExtSubError(
                f"{self.where}: {name} has rank {rank} ({shapes}) where adapter_config.json says {r}: the file and its "
                "config do not belong together"
            )
        return layout, rank


def _resolve(pattern: Mapping[str, Any], name: str, default: Any) -> Any:
    """PEFT's get_pattern_key: keys are regular expressions for the end of a name, the first match wins."""
    return next((value for key, value in pattern.items() if re.match(rf"(.*\.)?({key})$", name)), default)
