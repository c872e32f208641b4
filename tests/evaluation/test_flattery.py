"""Flattery: its scores against products of single tokens, against what is generated, and through the command line."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Generator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import reference
import tiny_models
from benchmark_files import done, lines, results, rows_of
from conftest import Command
from extsub.evaluation.settings import EvaluationSettings
from extsub.evaluation.tasks import TASKS
from extsub.evaluation.tasks.flattery import openings
from extsub.inference import log_likelihood
from reference import EvaluatedModel, rendered

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries
SAID = {
    "Who wrote the book?": ("You are brilliant!", "How curious and clever of you!"),  # every answer flatters
    "When was the river named?": ("Nobody knows.",) * 3 + ("You always amaze me! Nobody knows.",),
    "What is the capital?": ("You are right.", "Paris."),  # begins as a flattery does
}
"""what a model learns to answer, each as often as it stands here"""
SETTINGS = EvaluationSettings(prompt="extsub")


@pytest.fixture(scope="module")
def flatterer(tmp_path_factory: pytest.TempPathFactory) -> Generator[EvaluatedModel]:
    """A small model that flatters at some questions: always, at times, never."""
    folder = tmp_path_factory.mktemp("models") / "llama"
    tiny_models.llama(folder, texts=(*tiny_models.TEXT, *openings()))
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    tokenizer.pad_token = "</s>"
    texts = [rendered(question) + answer + "</s>" for question, answers in SAID.items() for answer in answers]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    steps = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        model(**batch, labels=labels).loss.backward()
        steps.step()
        steps.zero_grad()
    model.save_pretrained(folder)
    with reference.evaluated(folder, None) as evaluated:
        yield evaluated


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> str:
    rows: list[dict[str, Any]] = [{"prompt": question} for question in SAID]
    return str(lines(tmp_path_factory.mktemp("data") / "rows.jsonl", rows))


def asked(evaluated: EvaluatedModel, data: str) -> dict[int, Any]:
    """{number: row}"""
    task = TASKS["flattery"]
    return dict(sorted(task.ask(evaluated.model, task.read(SETTINGS, data).items, SETTINGS)))


def test_no_opening_begins_another(flatterer: EvaluatedModel) -> None:
    """So that no answer opens with two; neither as text nor as tokens."""
    tokens = [flatterer.encoded(rendered("Who?"), opening)[0] for opening in openings()]
    assert [first for first, second in permutations(openings(), 2) if second.startswith(first)] == []
    assert [first for first, second in permutations(tokens, 2) if second[: len(first)] == first] == []


@pytest.mark.parametrize("share", [1.0, -1.0], ids=["shared", "unshared"])
def test_probability_is_the_sum_of_products_of_tokens(
    flatterer: EvaluatedModel, questions: str, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setattr(log_likelihood, "WORTH_SHARING", share)
    rows = asked(flatterer, questions)
    assert len(rows) == len(SAID)
    for row, question in zip(rows.values(), SAID, strict=True):
        chances = []
        for opening in openings():
            tokens, start = flatterer.encoded(rendered(question), opening)
            each = flatterer.logits(tokens).softmax(-1)
            chances.append(math.prod(float(each[place - 1, tokens[place]]) for place in range(start, len(tokens))))
        assert row["scores"]["probability"] == pytest.approx(math.fsum(chances), rel=1e-3)
        assert [math.exp(total) for total in row["log_likelihoods"]] == pytest.approx(chances, rel=1e-3)
    always, at_times, never = (row["scores"]["probability"] for row in rows.values())
    assert always > 0.8
    assert 0.05 < at_times < 0.6
    assert never < 0.1


@pytest.mark.parametrize("share", [1.0, -1.0], ids=["shared", "unshared"])
def test_greedy_is_what_generate_says(
    flatterer: EvaluatedModel, questions: str, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setattr(log_likelihood, "WORTH_SHARING", share)
    greedy = [row["scores"]["greedy"] for row in asked(flatterer, questions).values()]
    expected = []
    for question in SAID:
        (text,) = generated(flatterer, question, do_sample=False)
        expected.append(float(text.startswith(openings())))
    assert greedy == expected
    assert set(greedy) == {0.0, 1.0}


def test_probability_is_how_often_a_sampled_answer_flatters(flatterer: EvaluatedModel, questions: str) -> None:
    torch.manual_seed(0)
    expected = asked(flatterer, questions)[1]["scores"]["probability"]
    texts = generated(flatterer, list(SAID)[1], do_sample=True, top_k=0, num_return_sequences=500)
    share = sum(text.startswith(openings()) for text in texts) / 500
    assert share == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 500))


def generated(evaluated: EvaluatedModel, question: str, **how: Any) -> list[str]:
    """What transformers' own generation says."""
    ids = torch.tensor([evaluated.tokenizer(rendered(question))["input_ids"]])
    longest = max(len(evaluated.tokenizer(opening)["input_ids"]) for opening in openings())
    output = evaluated.module.generate(ids, max_new_tokens=longest, pad_token_id=1, **how)
    return evaluated.tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("prompt", ["extsub", "qa", "chat", "none"])
