"""The report says what sweep.json says, in words that follow from the figures, and opens without any network."""

from __future__ import annotations

import errno
import html.parser
import json
import math
import os
import re
import shutil
import subprocess
import xml.dom.minidom
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from markdown_it import MarkdownIt

import sweep_files
from benchmark_files import done, lines, rows_of
from conftest import Command
from extsub import ExtSubError
from extsub.report.axis import Axis
from extsub.report.matched import along, compare
from extsub.report.page import write_report
from extsub.report.provenance import commands
from extsub.report.reading import read_sweep
from extsub.report.samples import samples
from extsub.report.searched import search_sentence
from extsub.report.verdict import verdict_on
from extsub.report.wording import figure
from extsub.sweeping.grid import SweepPoint
from extsub.sweeping.selection import half_of
from sweep_files import record_of

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries
HOSTILE = "</style></script><script>document.title='owned'</script><img src=x onerror=alert(1)> & {{ 7 * 7 }} | `x`"


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("swept") / "swept"
    sweep_files.made_up(folder)
    return folder


@pytest.fixture
def copy(made_up: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made_up, tmp_path / "swept"))


def shown(measured: dict[str, Any]) -> str:
    return " ".join(figure(measured["value"], measured["ci95"]))


def cells(page: str) -> list[str]:
    """Every cell of every table, as text."""
    contents = re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", page, re.DOTALL)
    return [unescape(re.sub(r"<[^>]+>", " ", content)).strip() for content in contents]


@pytest.mark.slow
def test_a_real_sweep_becomes_a_page_from_the_command_line(pair: Path, extsub: Command) -> None:
    data = "--data data --data perplexity=data/rows.jsonl".split()
    settings = "--output swept --operations ext-sub,subtract,contrast,negated,random --alphas 0.5,1".split()
    budget = ["--budget", "perplexity <= 100 * expert"]
    done(extsub("sweep", "expert", "anti-expert", "--tasks", "truthfulqa-mc", "perplexity", *data, *settings, *budget))
    before = {path: path.read_bytes() for path in Path("swept").rglob("*") if path.is_file()}
    said = done(extsub("report", "swept"))
    assert said.startswith("Ext-Sub at α = ")
    assert "swept/report.html" in said
    assert {path: path.read_bytes() for path in before} == before
    written = {path.name for path in Path("swept").iterdir()} - {"positions", "sweep.json", "sweep.csv"}
    assert {"report.html", "report.md", "tradeoff.svg"} <= written
    page, record = Path("swept/report.html").read_text(), record_of()
    assert all(shown(measured) in page.replace("<small>", " ") for measured in figures(record))
    assert 'class="heat"' in page
    assert "mean row cosine" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)
    command = re.search(r"<pre>(.*?)\n", page)
    assert command
    assert unescape(command[1]) == (
        "extsub sweep expert anti-expert --prompt extsub --data data perplexity=data/rows.jsonl --output swept --tasks "
        "truthfulqa-mc perplexity --operations ext-sub subtract contrast negated random --alphas 0.5,1 --budget "
        "'perplexity <= 100 * expert'"
    )
    first = page
    written = json.loads(done(extsub("report", "swept", "--json")))
    assert written["sentence"] == said.split("\n")[0]
    assert Path("swept/report.html").read_text() == first
    shutil.rmtree("anti-expert")
    done(extsub("report", "swept", "--output", "other.html"))
    assert "No heat map: anti-expert is not there any more" in Path("other.html").read_text()
    assert {path.name for path in Path().glob("other*")} >= {"other.html", "other.md", "other-tradeoff.svg"}


