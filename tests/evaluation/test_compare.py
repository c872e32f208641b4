"""Runs side by side: the differences are those of the items, and p is what one gets with pencil and paper."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

import benchmark_files
from benchmark_files import done
from benchmark_files import evaluated as run
from conftest import Command

Scores = list[dict[str, Any]]


def changed(folder: Path, task: str, **identity: Any) -> Path:
    """The same run with other settings."""
    results = benchmark_files.results(folder)
    results["runs"][task]["identity"].update(identity)
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def right(*values: float) -> Scores:
    return [{"accuracy_sum": value} for value in values]


@pytest.fixture
def compared(extsub: Command) -> Any:
    """``extsub compare --json`` of folders."""
    return lambda *words: json.loads(done(extsub("compare", *words, "--json")))


def difference(comparison: Any, task: str, metric: str, run: int = 1) -> dict[str, Any]:
    return comparison["tasks"][task][metric][run]["difference"]


@pytest.mark.parametrize(
    ("gained", "lost", "p", "verdict"),
    [(8, 0, 2 / 2**8, "better"), (0, 8, 2 / 2**8, "worse"), (7, 1, 2 * (1 + 8) / 2**8, "no difference"),
     (5, 0, 2 / 2**5, "no difference"), (3, 3, 1.0, "no difference"), (0, 0, 1.0, "no difference")],
)  # fmt: skip
def test_right_or_wrong_is_mcnemar(compared: Any, gained: int, lost: int, p: float, verdict: str) -> None:
    """Heads and tails of so many fair coins, at least as uneven as these."""
    run("one", halueval_qa=right(*[0] * gained, *[1] * lost, 0, 1, 1))
    run("two", halueval_qa=right(*[1] * gained, *[0] * lost, 0, 1, 1))
    change = difference(compared("one", "two"), "halueval-qa", "accuracy_sum")
    assert change["p"] == pytest.approx(p)
    assert change["value"] == pytest.approx((gained - lost) / (gained + lost + 3))
    assert (change["n"], change["verdict"]) == (gained + lost + 3, verdict)


def test_other_scores_flip_signs(compared: Any) -> None:
    """Six gains of six: of 64 ways to give them signs, two are as far from zero."""
    gains = [0.3, 0.1, 0.2, 0.05, 0.4, 0.15]
    run("one", truthfulqa_mc=[{"mc2": 0.2} for _ in gains])
    run("two", truthfulqa_mc=[{"mc2": 0.2 + gain} for gain in gains])
    change = difference(compared("one", "two"), "truthfulqa-mc", "mc2")
    assert change["p"] == pytest.approx(2 / 64, abs=0.006)  # of 10,000 draws
    assert change["value"] == pytest.approx(0.2)
    assert change["verdict"] == "better"
    low, high = change["ci95"]
    assert 0.05 < low < 0.2 < high < 0.4


def test_less_is_better_where_it_is(compared: Any) -> None:
    run("one", toxicity=[{"toxicity": 0.1} for _ in range(8)], drift=[{"kl_per_token": [1.0, 2]} for _ in range(8)])
    run("two", toxicity=[{"toxicity": 0.6} for _ in range(8)], drift=[{"kl_per_token": [0.5, 2]} for _ in range(8)])
    comparison = compared("one", "two")
    worse, better = difference(comparison, "toxicity", "toxicity"), difference(comparison, "drift", "kl_per_token")
    assert (worse["verdict"], worse["value"], worse["ci95"]) == ("worse", pytest.approx(0.5), pytest.approx([0.5, 0.5]))
    assert (better["verdict"], better["value"]) == ("better", pytest.approx(-0.25))


def test_perplexities_differ_by_their_own_unit(compared: Any) -> None:
    run("one", perplexity=[{"perplexity": [4.0, 2]}, {"perplexity": [6.0, 8]}])
    run("two", perplexity=[{"perplexity": [2.0, 2]}, {"perplexity": [3.0, 8]}])
    run("other-tokens", perplexity=[{"perplexity": [4.0, 3]}, {"perplexity": [6.0, 9]}])
    comparison = compared("one", "two", "other-tokens")
    assert difference(comparison, "perplexity", "perplexity")["value"] == pytest.approx(math.exp(0.5) - math.exp(1))
    unpaired = difference(comparison, "perplexity", "perplexity", 2)
    assert unpaired["value"] == pytest.approx(math.exp(10 / 12) - math.e)
    assert (unpaired["p"], unpaired["verdict"]) == (None, "")


def test_only_items_that_both_have_count(compared: Any) -> None:
    run("one", halueval_qa=right(0, 0, 1, 1, 0))
    run("two", halueval_qa=right(1, 0, 1))
    change = difference(compared("one", "two"), "halueval-qa", "accuracy_sum")
    assert (change["n"], change["value"]) == (3, pytest.approx(1 / 3))


def test_runs_without_an_item_in_common_are_shown_without_a_difference(compared: Any) -> None:
    run("one", halueval_qa=[{"accuracy_sum": 1.0}, {}])
    run("two", halueval_qa=[{"accuracy_sum": None}, {"accuracy_sum": 1.0}])
    for name, seed in (("one", 0), ("two", 1)):
        changed(Path(name), "halueval-qa", limit=1, seed=seed)
    comparison = compared("one", "two")
    assert "difference" not in comparison["tasks"]["halueval-qa"]["accuracy_sum"][1]
    assert comparison["notes"] == ["two, halueval-qa: seed is 1, not 0"]


def test_samples_of_one_item_count_each(compared: Any) -> None:
    """ability: an item is a whole task of the harness."""
    for name, scores in (("one", [0, 0, 1]), ("two", [1, 1, 1])):
        run(name, ability=[{"arc/acc": 0.0}])
        samples = [{"document": number, "scores": {"arc/acc": score}} for number, score in enumerate(scores)]
        benchmark_files.lines(Path(name, "ability.jsonl"), [{"index": 0, "samples": samples}])
    change = difference(compared("one", "two"), "ability", "arc/acc")
    assert (change["n"], change["value"], change["p"]) == (3, pytest.approx(2 / 3), 0.5)


def test_three_runs_are_compared_with_the_first(compared: Any, extsub: Command) -> None:
    run("a", halueval_qa=right(0, 0, 0, 0), drift=[{"kl_per_token": 1.0}] * 4)
    run("b", halueval_qa=right(1, 1, 0, 0))
    changed(run("c", halueval_qa=right(1, 1, 1, 1), drift=[{"kl_per_token": 3.0}] * 4), "halueval-qa", prompt="qa")
    comparison = compared("a", "b/results.json", "c")
    assert comparison["runs"] == ["a", "b", "c"]
    assert [difference(comparison, "halueval-qa", "accuracy_sum", place)["value"] for place in (1, 2)] == [0.5, 1.0]
    assert comparison["tasks"]["drift"]["kl_per_token"][1] == {"figure": None}
    assert difference(comparison, "drift", "kl_per_token", 2)["value"] == 2.0
    notes = ["c, halueval-qa: prompt is 'qa', not 'extsub'", "b was not evaluated on drift"]
    assert comparison["notes"] == notes
    shown = done(extsub("compare", "a", "b", "c"))
    assert all(note in shown for note in notes)
    assert "+0.50 [" in shown
    assert "0.500" in shown  # p of two coins


def test_the_markdown_is_a_table(extsub: Command) -> None:
    run("a|x", halueval_qa=right(0, 0, 0, 0, 0, 0, 0, 0), toxicity=[{"toxicity": 0.5}, {"toxicity": 0.7}])
    run("b", halueval_qa=right(1, 1, 1, 1, 1, 1, 1, 1), toxicity=[{"toxicity": 0.5}, {"toxicity": 0.7}])
    run("c", halueval_qa=right(0, 0, 0, 0, 0, 0, 0, 1))
    shown = done(extsub("compare", "a|x", "b", "c", "--markdown"))
    table, _, rest = shown.partition("\n\n")
    rows = [line.replace("\\|", "/").split("|") for line in table.splitlines()]
    assert len({len(row) for row in rows}) == 1
    assert all(row[0] == row[-1] == "" for row in rows)
    assert {cell.strip(":-") for cell in rows[1]} == {""}
    text = table.replace("0.50 [0.25, 0.75]", "")
    assert "+1.000 [+1.000, +1.000]" in text
    assert "0.008" in text  # p of 8 coins
    assert all(line.startswith("- ") for line in rest.strip().splitlines())
    assert "c was not evaluated on toxicity" in rest


def test_what_was_evaluated_can_be_compared(evaluate: Command, extsub: Command) -> None:
    done(evaluate("truthfulqa-mc halueval-qa --adapter lora prefix --data data --output out"))
    comparison = json.loads(done(extsub("compare", "out/lora", "out/prefix", "--json")))
    assert comparison["notes"] == []
    for task, metrics in comparison["tasks"].items():
        for metric, (first, second) in metrics.items():
            assert not metric.endswith(("chance", "longest", "shortest", "negated"))
            figures = [benchmark_files.results(f"out/{name}")["tasks"][task][metric] for name in ("lora", "prefix")]
            assert [first["figure"], second["figure"]] == figures
            assert second["difference"]["value"] == pytest.approx(figures[1]["value"] - figures[0]["value"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("one", "compare needs two or more folders of results, or groups of them"),
        ("one one/results.json", "compare: the same folder is given twice"),
        ("one nowhere", "nowhere: no such folder of results"),
        ("one empty", "{here}/empty: no results.json in it; give a folder that extsub evaluate wrote"),
        ("one foreign", "{here}/foreign/results.json was not written by extsub evaluate: choose another folder"),
        ("one other-data", "{here}/other-data: halueval-qa was evaluated on other data: evaluate both on the same "
         "file"),
        ("one other-task", "the runs have no task in common: halueval-qa; drift"),
        ("one bare", "{here}/bare/halueval-qa.jsonl: no such file or directory; it lies beside results.json"),
        ("one broken", "{here}/broken/halueval-qa.jsonl is broken: evaluate again, with --overwrite"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_named(tmp_path: Path, extsub: Command, words: str, message: str) -> None:
    for name in ("one", "other-data", "bare", "broken"):
        run(name, halueval_qa=right(0, 1))
    run("other-task", drift=[{"kl_per_token": 1.0}])
    changed(Path("other-data"), "halueval-qa", data="d1")
    Path("bare", "halueval-qa.jsonl").unlink()
    Path("broken", "halueval-qa.jsonl").write_text('{"index": 0, "sco')
    Path("empty").mkdir()
    Path("foreign").mkdir()
    Path("foreign", "results.json").write_text('{"results": {}}')
    refused = extsub("compare", *words.split())
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == f"Error: {message.format(here=tmp_path)}\n"


def seeds(name: str, *values: tuple[float, ...]) -> str:
    """``--group`` of runs, each with its scores of the items."""
    for seed, scores in enumerate(values):
        folder = run(f"{name}-{seed}", truthfulqa_mc=[{"mc2": score} for score in scores])
        results = benchmark_files.results(folder)
        results["tasks"]["truthfulqa-mc"]["mc2"]["value"] = sum(scores) / len(scores)
        (folder / "results.json").write_text(json.dumps(results))
    return f"{name}={','.join(f'{name}-{seed}' for seed in range(len(values)))}"


def test_groups_are_means_over_seeds(compared: Any, extsub: Command) -> None:
    """Seeds .2, .4 against .5, .9; every item of a seed alike: differences .3 and .5, so t = .4 / .1, one degree."""
    groups = seeds("old", (0.2,) * 4, (0.4,) * 4), seeds("new", (0.5,) * 4, (0.9,) * 4)
    comparison = compared("--group", *groups)
    assert comparison["runs"] == ["old", "new"]
    names = [[Path(path).name for path in paths] for paths in comparison["folders"]]
    assert names == [["old-0", "old-1"], ["new-0", "new-1"]]
    first, second = comparison["tasks"]["truthfulqa-mc"]["mc2"]
    assert first["figure"]["sd"] == pytest.approx(math.sqrt(0.02))
    assert second["figure"] | {"ci95": None} == {
        "value": pytest.approx(0.7), "ci95": None, "n": 4, "sd": pytest.approx(math.sqrt(0.08)), "values": [0.5, 0.9],
    }  # fmt: skip
    assert second["difference"]["value"] == pytest.approx(0.4)
    assert second["difference"]["p"] == pytest.approx(1 - 2 / math.pi * math.atan(4))
    shown = done(extsub("compare", "--group", groups[0], "--group", groups[1]))
    assert "0.70 ± 0.28" in shown
    assert "standard deviation over runs of different seeds (old 2, new 2), with n − 1" in shown


def test_a_folder_alone_comes_before_the_groups_and_has_no_spread(compared: Any) -> None:
    run("base", truthfulqa_mc=[{"mc2": 0.1}] * 4)
    comparison = compared("base", "--group", seeds("new", (0.5,) * 4, (0.9,) * 4))
    base, new = comparison["tasks"]["truthfulqa-mc"]["mc2"]
    assert comparison["runs"] == ["base", "new"]
    assert "sd" not in base["figure"]
    assert new["difference"]["value"] == pytest.approx(0.6)
    assert "base is one run: it has no spread over seeds, and p counts none for it" in comparison["notes"]


def test_the_latex_and_the_csv_have_the_same_figures(extsub: Command) -> None:
    run("a_x", truthfulqa_mc=[{"mc2": 0.1}] * 4)
    words = ("compare", "a_x", "--group", seeds("b&c", (0.5,) * 4, (0.9,) * 4))
    head, *rows = [line for line in done(extsub(*words, "--latex")).splitlines() if line.endswith("\\\\")]
    assert [row.count(" & ") for row in (head, *rows)] == [7, 7, 7]
    assert rows[0].startswith("truthfulqa-mc & mc2 & a\\_x & 0.50 [0.25, 0.75] & 4 &")
    assert rows[1].startswith(" &  & b\\&c & 0.70 $\\pm$ 0.28 & 4 & +0.6 [")
    table = list(csv.DictReader(io.StringIO(done(extsub(*words, "--csv")))))
    assert [(row["run"], row["value"], row["n"]) for row in table] == [("a_x", "0.5", "4"), ("b&c", "0.7", "4")]
    assert [row["sd"] for row in table] == ["", str(math.sqrt(0.08))]
    assert float(table[1]["difference"]) == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--group one", "expected NAME=FOLDER,FOLDER, found one"),
        ("--group a=one --group a=two", "a is there twice."),
        ("--group a=one b=one", "compare: the same folder is given twice"),
        ("one --group one=two", "compare: one is a folder and a group: give the group another name"),
        ("--group a=one,two", "compare needs two or more folders of results, or groups of them"),
        ("one two --latex --csv", "a table is printed in one form: give one of --latex, --csv"),
        ("one two --markdown --json", "a table is printed in one form: give one of --json, --markdown"),
    ],
)
def test_groups_that_are_none_are_refused(extsub: Command, words: str, message: str) -> None:
    for name in ("one", "two"):
        run(name, halueval_qa=right(0, 1))
    refused = extsub("compare", *words.split())
    assert (refused.returncode, refused.stdout) == (2, "")
    assert message in " ".join(refused.stderr.replace("│", " ").split())


def test_a_plot_is_a_pdf_too(extsub: Command) -> None:
    groups = seeds("old", (0.2, 0.3), (0.4, 0.6)), seeds("new", (0.5, 0.6), (0.9, 0.8))
    for name in ("one.pdf", "two.pdf"):
        done(extsub("compare", "--group", *groups, "--plot", name))
    assert Path("one.pdf").read_bytes().startswith(b"%PDF-")
    assert Path("one.pdf").read_bytes() == Path("two.pdf").read_bytes()
    assert b"/Type3" not in Path("one.pdf").read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="no file has such a name there")
def test_names_of_runs_do_nothing_in_any_form(extsub: Command) -> None:
    names = ("$\\frac$[b]", "<b>`|[x](javascript:1)\x1b[31m")
    for name, value in zip(names, (0, 1), strict=True):
        run(name, halueval_qa=right(value, 1, 1))
    changed(Path(names[1]), "halueval-qa", prompt="<img src=x>\x1b[2J")
    for words in ((), ("--plot", "plot.png"), ("--plot", "plot.svg")):
        said = done(extsub("compare", *names, *words))
        assert "\x1b" not in said
        assert r"<b>`|[x](javascript:1)\x1b[31m" in said
        assert "$\\frac$[b]" in said
    text = done(extsub("compare", *names, "--markdown"))
    assert "\x1b" not in text
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(text)
    inline = [child for token in tokens for child in token.children or []]
    assert {child.type for child in inline} == {"text"}
    assert {token.type for token in tokens} & {"html_block", "code_block", "fence"} == set()
    assert r"\x1b[31m" in "".join(child.content for child in inline)
    assert json.loads(done(extsub("compare", *names, "--json")))["runs"] == list(names)
