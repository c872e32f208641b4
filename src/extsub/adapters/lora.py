"""LoRA and AdaLoRA on disk, to deltas and back. ``r``, ``lora_alpha``, rsLoRA and tensor names live and end here.

delta = scaling * B @ A (Hu et al., 2021), B (rows, r), A (r, columns). AdaLoRA: B @ diag(E) @ A with a scaling of
its own (Zhang et al., 2023). Written as LoRA with scaling 1, one rank for all modules and no patterns: the only
form that PEFT, vLLM, SGLang and llama.cpp read alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from extsub.adapters import config as fields
from extsub.adapters.adapter import Adapter, Module, Source
from extsub.adapters.claims import PROMISES, check_claims, refuse_promises
from extsub.adapters.codec import Codec
from extsub.adapters.experts import FusedExperts, Sizes
from extsub.adapters.keys import Keys, sort_keys
from extsub.adapters.layouts import Conv, Embedding, Experts, FactorLayout, Linear
from extsub.adapters.names import refuse_lost
from extsub.adapters.patterns import first_keys
from extsub.adapters.targets import saved_names, short_targets, written_targets
from extsub.adapters.tensors import TensorFile
from extsub.algebra import Delta
from extsub.arrays import Array, double, promoted, without_numbers
from extsub.errors import ExtSubError
from extsub.escaping import brief, shown

SUFFIXES = ("lora_A.weight", "lora_B.weight", "lora_embedding_A", "lora_embedding_B", "lora_A", "lora_B", "lora_E")

KNOWN_FIELDS = fields.COMMON_FIELDS | frozenset(
    "r lora_alpha use_rslora rank_pattern alpha_pattern bias lora_dropout init_lora_weights target_parameters "
    "layer_replication megatron_core qalora_group_size loftq_config eva_config corda_config lora_ga_config "
    "velora_config ensure_weight_tying "
    # AdaLoRA's
    "init_r target_r tinit tfinal deltaT beta1 beta2 orth_reg_weight total_step".split()
).union(PROMISES)

REFUSED_FIELDS = {
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

# Initialisations that leave the base weights alone, so that B @ A is the whole change.
PLAIN_INITS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")
CHANGED_BASE = "it changed the base weights when training began, so B @ A is not the whole change"
EXCHANGED = (
    "fused experts are stored with A and B exchanged, as PEFT 0.18 and 0.19.0 did: read so, written the usual way"
)
CONVERT = (
    "save the adapter again with save_pretrained(..., path_initial_model_for_weight_conversion=...), which converts it"
)


def decode(config: Mapping[str, Any], file: TensorFile, source: Source) -> Adapter:
    """The adapter that ``config`` and ``file`` describe, if they agree.

    Raises:
        ExtSubError: a field, a key or a shape that is not plain LoRA; the message names it.
    """
    where = source.name
    fields.check_fields(config, KNOWN_FIELDS, REFUSED_FIELDS, where)
    velora = ["lora_velora_embed"] if config.get("velora_config") else []
    saved = fields.names(config, "modules_to_save", where)
    keys = sort_keys(file.info, SUFFIXES, saved, where, ignored=velora)
    refuse_promises(config, where)
    reader = _Reader(config, file, keys, where)
    modules = {name: reader.module(name) for name in reader.roles}
    layers = [name for name, module in modules.items() if not module.parameter]
    return Adapter(
        kind="LORA",
        base=fields.text(config, "base_model_name_or_path", where),
        modules=modules,
        settings=reader.settings(modules),
        targets=short_targets(config, modules, where),
        saved=tuple(saved),
        copies=file.copies(keys.copies),
        base_layers=file.copies(keys.base_layers),
        source=source,
        notes=(*keys.notes, *check_claims(config, keys, layers, where), *reader.notes),
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

    def __init__(self, config: Mapping[str, Any], file: TensorFile, keys: Keys, where: str):
        self.config, self.file, self.where = config, file, where
        self.notes: list[str] = []
        self.adalora = config["peft_type"] == "ADALORA"
        init = config.get("init_lora_weights")
        if init not in PLAIN_INITS or (init in (0, 1) and not isinstance(init, bool)):
            raise ExtSubError(f"{where}: init_lora_weights is {shown(init)}: {_why_not(init)}")
        self.rslora = fields.flag(config, "use_rslora", where)
        self.r = fields.whole_number(config, "init_r" if self.adalora else "r", where)
        self.lora_alpha = fields.number(config, "lora_alpha", where)
        self.parameters = fields.names(config, "target_parameters", where)
        if not self.adalora:  # PEFT reads 0 and below as init_r there
            self.notes += check_scale(config, where)
        self.roles = {name: self._roles(name, by_suffix) for name, by_suffix in sorted(keys.modules.items())}
        shapes = {name: (file.info[A].shape, file.info[B].shape) for name, (A, B, _) in self.roles.items()}
        sizes = {name: Sizes(A[1], B[0]) for name, (A, B) in shapes.items() if len(A) == len(B) == 2}
        self.experts = FusedExperts(self.parameters, sizes, fields.text(config, "peft_version", where), where)
        self.names = {name: self._names(name) for name in self.roles}
        refuse_lost((name for names in self.names.values() for name in names), where)
        self.ranks = {} if self.adalora else self._by_pattern("rank_pattern", fields.whole_number)
        self.alphas = self._by_pattern("alpha_pattern", fields.number)
        if off := [name for name, lora_alpha in self.alphas.items() if not lora_alpha]:
            self.notes.append(f"alpha_pattern gives {len(off)} modules 0, first {brief(off[0])}: they change nothing")

    def _by_pattern(self, field: str, check: Callable[[Mapping[str, Any], str, str], float]) -> dict[str, Any]:
        """The values of a pattern by module: as in PEFT the first key that matches a name wins."""
        pattern = self.config.get(field) or {}
        if not isinstance(pattern, dict):
            raise ExtSubError(f"{self.where}: {field} in adapter_config.json must be an object, found {shown(pattern)}")
        for key in pattern:
            check(pattern, key, f"{self.where}: {field}")
        names = sorted({name for names in self.names.values() for name in names})
        return {name: pattern[key] for name, key in first_keys(field, list(pattern), names, self.where).items()}

    def settings(self, modules: Mapping[str, Module]) -> dict[str, Any]:
        """The config fields that a result keeps."""
        kept = fields.settings(self.config, self.where)
        kept["fan_in_fan_out"] = fields.flag(self.config, "fan_in_fan_out", self.where)
        if parameters := self.experts.targets([name for name, module in modules.items() if module.parameter]):
            kept["target_parameters"] = parameters
        elif self.parameters:
            self.notes.append(f"target_parameters names {brief(self.parameters[0])}, of which the file has nothing")
        if self.config.get("layer_replication"):
            kept["layer_replication"] = self.config["layer_replication"]
        return kept

    def module(self, name: str) -> Module:
        """One module of the file."""
        A_key, B_key, E_key = self.roles[name]
        A, B = self.file.info[A_key], self.file.info[B_key]
        parameters = tuple(self.experts.parameters(name))
        candidates = {self._rank_and_scaling(config_name) for config_name in self.names[name]}
        if len(candidates) > 1:
            raise ExtSubError(
                f"{self.where}: rank_pattern or alpha_pattern gives the parameters of {brief(name)} different values, "
                "and the file does not say which tensor is whose"
            )
        r, scaling = candidates.pop()
        if E_key:
            r = A.shape[0] if A.shape else 0
            if self.file.info[E_key].shape != (r, 1):
                raise ExtSubError(
                    f"{self.where}: {brief(E_key)} has shape {list(self.file.info[E_key].shape)}, expected [{r}, 1]: "
                    "the file is damaged"
                )
        layout = self._layout(name, ".lora_embedding_" in A_key, A.shape, B.shape, r, bool(parameters))
        exchanged = isinstance(layout, Experts) and self.experts.are_exchanged(name, self.names[name])
        if exchanged and EXCHANGED not in self.notes:
            self.notes.append(EXCHANGED)

        def factors(A: Array, B: Array) -> Delta:
            factor_B, factor_A = layout.unpack(A, B)
            return Delta.product(*((factor_A.mT, factor_B.mT) if exchanged else (factor_B, factor_A)), scaling)

        def read() -> Delta:
            stored_B = self.file.read(B_key)
            if E_key:
                stored_B = double(stored_B) * double(self.file.read(E_key)).reshape(-1)
            return factors(self.file.read(A_key), stored_B)

        shape = factors(without_numbers(A.shape), without_numbers(B.shape)).shape
        return Module(layout, shape, r, promoted(A.dtype, B.dtype), read, parameters, scaling)

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
            f"{self.where}: {brief(name)} has {', '.join(sorted(keys))}, expected {expected}: part of the adapter is "
            "missing, or peft_type is another's"
        )

    def _names(self, name: str) -> list[str]:
        """What the config calls a module. MultiheadAttention keeps its output projection inside the one it names."""
        outer, _, inner = name.partition(".base_layer.")
        return self.experts.parameters(name) or [outer if inner == "out_proj" else name]

    def _rank_and_scaling(self, name: str) -> tuple[int, float]:
        if self.adalora:
            return self.r, (self.lora_alpha if self.lora_alpha > 0 else self.r) / (self.r + 1e-5)
        r, lora_alpha = self.ranks.get(name, self.r), self.alphas.get(name, self.lora_alpha)
        return r, lora_alpha / math.sqrt(r) if self.rslora else lora_alpha / r

    def _layout(
        self, name: str, embedding: bool, A: tuple[int, ...], B: tuple[int, ...], r: int, parameter: bool
    ) -> FactorLayout:
        """How A and B of these shapes are stored; their rank must be ``r``."""
        shapes = f"A {list(A)} and B {list(B)}"
        if len(A) == len(B) == 2:
            if embedding:
                layout, rank = Embedding(), A[0]
            elif parameter and A[0] > r and A[0] % r == 0:
                layout, rank = Experts(A[0] // r), r
            else:
                layout, rank = Linear(), A[0]
        elif len(A) == len(B) == 3 and A[1] == B[2] and (A[0] == B[0] or 1 in (A[0], B[0])):
            raise ExtSubError(
                f"{self.where}: {name} has {shapes}: the factors of all experts in one 3-D tensor, which is not PEFT's "
                "layout and is not combined: convert the adapter to one pair of 2-D factors for each expert"
            )
        elif len(A) == len(B) > 2 and all(size == 1 for size in B[2:]):
            layout, rank = Conv(A[1:]), A[0]
        else:
            raise ExtSubError(f"{self.where}: {brief(name)} has {shapes}: that is not a layer whose change is B @ A")
        inner = B[1] // layout.count if isinstance(layout, Experts) else B[1]
        if isinstance(layout, Conv) and inner < rank:
            raise ExtSubError(f"{self.where}: {brief(name)} has {shapes}: a grouped convolution, which is not combined")
        if inner != rank or (isinstance(layout, Experts) and B[1] % layout.count):
            raise ExtSubError(f"{self.where}: {brief(name)} has {shapes}: their ranks differ, so the file is damaged")
        if rank != r:
            raise ExtSubError(
                f"{self.where}: {brief(name)} has rank {rank} ({shapes}) where adapter_config.json says {r}: the file "
                "and its config do not belong together"
            )
        return layout


CODEC = Codec("LORA", "A LoRA", decode, encode, reads=("ADALORA",), ranked=True, served=True)