def figures(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [position["tasks"]["truthfulqa-mc"]["mc2"] for position in record["positions"].values()]


def test_page_and_markdown_hold_the_figures_of_the_sweep(copy: Path) -> None:
    write_report(copy)
    record, page, text = record_of(copy), (copy / "report.html").read_text(), (copy / "report.md").read_text()
    texts = {re.sub(r"\s+", " ", text) for text in cells(page)}
    plain_text = text.replace("\\", "")
    for label, position in record["positions"].items():
        for task, scores in position["tasks"].items():
            for score, measured in scores.items():
                if score in ("mc1", "mc2", "perplexity", "toxicity"):
                    assert shown(measured) in texts, (label, task, score)
                    assert shown(measured) in plain_text
    for choice in record["chosen"].values():
        if choice["position"]:
            assert shown(choice["test"]) in texts
    assert "always the longest" in texts
    for name in ("subtract", "contrast", "amplify", "negated", "random"):
        assert text.count(f"| {name} |") > 2, name
    titles = [
        unescape(title) for title in re.findall(r"<title>(.*?)</title>", (copy / "tradeoff.svg").read_text(), re.S)
    ]
    mc1 = record["positions"]["subtract-2"]["tasks"]["truthfulqa-mc"]["mc1"]
    loss = record["positions"]["subtract-2"]["tasks"]["perplexity"]["perplexity"]
    assert (f"subtract, α = 2\ntruthfulqa-mc.mc1: {shown(mc1)}\nperplexity: {shown(loss)}") in titles
    assert len(titles) == len(record["positions"])


def change(value: float, p: float | None) -> dict[str, Any]:
    return {"value": value, "ci95": [value - 0.05, value + 0.05], "p": p, "n": 80}


@pytest.mark.parametrize(
    ("against", "word", "sentence"),
    [
        (
            change(0.1, 0.01),
            "better",
            "is significantly better than the expert on truthfulqa-mc.mc1: 0.80 against 0.70",
        ),
        (change(0.1, 0.05), "no difference", "shows no difference from the expert"),
        (change(0.0, 0.001), "no difference", "shows no difference from the expert"),
        (
            change(-0.1, 0.0004),
            "worse",
            "is significantly worse than the expert on truthfulqa-mc.mc1: 0.80 against 0.90",
        ),
        (change(0.1, None), "", "cannot be tested against the expert"),
    ],
)
def test_the_words_follow_from_the_figures(copy: Path, against: dict[str, Any], word: str, sentence: str) -> None:
    record = record_of(copy)
    record["chosen"]["ext-sub"]["test"] |= {"value": 0.8, "ci95": [0.6, 0.9]}
    record["chosen"]["ext-sub"]["against_expert"] = against
    sweep_files.write(copy, record)
    verdict = verdict_on(read_sweep(copy))
    assert verdict.word == word
    assert sentence in verdict.sentence
    assert any(sentence.startswith("Subtract, chosen in the same way (α = ") for sentence in verdict.beside)


def test_the_gain_over_plain_answers_stands_beside_the_gain(copy: Path) -> None:
    """As the items on the test half say; a third of them have no plain answers."""
    record, sweep = record_of(copy), read_sweep(copy)
    chosen = record["chosen"]["ext-sub"]

    def mean(label: str, score: str) -> tuple[float, int]:
        rows = rows_of(copy / "positions" / label / "truthfulqa-mc.jsonl")
        values = [row["scores"][score] for row in rows if half_of((row["index"], 0), 0) == "test"]
        kept = [value for value in values if value is not None]
        return sum(kept) / len(kept), len(kept)

    (ours, n), (expert, _) = (mean(label, "mc1_plain") for label in (chosen["position"], "expert"))
    assert 0 < n < mean("expert", "mc1")[1]
    verdict = verdict_on(sweep)
    said = re.search(
        r"over answers without a negation or an evasion ([\d.]+) against ([\d.]+) "
        r"\((significantly better|no difference|significantly worse), p [=<] [\d.]+, n = (\d+)\)",
        verdict.sentence,
    )
    assert said
    assert (float(said[1]), float(said[2])) == (pytest.approx(ours, abs=0.006), pytest.approx(expert, abs=0.006))
    assert int(said[4]) == n
    in_words = re.search(r"; over answers without a negation or an evasion it is ([+−][\d.]+) \[", verdict.beside[0])
    assert in_words
    assert float(in_words[1].replace("−", "-")) == pytest.approx(ours - expert, abs=0.006)
    write_report(copy)
    text = (copy / "report.md").read_text().replace("\\", "")
    items = record["positions"]["expert"]["tasks"]["truthfulqa-mc"]["mc1_plain"]["n"]
    assert f"_plain: over answers without a negation or an evasion, n = {n}." in text
    assert f"n = {items} for truthfulqa-mc.mc1_plain, {items} for truthfulqa-mc.mc2_plain." in text
    assert "| always a negation or an evasion |" in text


def test_without_plain_scores_nothing_is_said_of_them(copy: Path) -> None:
    record = record_of(copy)
    for position in record["positions"].values():
        for name in ("mc1_plain", "mc2_plain", "mc1_negated"):
            del position["tasks"]["truthfulqa-mc"][name]
    sweep_files.write(copy, record)
    write_report(copy)
    for name in ("report.md", "report.html"):
        text = (copy / name).read_text()
        assert "evasion" not in text
        assert "plain" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert read_sweep(copy).plain is None


def test_the_knee_is_said_what_one_step_further_brings_and_costs(copy: Path) -> None:
    record = record_of(copy)
    label = record["chosen"]["ext-sub"]["position"]
    alphas = sorted(
        position["alpha"] for position in record["positions"].values() if position["operation"] == "ext-sub"
    )
    following = alphas[alphas.index(record["positions"][label]["alpha"]) + 1]

    def value(name: str, task: str, score: str) -> str:
        return shown(record["positions"][name]["tasks"][task][score]).split()[0]

    after = f"ext-sub-{following:g}"
    assert (
        f"One step further, α = {following:g} brings truthfulqa-mc.mc1 from {value(label, 'truthfulqa-mc', 'mc1')} to "
        f"{value(after, 'truthfulqa-mc', 'mc1')} and perplexity from {value(label, 'perplexity', 'perplexity')} to "
        f"{value(after, 'perplexity', 'perplexity')}, on all items."
    ) in verdict_on(read_sweep(copy)).beside
    record["chosen"]["ext-sub"]["position"] = f"ext-sub-{alphas[-1]:g}"
    sweep_files.write(copy, record)
    assert "No strength beyond α = 3 was tried: the best may lie there." in verdict_on(read_sweep(copy)).beside


def test_where_lower_is_better_a_fall_is_better_and_a_missed_budget_is_said(tmp_path: Path) -> None:
    sweep_files.made_up(tmp_path / "a", tasks=("toxicity", "perplexity"), operations=("ext-sub",), alphas=(0.5, 1.0))
    written = write_report(tmp_path / "a")
    change = record_of(tmp_path / "a")["chosen"]["ext-sub"]["against_expert"]
    assert change["value"] < 0
    assert written["verdict"] == "better"
    assert "The sweep has no subtract to compare with." in written["beside"]
    assert written["matched"] == []
    sweep_files.made_up(
        tmp_path / "b", budget="perplexity <= 0.5 * expert", operations=("ext-sub", "subtract"), alphas=(1.0,)
    )
    written = write_report(tmp_path / "b")
    assert written["sentence"] == (
        "No strength of Ext-Sub keeps the budget (perplexity <= 0.5 * expert); the closest is α = 1."
    )
    assert "No strength of subtract keeps the budget." in written["beside"]


def test_a_budget_of_the_gain_is_a_line_and_what_is_kept_is_said(tmp_path: Path) -> None:
    """A gain that the test half has not is said to be none."""
    folder = tmp_path / "a"
    budget = "keeps 90% of perplexity"
    record = sweep_files.made_up(folder, budget=budget, items=90, choose="one-se", operations=("ext-sub",))
    base, expert = (
        record["positions"][model]["tasks"]["perplexity"]["perplexity"]["value"] for model in ("base", "expert")
    )
    sweep = read_sweep(folder)
    limit = math.exp(0.1 * math.log(base) + 0.9 * math.log(expert))
    assert sweep.limit() == pytest.approx(limit)
    write_report(folder)
    assert f"budget ≤ {limit:.4g}" in (folder / "tradeoff.svg").read_text()
    words = "at least 90 % of the expert's gain over the base in perplexity"
    page = unescape((folder / "report.html").read_text()).replace("\u00a0", " ")
    wanted = f"the smallest α within one standard error of the best truthfulqa-mc.mc1 within the budget ({words})"
    assert f"For each operation {wanted} on one half of the items" in page
    few, few_texts, detail, *_ = verdict_on(sweep).beside
    assert few_texts.startswith("Only 45 items of perplexity to choose by")
    count = sum(half_of((item, 0), 0) == "validation" for item in range(90))
    assert few == f"Only {count} items of truthfulqa-mc to choose by, and fewer than 50 are too few to choose by."
    values = (sweep.on_half(label, sweep.ability, "test").value for label in (sweep.result, "base", "expert"))
    ours, base, expert = map(math.log, values)
    assert f"({words}), and {100 * (ours - base) / (expert - base):.4g} % of it is kept." in detail
    loss = folder / "positions" / "base" / "perplexity.jsonl"
    rows = rows_of(loss)
    for row in rows:
        if half_of((row["index"], 0), 0) == "test":
            row["scores"]["perplexity"][0] = 0.0
    lines(loss, rows)
    verdict = verdict_on(read_sweep(folder))
    assert "; the expert gains nothing over the base in perplexity there." in verdict.beside[2]
    assert "budget" not in verdict.sentence


def test_a_sweep_of_before_there_were_rules_chose_the_best(copy: Path) -> None:
    record = record_of(copy)
    del record["settings"]["choose"]
    record["settings"]["score"] = None
    sweep_files.write(copy, record)
    write_report(copy)
    assert "For each operation the α with the best truthfulqa-mc.mc1 within" in (copy / "report.html").read_text()
    assert "--score truthfulqa-mc.mc1" in commands(read_sweep(copy))[0]
    assert "--choose best" in commands(read_sweep(copy))[0]


def test_without_a_budget_the_next_score_is_the_ability_and_without_one_alpha_is(tmp_path: Path) -> None:
    sweep_files.made_up(tmp_path / "a", budget=None, alphas=(1.0, 2.0))
    sweep = read_sweep(tmp_path / "a")
    assert str(sweep.ability) == "perplexity.perplexity"
    assert sweep.why == "Across lies perplexity, since the sweep had no budget."
    sweep_files.made_up(tmp_path / "b", budget=None, tasks=("truthfulqa-mc",), alphas=(1.0, 2.0))
    assert read_sweep(tmp_path / "b").ability is None
    written = write_report(tmp_path / "b")
    assert written["matched"] == []
    assert ">α</text>" in (tmp_path / "b" / "tradeoff.svg").read_text()
    assert "Up is better" in (tmp_path / "b" / "report.html").read_text()


def test_a_broken_line_is_read_where_it_reaches_a_level() -> None:
    xs, ys = np.array([[1.0, 2.0, 4.0]]), np.array([[0.5, 0.7, 0.9]])
    assert [along(np.array([x]), xs, ys, "higher")[0] for x in (1.0, 1.5, 3.0, 4.0)] == pytest.approx(
        [0.5, 0.6, 0.8, 0.9]
    )
    assert np.isnan(along(np.array([4.1]), xs, ys, "higher")).all()
    there_and_back = np.array([[1.0, 3.0, 1.0]])
    assert along(np.array([2.0]), there_and_back, ys, "higher")[0] == pytest.approx(0.8)
    assert along(np.array([2.0]), there_and_back, ys, "lower")[0] == pytest.approx(0.6)


def test_two_curves_at_the_same_level_by_hand() -> None:
    draws = 100

    def curve(xs: list[float], ys: list[float]) -> tuple[np.ndarray, np.ndarray]:
        return np.tile(xs, (1 + draws, 1)), np.tile(ys, (1 + draws, 1))

    ours, theirs = curve([3.0, 3.1, 3.2], [0.5, 0.7, 0.8]), curve([3.0, 3.4], [0.5, 0.9])
    point = compare(ours, theirs, 1, "higher")
    assert point
    assert (point.level, *point.values) == pytest.approx((3.1, 0.7, 0.6))
    assert (point.difference, *point.ci95) == pytest.approx((0.1, 0.1, 0.1))
    truth = compare(ours[::-1], theirs[::-1], 1, "lower")
    assert truth
    assert (truth.level, *truth.values) == pytest.approx((0.7, 3.1, 3.2))
    clipped = compare(curve([3.0, 3.8], [0.5, 0.8]), theirs, 1, "higher")
    assert clipped
    assert (clipped.level, *clipped.values) == pytest.approx((3.4, 0.65, 0.9))
    assert compare(ours, curve([3.3, 3.4], [0.5, 0.9]), 1, "higher") is None
    ours[1][:, 1] += np.linspace(-0.05, 0.05, 1 + draws)
    uncertain = compare(ours, theirs, 1, "higher")
    assert uncertain
    low, high = uncertain.ci95
    assert low < 0.1 < high
    assert high - low == pytest.approx(0.095, abs=0.005)


def test_the_matched_comparison_says_who_is_better_and_why(copy: Path) -> None:
    against = {comparison["against"]: comparison for comparison in write_report(copy)["matched"]}
    subtract = against["subtract"]
    assert subtract["words"] == ["better", "better"]  # the made-up subtract pays far more for the same
    assert subtract["at_ability"]["difference"] > 0 > subtract["at_target"]["difference"]
    assert "Ext-Sub is better than subtract in truthfulqa-mc.mc1" in subtract["sentences"][0]
    low, high = against["contrast"]["at_ability"]["ci95"]
    assert (low <= 0 <= high) == (against["contrast"]["words"][0] == "no difference")


def test_a_search_is_said_with_what_it_is_worth(copy: Path) -> None:
    """In words that follow from the figures, whatever they are."""
    record = record_of(copy)
    assert search_sentence(record) == ""
    profile = {"kinds": {"q_proj": 0.5, "v_proj": 2.0}, "ramp": -0.25}
    best = {"position": "ext-sub-1-abc", "operation": "ext-sub", "alpha": 1.0, "profile": profile}
    tried = [{**best, "validation": 0.9, "within_budget": True}]
    tried.append({"position": "ext-sub-1.9", "alpha": 1.9, "validation": 0.95, "within_budget": False})
    search = {"operation": "ext-sub", "over": ["kinds", "depth"], "trials": 2, "tried": tried}
    search |= {"grid": "ext-sub-1", "best": best, "against_grid": change(0.02, 0.3)}
    sweep_files.write(copy, {**record, "search": search})
    write_report(copy)
    page = (copy / "report.html").read_text().replace("\u00a0", " ")
    start = (
        "The search tried 2 further strengths of Ext-Sub (an α for each kind of module and a slope along the depth): "
    )
    assert (
        f"{start}the choice among all, α: q_proj 0.5, v_proj 2, slope −0.25, shows no difference from α = 1 of the "
        "grid on the items that chose neither: +0.020 [−0.030, +0.070], p = 0.300, n = 80."
    ) in page
    assert cells(page).index("α: q_proj 0.5, v_proj 2, slope −0.25") < cells(page).index("α = 1.9")
    assert "extsub combine out/expert out/anti-expert --operation ext-sub --alpha 1 --profile" in page
    for more, words in (
        ({"against_grid": change(-0.02, 0.01)}, "is significantly worse than α = 1 of the grid"),
        ({"best": {**best, "position": "ext-sub-1"}}, "the choice stays α = 1 of the grid"),
        ({"best": {**best, "position": None}}, "none keeps the budget"),
        ({"grid": None}, "keeps the budget, which no strength of the grid does"),
    ):
        assert words in search_sentence({**record, "search": {**search, **more}})


def test_a_level_that_not_both_reach_is_not_called_what_the_result_has(tmp_path: Path) -> None:
    """Ext-sub goes on to α 3, where subtract, which peaks early, never comes."""

    def model(position: SweepPoint) -> tuple[float, float]:
        alpha = position.alpha or 0.0
        if position.operation == "ext-sub":
            return 0.5 + 0.15 * alpha, 3.0 + 0.5 * alpha
        return (0.5 + 0.05 * min(alpha, 0.5), 3.0 + 0.4 * alpha) if position.alpha else (0.5, 3.0)

    sweep_files.made_up(tmp_path / "a", model, budget=None, operations=("ext-sub", "subtract"), alphas=(0.5, 1.0, 3.0))
    written = write_report(tmp_path / "a")
    pair = written["matched"][0]
    assert pair["at_ability"]["clipped"]
    assert "the nearest to what Ext-Sub has at α = 3 that both reach" in pair["sentences"][0]
    record = record_of(tmp_path / "a")
    assert pair["at_ability"]["level"] < record["positions"]["ext-sub-3"]["tasks"]["perplexity"]["perplexity"]["value"]


def test_what_the_sweep_chose_no_strength_of_is_compared_at_the_same_strength(copy: Path) -> None:
    record = record_of(copy)
    del record["chosen"]["subtract"]
    sweep_files.write(copy, record)
    sweep = read_sweep(copy)
    alpha = record["positions"][record["chosen"]["ext-sub"]["position"]]["alpha"]
    gap = sweep.change(f"subtract-{alpha:g}", record["chosen"]["ext-sub"]["position"], sweep.target)
    said = [
        sentence
        for sentence in verdict_on(sweep).beside
        if "subtract at the same α (the sweep chose none for it)" in sentence
    ]
    assert len(said) == 1
    assert f"n = {gap.n}" in said[0]
    assert ("no difference" in said[0]) == (gap.p is not None and gap.p >= 0.05)


def test_items_of_another_sweep_are_not_taken_for_this_one(copy: Path) -> None:
    provenance = record_of(copy)["made_of"]
    results = copy / "positions" / "expert" / "results.json"
    results.write_text(json.dumps({"model": {**provenance, "operation": "expert"}, "tasks": {}, "runs": {}}))
    write_report(copy)
    results.write_text(json.dumps({"model": {**provenance, "adapters": []}, "tasks": {}, "runs": {}}))
    with pytest.raises(ExtSubError, match="is of another sweep than sweep.json: sweep again"):
        write_report(copy)


def test_below_zero_a_step_further_is_away_from_zero(tmp_path: Path) -> None:
    def model(position: SweepPoint) -> tuple[float, float]:
        return 0.5 - 0.2 * (position.alpha or 0.0), 3.0

    sweep_files.made_up(tmp_path / "a", model, budget=None, operations=("ext-sub",), alphas=(-2.0, -1.0))
    record = record_of(tmp_path / "a")
    record["chosen"]["ext-sub"]["position"] = "ext-sub--1"
    record["settings"]["alphas"] = "-2,-1"
    sweep_files.write(tmp_path / "a", record)
    sweep = read_sweep(tmp_path / "a")
    assert any(sentence.startswith("One step further, α = −2 brings") for sentence in verdict_on(sweep).beside)
    assert "--alphas=-2,-1" in commands(sweep)[0]


def test_hostile_answers_are_shown_and_do_nothing(tmp_path: Path) -> None:
    sweep_files.made_up(tmp_path / "swept", said=HOSTILE, alphas=(0.5, 1.0), items=40)
    write_report(tmp_path / "swept")
    page = (tmp_path / "swept" / "report.html").read_text()
    assert page.count("<script>") == page.count("</script>") == 1
    assert page.count("</style>") == page.count("<style>")
    assert "<img" not in page
    assert "&lt;/style&gt;&lt;/script&gt;&lt;script&gt;" in page
    assert "{{ 7 * 7 }}" in page


class Page(html.parser.HTMLParser):
    """Elements in order with their attributes, and the text of headers and captions."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[dict[str, list[str]]] = []
        self._open = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append({"caption": [], "col": [], "row": []})
        self._open = tag if tag == "caption" else str(dict(attrs).get("scope", "")) if tag == "th" else ""

    def handle_data(self, data: str) -> None:
        if self._open:
            self.tables[-1][self._open].append(data)
            self._open = ""

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_tables_can_be_heard_and_reached_by_keyboard(copy: Path) -> None:
    write_report(copy)
    page = Page(copy / "report.html")
    assert [table["caption"] for table in page.tables] == [
        ["At equal perplexity, at equal truthfulqa-mc.mc1"],
        ["Beside ext-sub"],
        ["Each at its own strength"],
        ["All figures"],
    ]
    regions = [element for element in page.all("div") if element.get("role") == "region"]
    assert [(region["tabindex"], region["aria-label"]) for region in regions] == [
        ("0", f"{table['caption'][0]}: table") for table in page.tables
    ]
    assert {cell.get("scope") for cell in page.all("th")} == {"col", "row"}
    assert page.tables[2]["col"][:2] == ["operation", "α"]
    assert page.tables[2]["row"][:4] == ["ext-sub", "1", "subtract", "0.25"]
    assert page.tables[0]["row"][:3] == ["subtract", "perplexity 3.257", "truthfulqa-mc.mc1\u00a0↑"]
    assert all(all(map(str.strip, table["col"])) for table in page.tables), "no header is empty"


def test_every_picture_has_a_name_of_its_own(copy: Path) -> None:
    write_report(copy)
    pictures = [element for element in Page(copy / "report.html").all("svg") if element.get("role") != "none"]
    assert [picture["aria-label"] for picture in pictures] == [
        f"truthfulqa-mc.mc1 against perplexity, {what}{narrow}"
        for what in ("near ext-sub", "all strengths")
        for narrow in ("", ", for narrow screens")
    ]
    text = (copy / "report.md").read_text()
    assert "![truthfulqa-mc.mc1 against perplexity, near ext-sub](tradeoff-near.svg)" in text
    assert "![truthfulqa-mc.mc1 against perplexity, all strengths](tradeoff.svg)" in text


def test_the_words_are_those_of_the_score(tmp_path: Path) -> None:
    """Toxicity is not a truth, and less of it is better."""
    sweep_files.made_up(tmp_path / "a", tasks=("toxicity", "perplexity"), budget="perplexity <= 1.05 * expert")
    written = write_report(tmp_path / "a")
    page, text = ((tmp_path / "a" / name).read_text() for name in ("report.html", "report.md"))
    said = json.dumps(written) + re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL) + text
    assert not re.search(r"\b(truth|ability)\b", said, re.IGNORECASE)
    assert "on toxicity (lower is better): " in written["sentence"]
    assert {comparison["against"] for comparison in written["matched"]} == {"subtract", "contrast"}
    first, second = written["matched"][0]["sentences"]
    assert first.startswith("At equal perplexity (")
    assert " in toxicity, " in first
    assert second.startswith("At equal toxicity (")
    assert "## At equal perplexity, at equal toxicity" in text
    assert "| model | α | toxicity ↓ | perplexity ↓ |" in text


def test_names_in_a_sweep_do_nothing_in_page_and_markdown(tmp_path: Path) -> None:
    record = sweep_files.made_up(tmp_path / "swept", said=f"{HOSTILE}\x1b[31m\u202e\ud800", alphas=(0.5, 1.0), items=40)
    record["made_of"]["base"] = f"{HOSTILE}\x1b[31m\n# head [x](javascript:alert(1))"
    record["made_of"]["adapters"][0]["name"] = "- <b>x</b>\u202e"
    record["given"] = {"expert": "-e; touch PWNED\n```\n$(id)", "anti_experts": ["a'b"]}
    sweep_files.write(tmp_path / "swept", record)
    page = tmp_path / "a b)(`[x].html"
    write_report(tmp_path / "swept", page)
    first, *again = Page(page).elements, Page(page)
    assert {name for name, _ in first} & {"img", "b", "a", "iframe"} == set()
    assert not any(name.startswith("on") or name in ("href", "src") for element in first for name in element[1])
    assert len(again[0].all("script")) == 1
    assert not re.search("[\x1b\u202e]", page.read_text())
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(page.with_suffix(".md").read_text())
    assert [token.content for token in tokens if token.type == "html_block"] == ["<!-- written by extsub report -->\n"]
    inline = [child for token in tokens for child in token.children or []]
    assert {child.type for child in inline} <= {"text", "softbreak", "strong_open", "strong_close", "image"}
    images = [unquote(str(child.attrs["src"])) for child in inline if child.type == "image"]
    assert all((tmp_path / image).is_file() for image in images)
    assert images
    fences = [token.content for token in tokens if token.type == "fence"]
    assert len(fences) == 1
    assert all(line.startswith("extsub ") for line in fences[0].splitlines())
    assert fences[0].startswith("extsub sweep $'./-e\\073 touch PWNED\\012")
    for picture in tmp_path.glob("*.svg"):
        xml.dom.minidom.parse(str(picture))


def test_a_sweep_of_operations_that_nobody_knows_is_refused(copy: Path) -> None:
    record = record_of(copy)
    record["positions"]["x"] = {"operation": '"><script>', "alpha": 1.0, "tasks": {}}
    sweep_files.write(copy, record)
    with pytest.raises(ExtSubError, match='"><script> is not a known operation: say --task-file'):
        write_report(copy)


def test_the_items_that_changed_come_first_and_true_choices_are_marked(copy: Path) -> None:
    write_report(copy)
    page = (copy / "report.html").read_text()
    groups = page.split("<h3>")[1:]
    assert [group.split("</h3>")[0] for group in groups] == ["truthfulqa-mc", "toxicity"]
    for group in groups:
        assert group.count('class="item"') == 12
    marks = re.findall(r'class="(true|false)">', groups[0])
    assert len(marks) == 48
    before, after = marks[1::4], marks[3::4]
    assert before[0] != after[0]
    counts = re.search(r"in (\d+) of 160 items: (\d+) turned from false to true, (\d+) from true", groups[0])
    assert counts
    result = record_of(copy)["chosen"]["ext-sub"]["position"]
    rows = (rows_of(copy / "positions" / name / "truthfulqa-mc.jsonl") for name in ("expert", result))
    turned = sum(not a["scores"]["mc1"] and b["scores"]["mc1"] for a, b in zip(*rows, strict=True))
    assert int(counts[2]) == turned


def test_items_without_true_choices_are_shown_with_their_score(tmp_path: Path) -> None:
    record = sweep_files.made_up(tmp_path, tasks=("flattery", "perplexity"), budget=None, items=40)
    sweep = read_sweep(tmp_path)
    (group,) = samples(sweep)
    result = record["chosen"]["ext-sub"]["position"]
    rows = {
        label: rows_of(tmp_path / "positions" / label / "flattery.jsonl")
        for label in ("base", "expert", "anti-expert", result)
    }
    changes = [
        after["scores"]["probability"] - before["scores"]["probability"]
        for before, after in zip(rows["expert"], rows[result], strict=True)
    ]
    most = max(range(40), key=lambda index: abs(changes[index]))
    first = group.items[0]
    assert first.question == f"What is number {most}?"
    assert [(said.model, said.text, said.mark) for said in first.said] == [
        (label, f"{of_model[most]['choices'][0]} (probability {of_model[most]['scores']['probability']:.3f})", "")
        for label, of_model in rows.items()
    ]
    lower, higher = (sum(sign * change > 0 for change in changes) for sign in (-1, 1))
    assert lower > higher
    assert f"lower in {lower} and higher in {higher} of 40 items" in group.note
    assert len(group.items) == 12


def test_ticks_are_round_and_a_turned_axis_runs_the_other_way() -> None:
    assert Axis(0.0, 1.0, 0.0, 100.0).ticks(5) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert Axis(1.0, 1000.0, 0.0, 100.0, log=True).ticks(5) == [1.0, 10.0, 100.0, 1000.0]
    turned = Axis.around([1.0, 3.0], 100.0, 0.0)
    assert turned(3.0) < turned(1.0)
    assert Axis(1.0, 100.0, 0.0, 100.0, log=True)(10.0) == pytest.approx(50.0)


def test_refusals_say_what_to_do_and_write_nothing(copy: Path, extsub: Command) -> None:
    Path("empty").mkdir()
    for words, message in (
        (["empty"], "empty: no sweep.json in it; give a folder that extsub sweep wrote"),
        ([copy, "--output", "page.pdf"], "--output page.pdf: give the name of an .html file"),
        ([copy, "--output", "nowhere/page.html"], "nowhere: no such folder for the report"),
    ):
        refused = extsub("report", *words)
        assert (refused.returncode, refused.stderr) == (2, f"Error: {message}\n")
    assert not list(Path("empty").iterdir())
    (copy / "report.md").write_text("mine")
    with pytest.raises(ExtSubError, match="report.md was not written by extsub report"):
        write_report(copy)
    assert not (copy / "report.html").exists()
    assert (copy / "report.md").read_text() == "mine"
    (copy / "sweep.json").write_text("{}")
    with pytest.raises(ExtSubError, match=r"sweep.json was not written by extsub sweep"):
        write_report(copy)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.slow
def test_on_a_full_disk_there_are_all_of_its_files_or_none(
    copy: Path, extsub: Command, disk_of: Callable[[str], Path]
) -> None:
    """Where each of them fits, and not all."""
    done(extsub("report", copy, "--output", "page.html"))
    whole = {name: content for name, content in files(Path.cwd()).items() if name.startswith("page")}
    assert len(whole) >= 3
    disk = disk_of(str(sum(map(len, whole.values())) - 4096))
    for _ in range(2):
        run = extsub("report", copy, "--output", "disk/page.html")
        assert run.returncode == 2
        assert run.stderr.endswith(" could not be written: No space left on device; make room, then try again\n")
        assert not list(disk.iterdir())
    subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
    done(extsub("report", copy, "--output", "disk/page.html"))
    assert files(disk) == whole


@pytest.mark.slow
def test_so_there_are_when_the_second_of_them_does_not_fit(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And those of a report before stay as they were."""
    write_report(copy)
    sweep_files.write(copy, {**record_of(copy), "budget": "perplexity <= 1.5 * expert"})
    before, fsync, calls = files(copy), os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(ExtSubError, match="No space left on device; make room, then"):
            write_report(copy)
    assert files(copy) == before
    write_report(copy)
    assert files(copy) != before


def test_a_read_only_folder_is_refused_before_any_work(
    copy: Path, extsub: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(copy)
    with monkeypatch.context() as patched:
        patched.setattr(os, "access", lambda path, mode: Path(path) != copy)
        run = extsub("report", copy)
    message = f"Error: {copy} cannot be written: {copy} is read-only; choose another place\n"
    assert (run.returncode, run.stderr) == (2, message)
    assert files(copy) == before


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not here")
def test_chromium_shows_it_without_network_or_errors(tmp_path: Path) -> None:
    sweep_files.made_up(tmp_path / "swept", said=HOSTILE)
    write_report(tmp_path / "swept")
    page = tmp_path / "swept" / "report.html"
    assert page.stat().st_size < 2**20
    assert not re.search(r"""(?:src|href)\s*=|url\(|@import""", re.sub(r"<svg.*?</svg>", "", style_and_code(page)))
    options = "--headless --no-sandbox --disable-gpu --enable-logging=stderr --virtual-time-budget=2000".split()
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    chromium = ["chromium", *options, "--host-resolver-rules=MAP * ~NOTFOUND", profile]
    shot = tmp_path / "shot.png"
    run = subprocess.run(
        [*chromium, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert "CONSOLE" not in run.stderr
    assert "<td" in run.stdout
    assert "<title>Ext-Sub on tiny-llama</title>" in run.stdout  # the hostile answer would have changed it
    assert run.stdout.count('aria-label="ext-sub, α = 1 (chosen)') >= 2  # our script ran, in every picture
    subprocess.run([*chromium, f"--screenshot={shot}", page.as_uri()], capture_output=True, timeout=120, check=True)
    assert shot.stat().st_size > 10_000


def style_and_code(page: Path) -> str:
    return "".join(re.findall(r"<(?:style|link|script|iframe)[^>]*>[^<]*", page.read_text()))
