"""Scores on the card: they are the adapter's own, of the half that chose nothing, and the hub reads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import EvalResult, model_index_to_eval_results

import adapter_files
import sweep_files
from benchmark_files import rows_of
from conftest import Command
from extsub import ExtSubError, combine, load_adapter, push, save_adapter
from extsub.adapters.adapter import sha256
from extsub.combination.profile import Profile
from extsub.sweeping.selection import half_of


@pytest.fixture
def swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A made-up sweep of two adapters that are there, in ``swept``."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("expert", "anti")):
        adapter_files.lora(tmp_path / name, seed=seed)
    record = sweep_files.made_up(tmp_path / "swept", items=60, alphas=(0.5, 1.0), operations=("ext-sub", "subtract"))
    record["made_of"]["adapters"] = [load_adapter(name).source.provenance() for name in ("expert", "anti")]
    record["settings"]["prompt"] = "chat"
    sweep_files.write(tmp_path / "swept", record)
    return record


def made(name: str = "better", **options: Any) -> Path:
    save_adapter(combine("expert", "anti", **options), name)
    return Path(name)


def chosen(record: dict[str, Any]) -> float:
    return record["positions"][record["chosen"]["ext-sub"]["position"]]["alpha"]


def results_of(card: str) -> dict[str, EvalResult]:
    """What the hub makes of the front matter."""
    data = ModelCard(card).data
    name, results = model_index_to_eval_results(data.to_dict()["model-index"])
    assert name == "better"
    assert data.eval_results == results
    return {f"{result.dataset_name}: {result.metric_type}": result for result in results}


def held_out(position: str, task: str) -> list[dict[str, Any]]:
    rows = rows_of(Path(f"swept/positions/{position}/{task}.jsonl"))
    return [row for row in rows if half_of((row["index"], 0), 0) == "test"]


def test_a_sweeps_figures_on_the_half_that_did_not_choose(swept: dict[str, Any]) -> None:
    alpha = chosen(swept)
    card = push(made(alpha=alpha), "ann/better", scores="swept", dry_run=True)["card"]
    results = results_of(card)
    mc2 = results["truthfulqa-mc, held-out half: mc2"]
    rows = held_out(f"ext-sub-{alpha:g}", "truthfulqa-mc")
    assert mc2.metric_value == pytest.approx(fmean(row["scores"]["mc2"] for row in rows), rel=1e-4)
    assert (mc2.task_type, mc2.dataset_type, mc2.metric_args["n"]) == ("text-generation", "truthfulqa-mc", len(rows))
    of_choice = swept["chosen"]["ext-sub"]["test"]  # of mc1, by which the strength was chosen
    mc1 = results["truthfulqa-mc, held-out half: mc1"]
    assert mc1.metric_value == pytest.approx(of_choice["value"], rel=1e-4)
    assert mc1.metric_args["ci95"] == pytest.approx(of_choice["ci95"], rel=1e-4)
    assert not [name for name in results if "chance" in name or "longest" in name], "controls are no scores of ours"
    (line,) = [line for line in card.splitlines() if line.startswith("| truthfulqa-mc | mc1 ↑ |")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    for cell, position in zip(cells[2:], (f"ext-sub-{alpha:g}", "expert", "base"), strict=False):
        own = fmean(row["scores"]["mc1"] for row in held_out(position, "truthfulqa-mc"))
        value, _, interval = cell.partition(" ")
        assert float(value) == pytest.approx(own, abs=0.006)
        low, high = json.loads(interval)
        assert low < own < high
    assert cells[-1] == str(len(rows))
    head = card.splitlines()[card.splitlines().index("## Scores") + 2 :]
    assert head[0] == (
        "Measured by extsub on the half of the items that did not choose the strength, asked with the prompt template "
        "chat. 95 % intervals in brackets; ↑ higher is better, ↓ lower is better."
    )
    assert head[2] == "| task | score | this adapter | expert | base | n |"
    assert (
        "chosen on the other half by truthfulqa-mc.mc1 (best), within the budget perplexity <= 1.05 \\* expert" in card
    )
    assert "What it does beyond the scores above, and what that costs in other abilities, was not measured" in card


def test_another_strength_was_not_the_sweeps_choice(swept: dict[str, Any]) -> None:
    (other,) = {0.5, 1.0} - {chosen(swept)}
    card = push(made(alpha=other), "ann/better", scores="swept", dry_run=True)["card"]
    assert "on the half of the items that a sweep does not choose by, asked" in card
    assert "chosen on the other half" not in card


def test_of_a_truncated_result_the_exact_one_was_measured(swept: dict[str, Any]) -> None:
    card = push(made(alpha=1, rank=2), "ann/better", scores="swept", dry_run=True)["card"]
    assert "It was truncated to rank 2, with a relative error of " in card
    assert "; the scores are those before that.\n" in card


def test_the_expert_itself_has_scores_in_its_sweep(swept: dict[str, Any]) -> None:
    size = Path("expert/adapter_model.safetensors").stat().st_size
    record = {"bytes": size, "template": None, "notes": [], "versions": {"extsub": "0.1.0"}}
    Path("expert/extsub.json").write_text(json.dumps(record))
    card = push("expert", "ann/better", scores="swept", dry_run=True)["card"]
    assert "| task | score | this adapter | base | n |" in card
    value = results_of(card)["truthfulqa-mc, held-out half: mc2"].metric_value
    assert value == pytest.approx(fmean(row["scores"]["mc2"] for row in held_out("expert", "truthfulqa-mc")), rel=1e-4)


def test_several_anti_experts_may_stand_in_any_order(swept: dict[str, Any]) -> None:
    adapter_files.lora(Path("third"), seed=5)
    swept["made_of"]["adapters"].append(load_adapter("third").source.provenance())
    sweep_files.write(Path("swept"), swept)
    save_adapter(combine("expert", "third", "anti", alpha=1), "better")
    assert "## Scores" in push("better", "ann/better", scores="swept", dry_run=True)["card"]
    save_adapter(combine("expert", "third", "anti", alpha=[1, 0.5]), "uneven")
    with pytest.raises(ExtSubError, match="has not asked ext-sub at α 0.5 and 1, which this adapter is"):
        push("uneven", "ann/better", scores="swept", dry_run=True)
    with pytest.raises(ExtSubError, match="by their hashes are not what this adapter was made from"):
        push(made("fewer"), "ann/better", scores="swept", dry_run=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: made(alpha=0.75), "ext-sub at α 0.75, which this adapter is; its strengths of it are 0.5, 1"),
        (lambda: made(operation="add"), "add at α 1, which this adapter is; its strengths of it are none"),
        (lambda: made(profile=Profile(kinds={"q_proj": 2.0})), "has not asked ext-sub at α 1 by a profile, which"),
        (lambda: made(deficiency=True), "this is the deficiency, which no sweep has asked: push the result"),
        (
            lambda: save_adapter(combine("anti", "expert"), "better"),
            "the sweep is of expert and anti, which by their hashes are not what this adapter was made from",
        ),
    ],
)  # fmt: skip
def test_a_sweep_of_something_else_is_refused(swept: dict[str, Any], make: Callable, message: str) -> None:
    make()
    with pytest.raises(ExtSubError) as refused:
        push("better", "ann/better", scores="swept", dry_run=True)
    assert str(refused.value).startswith("--scores swept: ")
    assert message in str(refused.value)


def test_the_same_weights_under_another_config_are_another_adapter(swept: dict[str, Any]) -> None:
    made()
    swept["made_of"]["adapters"][0]["config_sha256"] = "0" * 64
    sweep_files.write(Path("swept"), swept)
    with pytest.raises(ExtSubError, match="by their hashes are not what this adapter was made from"):
        push("better", "ann/better", scores="swept", dry_run=True)


# ---- of an evaluation ------------------------------------------------------------------------------------------------


def results(folder: str, adapter: dict[str, Any] | None, **more: Any) -> None:
    """As ``extsub evaluate`` writes them."""
    figure = {"value": 0.25, "ci95": [0.125, 0.5], "n": 1234}
    tasks = {"truthfulqa-mc": {"mc2": figure, "mc2_chance": figure}, "perplexity": {"perplexity": figure}}
    run = {"identity": {"data": "d" * 64, "limit": None, "prompt": "extsub"}, "data": "ann/questions@main"}
    record = {
        "model": {"base": "owner/base", "base_commit": "b" * 40, "base_sha256": None, "adapter": adapter, **more},
        "tasks": tasks,
        "runs": {"truthfulqa-mc": run, "perplexity": {**run, "data": "/home/ann/text.jsonl"}},
    }
    Path(folder).mkdir(parents=True)
    (Path(folder) / "results.json").write_text(json.dumps(record))


def hashes(folder: Path) -> dict[str, str]:
    names = {"weights_sha256": "adapter_model.safetensors", "config_sha256": "adapter_config.json"}
    return {name: sha256(folder / file) for name, file in names.items()}


def test_an_evaluations_figures_are_of_all_items(swept: dict[str, Any]) -> None:
    results("asked/better", {"name": "better", "commit": None, **hashes(made())})
    card = push("better", "ann/better", scores="asked/better", dry_run=True)["card"]
    metrics = results_of(card)
    assert set(metrics) == {"truthfulqa-mc on ann/questions: mc2", "perplexity on text.jsonl: perplexity"}
    mc2 = metrics["truthfulqa-mc on ann/questions: mc2"]
    assert (mc2.metric_value, mc2.dataset_type) == (0.25, "ann/questions")
    assert mc2.metric_args == {"ci95": [0.125, 0.5], "n": 1234, "better": "higher"}
    assert metrics["perplexity on text.jsonl: perplexity"].metric_args["better"] == "lower"
    assert "| truthfulqa-mc | mc2 ↑ | 0.25 [0.12, 0.50] | 1,234 |\n" in card
    assert "Measured by extsub on all items, asked with the prompt template extsub." in card
    assert "- base model owner/base, commit bbbbbbbbbbbb" in card.replace("b" * 40, "b" * 12)
    assert "/home" not in card


@pytest.mark.parametrize(
    ("adapter", "more", "message"),
    [
        (
            {"name": "other", "weights_sha256": "0" * 64},
            {},
            "results.json is of other, which by its hashes is not this",
        ),
        (None, {}, "results.json is of owner/base, which by its hashes is not this adapter"),
        (None, {"operation": "ext-sub", "alpha": 1}, "results.json is of one position of a sweep: give the folder of"),
    ],
)
def test_results_of_something_else_are_refused(
    swept: dict[str, Any], extsub: Command, adapter: Any, more: dict[str, Any], message: str
) -> None:
    made()
    results("asked", adapter, **more)
    refused = extsub("push", "better", "ann/better", "--scores", "asked", "--dry-run")
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"Error: --scores asked: {message}")
    assert refused.stderr.count("\n") == 1


def test_where_there_are_no_scores_the_nearest_are_named(swept: dict[str, Any]) -> None:
    made()
    for name in ("better", "expert"):
        results(f"asked/{name}", None)
    with pytest.raises(ExtSubError) as refused:
        push("better", "ann/better", scores="asked", dry_run=True)
    assert str(refused.value) == (
        "--scores asked: neither sweep.json nor results.json is there; there are some in better, expert: give one of "
        "these folders"
    )
    with pytest.raises(ExtSubError, match="^--scores none: neither sweep.json nor results.json is there$"):
        push("better", "ann/better", scores="none", dry_run=True)
