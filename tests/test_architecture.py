"""The house plan: a room imports only rooms below it and its own libraries; the face is what it says."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import extsub

SOURCE = Path(extsub.__file__).parent

FLOOR = {"disk", "errors", "escaping", "extras", "files"}
"""what every room stands on"""

# room: (rooms it may import, libraries it may import anywhere, libraries it may import inside functions)
ROOMS: dict[str, tuple[set[str], set[str], set[str]]] = {
    "errors": (set(), set(), set()),
    "disk": (set(), set(), set()),
    "extras": (set(), set(), set()),
    "escaping": (set(), set(), set()),
    "files": (set(), set(), set()),
    "printing": (set(), set(), {"rich"}),
    "arrays": (set(), {"ml_dtypes", "numpy"}, set()),
    "notebooks": (set(), set(), set()),
    "tensors": ({"arrays"}, {"numpy", "torch"}, set()),
    "parallel": (set(), {"threadpoolctl"}, set()),
    "algebra": ({"arrays"}, {"numpy"}, set()),
    "adapters": (
        {"algebra", "arrays", "notebooks", "parallel", "prompts"},
        {"numpy", "safetensors", "yaml"},
        {"huggingface_hub", "torch"},
    ),
    "combination": ({"adapters", "algebra", "arrays", "parallel"}, {"numpy"}, set()),
    "pictures": (set(), set(), {"matplotlib"}),
    "inspection": ({"adapters", "arrays", "combination", "notebooks", "pictures"}, {"numpy"}, {"matplotlib"}),
    "processes": (set(), set(), set()),
    "formats": (set(), set(), set()),
    "rows": ({"formats"}, set(), set()),
    "prompts": ({"rows"}, set(), {"jinja2", "transformers"}),
    "messages": ({"formats", "prompts", "rows"}, set(), set()),
    "guesses": ({"messages", "rows"}, set(), set()),
    "data": ({"formats", "guesses", "messages", "prompts", "rows"}, set(), set()),
    "tokens": (set(), set(), {"tokenizers", "transformers"}),
    "models": (set(), set(), {"torch", "transformers", "huggingface_hub", "safetensors"}),
    "probing": ({"models"}, {"torch", "huggingface_hub"}, {"transformers"}),
    "training": (
        {"adapters", "data", "models", "pictures", "printing", "probing", "processes", "prompts", "rows", "tokens"},
        {"torch", "cyclopts", "safetensors", "trl", "transformers"},
        {"peft", "datasets", "matplotlib", "deepspeed", "psutil", "rich"},
    ),
    "evaluation": (
        {
            "adapters",
            "arrays",
            "data",
            "formats",
            "models",
            "notebooks",
            "pictures",
            "probing",
            "processes",
            "prompts",
            "rows",
            "tensors",
            "tokens",
        },
        {"torch", "cyclopts", "numpy", "transformers"},
        {"accelerate", "lm_eval", "matplotlib", "peft", "rouge_score", "sacrebleu"},
    ),
    "dial": (
        {"adapters", "algebra", "arrays", "combination", "evaluation", "tensors"},
        {"torch"},
        {"peft", "transformers"},
    ),
    "sweeping": (
        {"adapters", "algebra", "combination", "dial", "evaluation", "models", "prompts"},
        {"cyclopts"},
        {"optuna", "torch"},
    ),
    "stages": (set(), set(), set()),
    "recipe": (
        {
            "adapters",
            "combination",
            "evaluation",
            "models",
            "printing",
            "prompts",
            "report",
            "stages",
            "sweeping",
            "training",
        },
        {"yaml"},
        set(),
    ),
    "demo": (
        {
            "adapters",
            "combination",
            "evaluation",
            "printing",
            "recipe",
            "results_table",
            "stages",
            "sweeping",
            "terminal",
            "training",
        },
        {"rich", "yaml"},
        {"huggingface_hub", "tokenizers", "torch", "transformers"},
    ),
    "report": (
        {"adapters", "algebra", "evaluation", "inspection", "sweeping"},
        {"numpy"},
        {"jinja2", "markupsafe"},
    ),
    "results_table": ({"evaluation", "printing", "report", "terminal"}, {"rich"}, set()),
    "terminal": ({"adapters", "evaluation", "inspection", "printing", "processes"}, {"rich"}, {"transformers"}),
    "arguments": ({"printing", "processes"}, {"cyclopts"}, {"rich"}),
    "cli": (
        {"arguments", "evaluation", "printing", "processes", "sweeping", "training"},
        {"cyclopts"},
        {"extsub"},
    ),
    "__init__": (
        {
            "adapters",
            "algebra",
            "combination",
            "dial",
            "evaluation",
            "inspection",
            "recipe",
            "sweeping",
            "training",
        },
        set(),
        {"extsub"},
    ),
    "__main__": (set(), set(), {"extsub"}),
}


def room_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).parts
    return parts[0] if len(parts) > 1 else path.stem


def imports(tree: ast.AST) -> list[tuple[str, bool]]:
    """(module, inside a function or for types only) of every import."""
    found = []

    def visit(node: ast.AST, inside: bool) -> None:
        for_types = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        inside = inside or for_types or isinstance(node, ast.FunctionDef)
        if isinstance(node, ast.Import):
            found.extend((alias.name, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            found.extend((f"{node.module}.{alias.name}" if node.module == "extsub" else str(node.module), inside)
                         for alias in node.names)  # fmt: skip
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(tree, False)
    return found


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_room_imports_only_rooms_below_it_and_its_own_libraries(path: Path) -> None:
    room = room_of(path)
    rooms, libraries, lazy_libraries = ROOMS[room]
    for module, inside in imports(ast.parse(path.read_text(encoding="utf-8"))):
        top, _, rest = module.partition(".")
        if top == "extsub":
            target = rest.partition(".")[0]
            assert target in {room, *rooms, *FLOOR} or (inside and "extsub" in lazy_libraries), (
                f"{path.name} imports {module}"
            )
        elif top not in sys.stdlib_module_names and top != "__future__":
            assert top in libraries or (inside and top in lazy_libraries), f"{path.name} imports {module}"


def test_lora_alpha_and_r_live_only_where_lora_is_read_and_explained() -> None:
    """Scaling is folded into B on load and ends there."""
    allowed = {"lora.py", "config.py", "settings.py", "demo.py"}  # the last writes a recipe
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
