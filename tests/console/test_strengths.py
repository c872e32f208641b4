"""``extsub combine --alpha 0.5,1``: a folder for each strength, as single runs make them, or none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

import adapter_files
import oracle
from adapter_files import SHAPES
from conftest import Command, contents
from extsub.console.strengths import strengths_of

Run = Callable[[str], CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path, extsub: Command) -> Run:
    """``combine`` where an expert and two anti-experts lie, one of them in float16."""
    for seed, name in enumerate(("e", "a", "b")):
        adapter_files.lora(tmp_path / name, seed=seed, rank=3 - seed)
    return lambda words: extsub("combine", *words.split())


@pytest.mark.parametrize("more", ["", "b", "b --rank 4 --operation contrast --dtype float16"])
def test_each_is_the_paper_and_byte_for_byte_a_single_run(run: Run, tmp_path: Path, more: str) -> None:
    assert run(f"e a {more} --alpha 0,0.5,-1.5 -o better").returncode == 0
    for alpha in (0, 0.5, -1.5):
        assert run(f"e a {more} --alpha {alpha} -o one/alpha-{alpha}").returncode == 0
    assert contents(tmp_path / "better") == contents(tmp_path / "one")
    if more != "b":
        return
    for alpha in (0, 0.5, -1.5):
        for name in SHAPES:
            e, a, b = (adapter_files.read_delta(tmp_path / adapter, name) for adapter in "eab")
            delta = adapter_files.read_delta(tmp_path / "better" / f"alpha-{alpha}", name)
            assert oracle.relative_error(delta, oracle.combined("ext-sub", e, [a, b], [alpha, alpha])) < 1e-6


def test_the_summary_is_short_and_says_how_to_serve_them_all(run: Run, tmp_path: Path) -> None:
    done = run("e a --alpha 0.5,1e0,4 --output better")
    assert (done.returncode, done.stderr) == (0, "")
    folders = ("alpha-0.5", "alpha-1", "alpha-4")
    records = {name: json.loads((tmp_path / "better" / name / "extsub.json").read_text()) for name in folders}
    lines = done.stdout.splitlines()
    assert lines[:2] == ["better: ext-sub of e and a at 3 strengths", "  each           2 modules, rank 5"]
    for line, (name, record) in zip(lines[2:5], records.items(), strict=True):
        factor, error = record["largest_amplification"]["factor"], record["verification"]["largest_relative_error"]
        assert line == f"  {name:14} float32, expert rows scaled by {factor:.3g} at most, verified to {error:.1e}"
    assert lines[5:] == [
        "  note: alpha-4: α is 4: beyond 3 nothing was measured",
        "written: better/: alpha-0.5, alpha-1, alpha-4",
        "next:    vllm serve made-up/tiny --enable-lora --max-lora-rank 8 --max-loras 3 --lora-modules "
        "alpha-0.5=better/alpha-0.5 alpha-1=better/alpha-1 alpha-4=better/alpha-4",
        "next:    extsub evaluate truthfulqa-mc --adapter e better/alpha-0.5 better/alpha-1 better/alpha-4 "
        "--output results",
        "see:     docs/serving.md for servers, several strengths and the way back",
    ]
    written = json.loads(run("e a --alpha 0.5,1e0,4 -o better --overwrite --json").stdout)
    assert written == [{"output": f"better/{name}", **record} for name, record in records.items()]


def test_where_no_server_takes_them_it_says_why(run: Run, tmp_path: Path) -> None:
    for seed, name in enumerate(("i", "j")):
        adapter_files.ia3(tmp_path / name, seed=seed)
    lines = run("i j --alpha 1,2 -o better").stdout.splitlines()
    assert "  serve          no: servers take LoRA only, not IA3" in lines
    assert [line for line in lines if line.startswith("next:")] == [
        "next:    extsub evaluate truthfulqa-mc --adapter i better/alpha-1 better/alpha-2 --output results"
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--alpha 0.5,0.50", "--alpha 0.5,0.50: alpha-0.5 would be written twice: leave one out\n"),
        ("--alpha 1,x", "--alpha 1,x: expected a number (0.5), or several with commas (0.5,1,1.5)"),
        ("--alpha 1,", "--alpha 1,: expected a number"),
        ("--alpha --rank", "--alpha --rank: expected a number"),
        ("--alpha 1,nan", "alpha must be a finite number, found nan"),
        ("--alpha inf,1", "alpha must be a finite number, found inf"),
        (
            "--alpha 1,2 --alpha 3",
            "--alpha 1,2: with commas it is for all anti-experts: give it alone, or --alpha with",
        ),
        (
            "--alpha 3 --alpha 1,2",
            "--alpha 1,2: with commas it is for all anti-experts: give it alone, or --alpha with",
        ),
        ("--alpha 0,1 --deficiency", "--deficiency: d is the same at every alpha: write it once, without --alpha"),
    ],
)
def test_what_cannot_be_is_one_sentence(run: Run, tmp_path: Path, words: str, message: str) -> None:
    refused = run(f"e a b -o deep/better {words}")
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert refused.stderr.startswith(f"Error: {message}")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "e"]


def test_what_is_typed() -> None:
    assert strengths_of(()) == [[1.0]]
    assert strengths_of(("0.5",)) == [[0.5]]
    assert strengths_of(("0.5", "-1")) == [[0.5, -1.0]]
    assert strengths_of(("0.5,-1, 2",)) == [[0.5], [-1.0], [2.0]]


def test_one_that_cannot_be_written_leaves_none(run: Run, tmp_path: Path) -> None:
    """The second is too large for its dtype."""
    refused = run("e a --alpha 1,1e9 --dtype float16 -o deep/better")
    assert refused.returncode == 2
    assert "float16" in refused.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "e"]


def test_only_what_extsub_wrote_is_replaced(run: Run, tmp_path: Path) -> None:
    def at(alphas: str, *more: str) -> str:
        return " ".join(("e a -o better --alpha", alphas, *more))

    better = tmp_path / "better"
    assert run(at("1,2")).returncode == 0
    before = contents(better)
    exists = "Error: better already exists: choose another output, or pass --overwrite to replace it\n"
    assert [run(at(alphas)).stderr for alphas in ("1,2", "3,4", "1")] == [exists] * 3
    assert contents(better) == before
    assert run(at("3,4", "--overwrite")).returncode == 0
    assert sorted(path.name for path in better.iterdir()) == ["alpha-3", "alpha-4"], "as a whole"
    assert run(at("1", "--overwrite")).returncode == 0
    assert sorted(path.name for path in better.iterdir())[0] == "README.md", "by a single one"
    assert run(at("1,2", "--overwrite")).returncode == 0
    assert contents(better) == before

    (better / "alpha-2" / "mine.txt").touch()
    refused = run(at("1,2", "--overwrite")).stderr
    assert refused.startswith("Error: better/alpha-2 holds files that extsub did not write, first mine.txt: ")
    (better / "alpha-2" / "mine.txt").rename(better / "mine.txt")
    assert "better was not written by extsub (it has no extsub.json)" in run(at("1,2", "--overwrite")).stderr
    (better / "mine.txt").unlink()
    (better / "alpha-2" / "extsub.json").unlink()
    assert "better/alpha-2 was not written by extsub" in run(at("1,2", "--overwrite")).stderr


def test_an_input_is_never_inside(run: Run, tmp_path: Path) -> None:
    assert "e is also an input" in run("e a --alpha 1,2 -o e --overwrite").stderr
    assert run("e a --alpha 1,2 -o better").returncode == 0
    refused = run("better/alpha-1 a --alpha 1,2 -o better --overwrite").stderr
    assert "better and the input better/alpha-1 lie inside one another" in refused


def test_what_a_killed_run_left_is_cleared_and_nothing_else(run: Run, tmp_path: Path) -> None:
    left = tmp_path / ".better.partial"
    for name in ("alpha-7", "alpha-9"):
        (left / name).mkdir(parents=True)
    (left / "alpha-9" / "adapter_model.safetensors").touch()
    (left / "alpha-9" / "thesis.tex").touch()
    refused = run("e a --alpha 1,2 -o better")
    assert refused.stderr.startswith(
        "Error: .better.partial/alpha-9 holds files that extsub did not write, first thesis"
    )
    (left / "alpha-9" / "thesis.tex").unlink()
    assert run("e a --alpha 1,2 -o better").returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "better", "e"]
    assert sorted(path.name for path in (tmp_path / "better").iterdir()) == ["alpha-1", "alpha-2"]
