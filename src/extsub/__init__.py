"""Suppress a deficiency of a fine-tuned language model by exact arithmetic on two adapters (Ext-Sub).

    from extsub import combine, load_adapter, save_adapter

    result = combine(load_adapter("expert"), load_adapter("anti-expert"), alpha=1.0)
    save_adapter(result, "truthful")

Names are loaded on first use, so that ``import extsub`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from extsub.adapters.adapter import Adapter
    from extsub.adapters.load import load_adapter
    from extsub.adapters.save import save_adapter
    from extsub.algebra import (
        OPERATIONS,
        Delta,
        Operation,
        add,
        amplify,
        contrast,
        ext_sub,
        register_operation,
        subtract,
    )
    from extsub.chat.session import Session
    from extsub.combination.combine import combine
    from extsub.errors import ExtSubError
    from extsub.evaluation.compare import compare
    from extsub.evaluation.evaluate import evaluate
    from extsub.evaluation.generate import generate
    from extsub.evaluation.settings import EvaluationSettings, GenerationSettings
    from extsub.export.gguf import export_gguf
    from extsub.inspection.inspect import inspect
    from extsub.merging.merge import merge
    from extsub.models.dial import Dial
    from extsub.publishing.push import push
    from extsub.recipe.run import run_recipe
    from extsub.report.page import write_report
    from extsub.report.paper import table
    from extsub.rewriting.make import negatives
    from extsub.rewriting.settings import NegativesSettings
    from extsub.sweeping.settings import SweepSettings
    from extsub.sweeping.sweep import sweep
    from extsub.training.plan import plan_training
    from extsub.training.settings import TrainingSettings
    from extsub.training.train import train

__all__ = [
    "OPERATIONS",
    "Adapter",
    "Delta",
    "Dial",
    "EvaluationSettings",
    "ExtSubError",
    "GenerationSettings",
    "NegativesSettings",
    "Operation",
    "Session",
    "SweepSettings",
    "TrainingSettings",
    "add",
    "amplify",
    "combine",
    "compare",
    "contrast",
    "evaluate",
    "export_gguf",
    "ext_sub",
    "generate",
    "inspect",
    "load_adapter",
    "merge",
    "negatives",
    "plan_training",
    "push",
    "register_operation",
    "run_recipe",
    "save_adapter",
    "subtract",
    "sweep",
    "table",
    "train",
    "write_report",
]

_HOMES = {
    "adapters.adapter": ("Adapter",),
    "adapters.load": ("load_adapter",),
    "adapters.save": ("save_adapter",),
    "algebra": (
        "OPERATIONS",
        "Delta",
        "Operation",
        "add",
        "amplify",
        "contrast",
        "ext_sub",
        "register_operation",
        "subtract",
    ),
    "chat.session": ("Session",),
    "combination.combine": ("combine",),
    "models.dial": ("Dial",),
    "rewriting.make": ("negatives",),
    "rewriting.settings": ("NegativesSettings",),
    "publishing.push": ("push",),
    "errors": ("ExtSubError",),
    "evaluation.compare": ("compare",),
    "evaluation.evaluate": ("evaluate",),
    "evaluation.generate": ("generate",),
    "evaluation.settings": ("EvaluationSettings", "GenerationSettings"),
    "export.gguf": ("export_gguf",),
    "inspection.inspect": ("inspect",),
    "merging.merge": ("merge",),
    "recipe.run": ("run_recipe",),
    "report.page": ("write_report",),
    "report.paper": ("table",),
    "sweeping.settings": ("SweepSettings",),
    "sweeping.sweep": ("sweep",),
    "training.plan": ("plan_training",),
    "training.settings": ("TrainingSettings",),
    "training.train": ("train",),
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("extsub")
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"extsub.{home}"), name)
    raise AttributeError(f"module 'extsub' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