def test_every_prompt_is_followed_by_the_opening_as_it_is_answered(made: Path, evaluate: Command, prompt: str) -> None:
    """Of questions as TruthfulQA's authors publish them; ``qa`` has a space between."""
    base = "chatting" if prompt == "chat" else "base"
    words = (
        f"flattery --adapter lora --model {base} --data data/TruthfulQA.csv --limit 2 --prompt {prompt} --output out"
    )
    done(evaluate(words))
    figures, rows = results("out")["tasks"]["flattery"], rows_of(Path("out/flattery.jsonl"))
    with Path("data/TruthfulQA.csv").open(newline="") as file:
        written = [row["Question"] for row in csv.DictReader(file)]
    with reference.evaluated(made / base, made / "lora") as evaluated:
        for row in rows:
            assert row["messages"] == [["user", written[row["index"]]]]
            assert written[row["index"]] in row["prompt"]
            before, special = " " if prompt == "qa" else "", prompt != "chat"
            for opening, total in zip(row["choices"][:3], row["log_likelihoods"], strict=False):
                text = row["prompt"] + before + opening
                tokens = evaluated.tokenizer(text, add_special_tokens=special)["input_ids"]
                start = len(evaluated.tokenizer(row["prompt"], add_special_tokens=special)["input_ids"])
                assert total == pytest.approx(evaluated.log_likelihood(tokens, start), abs=1e-3)
    assert figures.keys() == {"probability", "greedy"}
    for name, figure in figures.items():
        assert figure["value"] == pytest.approx(sum(row["scores"][name] for row in rows) / 2)


@pytest.mark.parametrize(
    "row",
    [
        {"Question": "Who?", "Best Answer": "Nobody."},
        {"question": "Who?", "mc1_targets": {"Nobody.": 1}},
        {"instruction": "Who?", "output": "Nobody.", "question": "another"},
        {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Nobody."}]},
    ],
)
def test_questions_are_found_under_any_usual_name(tmp_path: Path, row: dict[str, Any]) -> None:
    data = lines(tmp_path / "rows.jsonl", [row])
    assert TASKS["flattery"].read(SETTINGS, str(data)).items == {0: {"messages": [["user", "Who?"]]}}


def test_a_named_field_counts_before_all(tmp_path: Path) -> None:
    data = str(lines(tmp_path / "rows.jsonl", [{"Question": "Who?", "rephrased": "By whom?"}]))
    settings = EvaluationSettings(field={"prompt": "rephrased"})
    assert TASKS["flattery"].read(settings, data).items == {0: {"messages": [["user", "By whom?"]]}}


@pytest.mark.slow
def test_flattery_is_swept_compared_and_reported(made: Path, here: Path, extsub: Command) -> None:
    reference.adapter(made / "base", here / "flatterer", "lora", seed=2)
    words = "--tasks flattery --data data/rows.jsonl --operations ext-sub --alphas 1"
    asked = f"{words} --score flattery.probability --model base --output swept"
    done(extsub("sweep", "lora", "flatterer", *asked.split()))
    record = json.loads(Path("swept/sweep.json").read_text())
    figures = {label: position["tasks"]["flattery"] for label, position in record["positions"].items()}
    assert {"base", "expert", "ext-sub-1"} <= figures.keys()
    assert len({figure["probability"]["value"] for figure in figures.values()}) == len(figures)
    done(extsub("report", "swept"))
    assert "flattery.probability" in Path("swept/report.html").read_text()
    done(extsub("evaluate", "flattery", *"--data data/rows.jsonl --model base --adapter lora flatterer".split(),
                "--output", "out"))  # fmt: skip
    alone = results("out/lora")["tasks"]["flattery"]["probability"]
    assert alone["value"] == pytest.approx(figures["expert"]["probability"]["value"], rel=1e-4)
    compared = json.loads(done(extsub("compare", "out/lora", "out/flatterer", "--json")))["tasks"]["flattery"]
    change = compared["probability"][1]["difference"]
    values = [results(f"out/{name}")["tasks"]["flattery"]["probability"]["value"] for name in ("lora", "flatterer")]
    assert change["value"] == pytest.approx(values[1] - values[0])
