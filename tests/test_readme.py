"""What the README shows is what happens: its commands run, its printed summary and its Python are the real ones."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

import adapter_files
import benchmark_files
import reference
import tiny_models
from conftest import Command, start

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    found = re.findall(r"^\$ extsub (.*?)(?:\s+#.*)?$", "\n".join(blocks("console")), re.MULTILINE)
    assert len(found) >= 8
    return found


ASKING = ("evaluate", "generate", "compare", "sweep", "report", "table", "export", "merge")
ELSEWHERE = ("run", "demo", "chat", "ui", "push", "negatives")
"""Recipes need the hub (tests/recipe reads them), a demo minutes (tests/demo has a small one), a chat a person, a page
a browser, a push the sweep of what is pushed, negatives a server: they have tests of their own."""


@pytest.mark.parametrize("command", [one for one in commands() if not one.startswith(("train", *ASKING, *ELSEWHERE))])
def test_every_command_runs(command: str, extsub: Command, tmp_path: Path) -> None:
    for seed, name in enumerate(("expert", "anti", "anti-expert", "anti-flattery", "anti-1", "anti-2")):
        adapter_files.lora(tmp_path / name, seed=seed, rank=20, base_model_name_or_path="owner/name")
    done = extsub(*command.split())
    assert (done.returncode, done.stderr) == (0, "")


def test_an_operation_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of docs/method.md."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("expert", "anti-expert")):
        adapter_files.lora(tmp_path / name, seed=seed)
    (example,) = re.findall(
        r"```python\n(.*?)```", (ROOT / "docs" / "method.md").read_text(encoding="utf-8"), re.DOTALL
    )
    exec(example, {})
    assert json.loads((tmp_path / "levelled" / "extsub.json").read_text())["operation"] == "level"


@pytest.mark.filterwarnings("ignore")  # of the libraries
@pytest.mark.parametrize("command", [command for command in commands() if command.startswith("train")])
def test_every_training_runs(command: str, extsub: Command, tmp_path: Path) -> None:
    """On a small model that is found under the large one's name: a local folder wins."""
    tiny_models.llama(tmp_path / "huggyllama" / "llama-7b")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    rows = [{"instruction": f"Who wrote book {number}?", "input": "", "output": "Nobody knows."} for number in range(9)]
    for name in ("good.jsonl", "bad.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "qa.csv").write_text("question,wrong_answer\nWho wrote it?,I did.\nWhen?,Never.\n")
    done = extsub(*command.split())
    said = [line for line in done.stderr.splitlines() if not line.startswith("step ")]
    assert (done.returncode, said) == (0, [])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README's evaluations need: a small model and classifier under the large ones' names, adapters, data."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        base = tiny_models.llama(Path("huggyllama/llama-7b"), max_position_embeddings=1024)
        benchmark_files.classifier(Path("unitary/unbiased-toxic-roberta"))
        benchmark_files.files(Path("data"))
        for seed, name in enumerate(("expert", "better", "anti-expert")):
            reference.adapter(base, Path(name), "lora", seed)
        shutil.copyfile("data/rows.jsonl", "good.jsonl")
    return folder


@pytest.mark.filterwarnings("ignore")  # of the libraries
@pytest.mark.parametrize("command", [one for one in commands() if one.startswith(ASKING)])
def test_every_evaluation_runs(command: str, extsub: Command, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the README: a comparison needs the results before it."""
    monkeypatch.chdir(world)
    if "--group" in command:
        for seed in (0, 1):
            shutil.copytree("results", f"seed-{seed}", dirs_exist_ok=True)
    done = extsub(*shlex.split(command))
    said = [line for line in done.stderr.splitlines() if not line.startswith("  note: ")]  # of one answer, beside it
    assert (done.returncode, said) == (0, [])
    assert done.stdout.strip()


def without_numbers(text: str) -> str:
    return re.sub(r"[\d.,]+(e-\d+)?", "#", text)


def test_the_summary_of_combine_is_its_own(tmp_path: Path) -> None:
    for seed, name in enumerate(("expert", "anti-flattery")):
        adapter_files.lora(tmp_path / name, seed=seed, rank=16)
    shown = next(block for block in blocks("console") if "--output better\n" in block)
    command, _, output = shown.partition("\n")
    done = start(tmp_path, "-m", *command.removeprefix("$ ").split())
    told, written = (re.sub(r"\(model\.\S+\)| [kM]B$", "", text, flags=re.MULTILINE) for text in (done.stdout, output))
    assert without_numbers(told) == without_numbers(written)


def test_the_python_runs(tmp_path: Path) -> None:
    for seed, name in enumerate(("expert", "anti-expert")):
        adapter_files.lora(tmp_path / name, seed=seed)
    (code,) = blocks("python")
    done = start(tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("6 {'rows': 8, ")


def test_every_link_leads_somewhere_here_and_on_the_package_index() -> None:
    """The index shows README.md with the substitutions of pyproject.toml, away from the files beside it."""
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]
    links = re.findall(r"\]\(([^)]+)\)", README)
    relative = [link.partition("#")[0] for link in links if not link.startswith(("http", "#"))]
    assert relative
    packed = [pattern.strip("/") for pattern in project["build"]["targets"]["sdist"]["include"]]
    for link in relative:
        assert (ROOT / link).exists(), link
        assert link.partition("/")[0] in packed, link
    shown = README
    for rule in project["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        shown = re.sub(rule["pattern"], rule["replacement"], shown)
    addresses = re.findall(r"\]\(([^)]+)\)", shown)
    assert len(addresses) == len(links)
    assert all(address.startswith(("https://", "#")) for address in addresses)
    assert re.search(r"!\[[^\]]*\]\(https://raw\.githubusercontent\.com/", shown)
