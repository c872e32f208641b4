"""A short run of the fuzzer (make fuzz), with the same files every time."""

from __future__ import annotations

from pathlib import Path

import pytest

import corrupted_files
import fuzz

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries
KINDS = ("lora", "patterns", "embedding", "conv", "experts", "adalora", "ia3", "prefix")
ATTACHED = ("lora", "patterns", "adalora", "ia3", "prefix")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "pickle"])
def test_what_is_not_spoilt_is_read_and_right(tmp_path: Path, kind: str, pickled: bool) -> None:
    fuzz.counts.clear()
    fuzz.adapters(tmp_path, corrupted_files.Spoilt(kind, {}, pickled=pickled))
    assert fuzz.counts["combine", "read"] == 1
    assert fuzz.counts["combine", "compared"] or kind in ("embedding", "conv", "experts")
    if kind in ATTACHED:
        fuzz.attached(tmp_path / "other", corrupted_files.Spoilt(kind, {}, pickled=pickled))
        assert fuzz.counts["attach", "read"] == 1


def test_recipe_and_records_are_read_when_they_are_whole(tmp_path: Path) -> None:
    fuzz.counts.clear()
    fuzz.recipes(tmp_path, [])
    fuzz.rows(tmp_path, ([0], "Why?", ()))
    fuzz.records(tmp_path, ([], fuzz.SWEEP, ()))
    refused = {target for target, ending in fuzz.counts if ending == "refused"}
    assert refused == {"results.json", "items", "profile", "stages.json"}, "which are not sweep"


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_spoilt_files_are_read_rightly_or_refused_in_a_sentence(target: str) -> None:
    fuzz.counts.clear()
    fuzz.fuzz(target, 60, seed=0)
    assert {ending for _, ending in fuzz.counts} >= {"read", "refused"}
