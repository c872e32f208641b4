"""What is public, and what lives in one place. Which room may import which is in pyproject.toml (lint-imports)."""

from __future__ import annotations

import pkgutil
import re
from pathlib import Path

import pytest

import extsub

ROOT = Path(__file__).parents[1]
SOURCE = Path(extsub.__file__).parent
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_the_page_of_the_architecture_names_what_is_there() -> None:
    """Every file that it names exists, every room is in picture and table, and no way has more than eight stops."""
    rooms = {
        path.name + "/" * path.is_dir() for path in SOURCE.iterdir() if path.name[:4] not in ("__in", "__py", "py.t")
    }
    picture, table = PAGE.split("```")[1], PAGE.split("| room |")[1].split("\n\n")[0]
    assert {room for room in rooms if room not in picture} == set()
    assert {room for room in rooms if f"`{room}`" not in table} == set()
    files = {str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.py")}
    names = files | {file.rpartition("/")[2] for file in files}  # the table leaves the room out
    assert {name for name in re.findall(r"`([\w/]+\.py)`", PAGE) if name not in names} == set()
    stops = [re.findall(r"^\d\. (.*)", way, re.MULTILINE) for way in PAGE.split("\n## ")[1:]]
    assert len(stops) == 3
    assert all(4 <= len(way) <= 8 for way in stops)
    assert {name for way in stops for name in re.findall(r"`([\w/]+\.py)`", " ".join(way))} <= files


def test_lora_alpha_and_r_live_only_where_lora_is_read_and_explained() -> None:
    """Scaling is folded into B on load and ends there."""
    allowed = {"lora.py", "config.py", "settings.py", "run.py"}  # the last writes a recipe
    users = {path.name for path in SOURCE.rglob("*.py") if '"lora_alpha"' in path.read_text(encoding="utf-8")}
    assert users <= allowed


def test_every_public_name_is_there_and_documented() -> None:
    operations = {"OPERATIONS", "Operation", "Delta", "ext_sub", "subtract", "add", "contrast", "amplify"}
    operations |= {"register_operation"}
    verbs = {"load_adapter", "combine", "save_adapter", "inspect", "merge", "plan_training", "train"}
    verbs |= {"evaluate", "generate", "compare", "sweep", "table", "run_recipe", "export_gguf", "push", "negatives"}
    verbs |= {"write_report"}
    settings = {"TrainingSettings", "EvaluationSettings", "GenerationSettings", "SweepSettings"}
    settings |= {"NegativesSettings"}
    assert set(extsub.__all__) == {"Adapter", "Dial", "ExtSubError", "Session"} | settings | operations | verbs
    for name in extsub.__all__:
        assert getattr(extsub, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        extsub.nothing  # noqa: B018


DOCUMENTS = [path for name in ("*.md", "docs/*.md", "examples/**/*", "benchmarks/*.py") for path in ROOT.glob(name)]


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if path.is_file()], ids=lambda path: path.name)
def test_what_the_documents_call_by_a_dotted_name_is_there(document: Path) -> None:
    names = set(re.findall(r"\bextsub(?:\.[A-Za-z_]\w*)+", document.read_text(encoding="utf-8", errors="ignore")))
    for name in names - {"extsub.json", "extsub.operations"}:  # a file, and a group of entry points
        pkgutil.resolve_name(name)


def test_the_package_says_that_it_is_typed() -> None:
    assert (SOURCE / "py.typed").exists()
