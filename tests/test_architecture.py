"""What is public, and what lives in one place. Which room may import which is in pyproject.toml (lint-imports)."""

from __future__ import annotations

from pathlib import Path

import pytest

import extsub

SOURCE = Path(extsub.__file__).parent


def test_lora_alpha_and_r_live_only_where_lora_is_read_and_explained() -> None:
    """Scaling is folded into B on load and ends there."""
    allowed = {"lora.py", "config.py", "settings.py", "run.py"}  # the last writes a recipe
    users = {path.name for path in SOURCE.rglob("*.py") if '"lora_alpha"' in path.read_text(encoding="utf-8")}
    assert users <= allowed


def test_every_public_name_is_there_and_documented() -> None:
    operations = {"OPERATIONS", "Operation", "Delta", "ext_sub", "subtract", "add", "contrast", "amplify"}
    verbs = {"load_adapter", "combine", "save_adapter", "inspect", "plan_training", "train"}
    verbs |= {"evaluate", "generate", "compare", "sweep", "run_recipe"}
    settings = {"TrainingSettings", "EvaluationSettings", "GenerationSettings", "SweepSettings"}
    assert set(extsub.__all__) == {"Adapter", "Dial", "ExtSubError"} | settings | operations | verbs
    for name in extsub.__all__:
        assert getattr(extsub, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        extsub.nothing  # noqa: B018


def test_the_package_says_that_it_is_typed() -> None:
    assert (SOURCE / "py.typed").exists()
