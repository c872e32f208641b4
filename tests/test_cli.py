"""The command line end to end, with real files and exact messages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import build
import extsub as package
from conftest import Command, start

HEAVY = {"peft", "transformers", "accelerate", "matplotlib", "datasets", "trl"}


@pytest.fixture
def pair(tmp_path: Path) -> None:
    build.lora(tmp_path / "e")
    build.lora(tmp_path / "a", rank=2, seed=1)
    build.lora(tmp_path / "b", rank=1, seed=2)


@pytest.mark.usefixtures("pair")
def test_combine_prints_a_summary(extsub: Command, tmp_path: Path) -> None:
    done = extsub("combine", "e", "a", "--output", "out")
    assert (done.returncode, done.stderr) == (0, "")
    record = json.loads((tmp_path / "out" / "extsub.json").read_text())
    largest, error = record["largest_amplification"], record["verification"]["largest_relative_error"]
    assert done.stdout.splitlines() == [
        "out: ext-sub of e and a (α 1)",
        f"  size           2 modules, rank 5, float32, {record['bytes'] / 1e3:.1f} kB",
        "  zero rows      0 in the expert, 0 in the anti-expert, of 16",
        f"  amplification  expert rows are scaled by {largest['factor']:.3g} at most ({largest['module']})",
        f"  verified       8 rows against the dense formula, largest relative error {error:.1e}",
        "  serve          vllm serve made-up/tiny --enable-lora --max-lora-rank 8 --lora-modules out=out",
    ]
    assert 1 < largest["factor"] < 100
    assert 0 < error < 1e-6


@pytest.mark.usefixtures("pair")
@pytest.mark.parametrize(
    "alphas", [["--alpha", "0.5", "-1"], ["--alpha", "0.5", "--alpha", "-1"], ["--alpha=0.5", "--alpha=-1"]]
)
def test_json_has_everything_and_alpha_may_stand_anywhere(extsub: Command, tmp_path: Path, alphas: list[str]) -> None:
    done = extsub("combine", *alphas, "e", "a", "b", "-o", "out", "--operation", "contrast", "--json")
    result = json.loads(done.stdout)
    assert result == {"output": "out", **json.loads((tmp_path / "out" / "extsub.json").read_text())}
    assert [given["alpha"] for given in result["inputs"]] == [None, 0.5, -1.0]
    assert (result["operation"], result["rank"]) == ("contrast", 6)


@pytest.mark.usefixtures("pair")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["combine", "e", "a"], 'Error: Command "combine" parameter --output requires an argument.'),
        (["combine", "e", "-o", "o"], 'Error: Command "combine" parameter ANTI_EXPERT requires an argument.'),
        (["combine", "e", "none", "-o", "o"], "Error: none: no such folder, and not a hub id"),
        (["combine", "e", "a", "-o", "o", "--operation", "x"], 'Error: Invalid value "x" for --operation.'),
        (["combine", "e", "a", "-o", "o", "--alpha", "x"], 'Error: Invalid value for --alpha: unable to convert "x"'),
        (["combine", "e", "a", "-o", "o", "--alpha", "1", "2"], "Error: 2 values of alpha for 1 anti-experts"),
        (["combine", "e", "a", "-o", "o", "--alpha", "nan"], "Error: alpha must be a finite number, found nan"),
        (["combine", "e", "a", "-o", "o", "--rank", "0"], "Error: rank must be above 0 and is for LoRA only, found 0"),
        (["combine", "e", "a", "-o", "e"], "Error: e is also an input: choose another output"),
        (["combine", "e", "a", "-o", "o", "--nothing"], "Error: Unknown option: --nothing."),
        (["inspect", "e", "--plot", "p.png"], "Error: --plot compares two adapters: give an anti-expert too"),
        (["inspect", "e", "a", "--plot", "p.gif"], "Error: p.gif: a plot is a .png or .svg file, found '.gif'"),
        (["inspect", "none"], "Error: none: no such folder, and not a hub id"),
        (["unknown"], 'Error: Unknown command "unknown".'),
    ],
)
def test_what_the_user_can_fix_is_one_sentence_and_exit_code_2(
    extsub: Command, tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = extsub(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "e"], "nothing was written"


@pytest.mark.usefixtures("pair")
def test_a_bug_keeps_its_traceback(tmp_path: Path) -> None:
    code = "from extsub import cli, combination; combination.combine = None; cli.main(['combine', 'e', 'a', '-o', 'o'])"
    done = start(tmp_path, "-c", code)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_help_loads_neither_torch_nor_anything_heavy(tmp_path: Path) -> None:
    done = start(tmp_path, "-m", "extsub", "--help")
    assert done.returncode == 0
    assert "combine" in done.stdout
    assert "inspect" in done.stdout
    code = (
        "import sys\nfrom extsub import cli\n"
        "try: cli.main(['combine', '--help'])\nexcept SystemExit: print(*sys.modules)"
    )
    loaded = start(tmp_path, "-c", code).stdout.split()
    assert "cyclopts" in loaded
    assert not {"torch", "safetensors", "huggingface_hub", *HEAVY} & set(loaded)


@pytest.mark.usefixtures("pair")
def test_combine_loads_neither_peft_nor_transformers(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom extsub import cli\n"
        "try: cli.main(['combine', 'e', 'a', '-o', 'out', '--json'])\nexcept SystemExit: print(*sys.modules)"
    )
    done = start(tmp_path, "-c", code)
    loaded = done.stdout.splitlines()[-1].split()
    assert "torch" in loaded
    assert not HEAVY & set(loaded)


@pytest.mark.usefixtures("pair")
def test_inspect_one(extsub: Command) -> None:
    done = extsub("inspect", "e")
    assert done.stdout.splitlines() == [
        "e: LORA adapter of made-up/tiny",
        "  task       CAUSAL_LM",
        "  size       4 tensors, 96 parameters, float32, 0.9 kB",
        "  modules    2: 1 q_proj 12x8, 1 v_proj 4x8",
        "  rank       3",
        "  scaling    2",
        "  combine    yes, exactly",
    ]


def test_version(extsub: Command) -> None:
    assert extsub("--version").stdout == f"{package.__version__}\n"


def test_inspect_says_why_an_adapter_cannot_be_combined(extsub: Command, tmp_path: Path) -> None:
    build.lora(tmp_path / "dora", use_dora=True)
    done = extsub("inspect", "dora")
    assert done.returncode == 0
    assert "  combine    no: dora: use_dora is True in adapter_config.json: DoRA rescales" in done.stdout
    info = json.loads(extsub("inspect", "dora", "--json").stdout)
    assert (info["can_be_combined"], info["kind"], info["tensors"]) == (False, "LORA", 4)


@pytest.mark.usefixtures("pair")
def test_inspect_a_pair_as_table_json_and_picture(extsub: Command, tmp_path: Path) -> None:
    done = extsub("inspect", "e", "a", "--plot", "pair.svg")
    assert done.returncode == 0
    assert done.stdout.splitlines()[-4].split()[:3] == ["module", "|e|", "|a|"]
    assert (tmp_path / "pair.svg").read_text().startswith("<?xml")
    info = json.loads(extsub("inspect", "e", "a", "--json", "--plot", "pair.png").stdout)
    ratios = [module["ratio"] for module in info["modules"]]
    assert ratios == sorted(ratios, reverse=True), "worst first"
    assert (tmp_path / "pair.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("pair")
def test_a_truncated_result_says_what_was_verified(extsub: Command) -> None:
    lines = extsub("combine", "e", "a", "-o", "out", "--rank", "2").stdout.splitlines()
    (truncation,) = [line for line in lines if line.startswith("  truncation")]
    (verified,) = [line for line in lines if line.startswith("  verified")]
    assert "relative error" in truncation
    assert verified.endswith("before truncation; the file is as far from that as reported")
