"""Every file that extsub writes has a format number, by which it is refused, and the fields of docs/files.md."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import adapter_files
import benchmark_files
import merge_files
from benchmark_files import done
from conftest import Command

PAGE = (Path(__file__).parents[1] / "docs" / "files.md").read_text(encoding="utf-8")
OPTIONAL = {"profile", "scores", "search", "references", "compared"}

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries


def documented(name: str) -> set[str]:
    """The fields of a file, by the first column of its table."""
    (section,) = (part for part in PAGE.split("\n## ") if part.startswith(f"{name}:"))
    return {
        field for cell in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for field in re.findall(r"`(\w+)`", cell)
    }


def has_the_fields(path: Path, section: str = "") -> None:
    record, fields = json.loads(path.read_text()), documented(section or path.name)
    assert record["format"] == 1
    assert fields - OPTIONAL <= record.keys() <= fields


def of_a_later_extsub(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))


def test_combined(extsub: Command, tmp_path: Path) -> None:
    for seed, name in enumerate(("e", "a")):
        adapter_files.lora(tmp_path / name, seed=seed)
    done(extsub("combine", "e", "a", "--output", "o"))
    has_the_fields(tmp_path / "o" / "extsub.json")


def test_merged(extsub: Command, tmp_path: Path) -> None:
    merge_files.plain(tmp_path / "base")
    adapter_files.lora(tmp_path / "e")
    done(extsub("merge", "base", "e", "--output", "o"))
    has_the_fields(tmp_path / "o" / "extsub.json", "extsub.json beside a merged model")


def test_trained(extsub: Command, tmp_path: Path) -> None:
    benchmark_files.base(tmp_path / "base")
    benchmark_files.lines(tmp_path / "data.jsonl", [{"instruction": "Who?", "output": "Nobody."}] * 4)
    trained = extsub("train", "--model", "base", "--data", "data.jsonl", "--output", "o", "--batch-size", 2)
    assert trained.returncode == 0
    has_the_fields(tmp_path / "o" / "training.json")
    before = json.loads((tmp_path / "o" / "training.json").read_text())["settings"]["template"]
    for seed, name in enumerate(("e", "a")):
        adapter_files.lora(tmp_path / name, seed=seed)
        (tmp_path / name / "training.json").write_text((tmp_path / "o" / "training.json").read_text())
    assert json.loads(done(extsub("combine", "e", "a", "--output", "known", "--json")))["template"] == before
    for name in ("e", "a"):
        of_a_later_extsub(tmp_path / name / "training.json")
    assert json.loads(done(extsub("combine", "e", "a", "--output", "unknown", "--json")))["template"] is None


def test_evaluated_and_swept(extsub: Command, made: Path, tmp_path: Path) -> None:
    base, adapter, data = made / "base", made / "lora", made / "data" / "text.txt"
    asked = (
        "--tasks",
        "perplexity",
        "--data",
        data,
        "--alphas",
        1,
        "--operations",
        "ext-sub",
        "--references",
        "icd",
        "--output",
        "swept",
    )
    done(extsub("sweep", adapter, adapter, *asked, "--model", base))
    has_the_fields(tmp_path / "swept" / "sweep.json")
    results = tmp_path / "swept" / "positions" / "base" / "results.json"
    has_the_fields(results)
    of_a_later_extsub(tmp_path / "swept" / "sweep.json")
    refused = extsub("report", "swept")
    assert (refused.returncode, refused.stderr) == (
        2, "Error: swept/sweep.json has format 2, and this extsub reads format 1: use the extsub that wrote it, or "
        "make it anew\n",
    )  # fmt: skip
    of_a_later_extsub(results)
    refused = extsub("compare", results.parent, results.parent.parent / "expert")
    assert refused.returncode == 2
    assert "results.json has format 2, and this extsub reads format 1" in refused.stderr


def test_negatives(extsub: Command, tmp_path: Path) -> None:
    benchmark_files.lines(tmp_path / "good.jsonl", [{"instruction": "Who?", "output": "Nobody knows."}])
    with benchmark_files.serving() as served:
        done(
            extsub(
                "negatives",
                "good.jsonl",
                "--behaviour",
                "toxic",
                "--model",
                "served",
                "--url",
                served.url,
                "--output",
                "b.jsonl",
            )
        )
    has_the_fields(tmp_path / "b.summary.json", "summary.json of negatives")
