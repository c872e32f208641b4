"""The method: pair the modules of an expert and its anti-experts and run one operation on each pair.

Lazy: `combine` reads no numbers. Its result is an adapter whose modules compute their delta when asked, so that
combining and saving hold one module in memory at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import get_args

from extsub.adapters.adapter import Adapter
from extsub.adapters.codecs import CODECS
from extsub.adapters.load import opened
from extsub.algebra import Operation, spread_alpha
from extsub.combination.combination import Combination
from extsub.combination.matching import match
from extsub.combination.operations import operation_of
from extsub.combination.profile import Profile
from extsub.errors import ExtSubError, check_choice
from extsub.settings import Dtype


def combine(
    expert: Adapter | str | PathLike[str],
    *anti_experts: Adapter | str | PathLike[str],
    operation: str | Operation = "ext-sub",
    alpha: float | Sequence[float] = 1.0,
    rank: int | None = None,
    dtype: str = "auto",
    missing_modules: str = "error",
    modules_to_save: str = "error",
    base_model: str | None = None,
    deficiency: bool = False,
    profile: Profile | None = None,
) -> Adapter:
    """Combine adapters exactly; `save_adapter` computes, writes and verifies the result.

    The result's delta of every module is ``e - sum_j alpha_j d_j``, with ``d_j`` by ``operation`` (Ext-Sub: Hu et al.,
    AAAI 2024, section 3; docs/method.md). Its rank is the sum of the ranks, its scaling 1.

    Args:
        expert: the adapter to improve: an `Adapter`, or what `load_adapter` takes, a folder or a hub id.
        anti_experts: adapters trained on examples of what to suppress; at least one.
        operation: a name in `OPERATIONS`, or an `Operation` of your own, which is verified through its own weights.
        alpha: strength, one for all anti-experts or one for each. 0 gives the expert.
        rank: truncate each module to this rank, optimally; the error is reported. LoRA only.
        dtype: float32, float16, bfloat16, or auto: the inputs' dtype, and float32 where a number does not fit it.
        missing_modules: "error", or "zero" to count a module that one adapter lacks as unchanged there.
        modules_to_save: "error" unless copies of base tensors are identical, or "expert" to keep the expert's.
        base_model: what to write as the base, and to take as the base of every input.
        deficiency: give ``d`` instead, the same for every alpha, so that ``expert + (-alpha) d`` is the result.
        profile: multiplies alpha by a factor in each module; 1 everywhere unless given.

    Raises:
        ExtSubError: the adapters do not belong together, or an argument is out of range.
    """
    expert, *antis = map(opened, (expert, *anti_experts))
    operation = operation_of(operation)
    check_choice("dtype", dtype, get_args(Dtype))
    check_choice("missing_modules", missing_modules, ("error", "zero"))
    check_choice("modules_to_save", modules_to_save, ("error", "expert"))
    if not antis:
        raise ExtSubError("at least one anti-expert is needed")
    if rank is not None and (rank < 1 or not CODECS[expert.kind].ranked):
        raise ExtSubError(f"rank must be above 0 and is for LoRA only, found {rank} for {expert.kind}")
    if base_model is not None and not (base_model and base_model.isprintable()):
        raise ExtSubError(f"base_model must be a hub id or a folder, found {base_model!r}")
    alphas = spread_alpha(alpha, len(antis))
    if deficiency and len(set(alphas)) > 1:
        raise ExtSubError(
            "one deficiency adapter has one strength, set where it is used: with different values of alpha, write one "
            "for each anti-expert"
        )
    matched = match(
        expert, antis, missing_modules=missing_modules, modules_to_save=modules_to_save, base_model=base_model
    )
    profile = profile or Profile()
    if deficiency and profile != Profile():
        raise ExtSubError("a deficiency adapter is the same for every alpha: it has no profile")
    factors = profile.factors(matched.modules)
    origin = Combination(operation, alphas, expert, antis, matched, rank, dtype, deficiency, profile, factors)
    return Adapter(
        kind=expert.kind,
        base=matched.base,
        modules=origin.modules(),
        settings=matched.settings,
        targets=matched.targets,
        saved=expert.saved,
        copies=matched.copies,
        notes=tuple(matched.notes),
        origin=origin,
    )
