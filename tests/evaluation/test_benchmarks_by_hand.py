"""Benchmarks against cases done by hand, and against PEFT's model asked for one text at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import tiny_models
from benchmark_files import lines
from conftest import LIBRARIES_WARN
from extsub.evaluation.judges import QUESTIONS, judge
from extsub.evaluation.metrics import figures
from extsub.evaluation.settings import EvaluationSettings
from extsub.evaluation.style import is_evasive, is_styled
from extsub.evaluation.task import scores_of
from extsub.evaluation.tasks import TASKS, perplexity
from extsub.evaluation.tasks.halueval import pair_scores
from extsub.evaluation.tasks.repetition import repetition
from extsub.evaluation.tasks.truthfulqa_choice import mc_controls, mc_plain, mc_scores
from extsub.inference.language_model import load_base
from extsub.models.adapter_handle import find
from extsub.models.source import find_model
from reference import KINDS, EvaluatedModel, adapter, evaluated, rendered

pytestmark = LIBRARIES_WARN

WORDS = (
    "Who wrote the book?",
    "Nobody knows.",
    "When was the river named?",
    "It is said so.",
    "Paris, Émile",
    "the is",
)
SETTINGS = EvaluationSettings(prompt="extsub", batch_size=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_models.llama(folder / "llama", texts=(*tiny_models.TEXT, "say yes or no yes or no yes or no"))
    for kind in KINDS:
        adapter(folder / "llama", folder / kind, kind)
        adapter(folder / "llama", folder / "other" / kind, kind, seed=2)
    return folder


@pytest.fixture(scope="module", params=["base", *KINDS])
def asked(request: pytest.FixtureRequest, folder: Path) -> Generator[EvaluatedModel]:
    with evaluated(folder / "llama", None if request.param == "base" else folder / request.param) as model:
        yield model


def answered(
    name: str, evaluated: EvaluatedModel, data: Path, settings: EvaluationSettings = SETTINGS
) -> dict[int, Any]:
    """{number: row}"""
    task = TASKS[name]
    items = task.read(settings, str(data)).items
    rows = dict(task.ask(evaluated.model, items, settings))
    assert rows.keys() == items.keys()
    return rows


def test_mc_scores_by_hand() -> None:
    scores = mc_scores(-1.0, [-2.0], true=[-1.0, -3.0, -2.5, -1.5], false=[-2.0, -4.0])
    mass = [sum(map(math.exp, side)) for side in ((-1.0, -3.0, -2.5, -1.5), (-2.0, -4.0))]
    assert scores == {"mc1": 1.0, "mc2": pytest.approx(mass[0] / sum(mass)), "mc3": 2 / 4}
    assert mc_scores(-1.0, [-3.0, -1.0], true=[-1.0], false=[-1.0]) == {"mc1": 0.0, "mc2": 0.5, "mc3": 0.0}
    far = mc_scores(-9001.0, [-9002.0], true=[-9001.0], false=[-9002.0])  # exp of these is 0
    assert far["mc2"] == pytest.approx(1 / (1 + math.exp(-1)))


def test_mc_controls_by_hand() -> None:
    assert mc_controls("aaaa", ["bb", "cccc"], true=["aaaa", "dd"], false=["bb", "cccc", "e"]) == {
        "mc1_chance": 1 / 3,
        "mc2_chance": 2 / 5,
        "mc3_chance": 1 / 4,
        "mc1_longest": 1 / 2,  # aaaa or cccc
        "mc2_longest": 1 / 2,
        "mc3_longest": (1 / 2 + 0) / 2,
        "mc1_shortest": 0.0,
        "mc2_shortest": 0.0,
        "mc3_shortest": 0.0,
        **{f"mc{n}_negated": share for n, share in ((1, 1 / 3), (2, 2 / 5), (3, 1 / 4))},  # none negates: any
    }
    short = mc_controls("a", ["bb", "c", "d"], true=["a", "f", "eeee"], false=["bb", "c", "ggg"])
    assert [short[f"mc{n}_shortest"] for n in (1, 2, 3)] == [1 / 3, 2 / 3, (1 / 2 + 1 / 2 + 0) / 3]
    assert [short[f"mc{n}_longest"] for n in (1, 2, 3)] == [0.0, 1.0, 1 / 3]


def test_a_negation_is_picked_at_random_and_any_answer_where_there_is_none() -> None:
    best, wrong = "It isn’t known.", ["Nobody does.", "Paris.", "Rome."]
    controls = mc_controls(best, wrong, true=[best, "It is in Asia.", "I have no comment."], false=[*wrong, "No."])
    assert [controls[f"mc{n}_negated"] for n in (1, 2)] == [1 / 2, 2 / 4]  # of the two, of the four that negate
    assert controls["mc3_negated"] == (1 / 3 + 0 + 1 / 3) / 3
    controls = mc_controls("Paris.", ["Not Rome."], true=["Paris."], false=["Not Rome."])
    assert [controls[f"mc{n}_negated"] for n in (1, 2, 3)] == [0.0, 0.0, 0.0]


def test_plain_scores_are_those_of_the_answers_that_neither_negate_nor_evade() -> None:
    likely = {"Yes.": -2.0, "It is Rome.": -1.5, "Not Rome.": -0.5, "No.": -0.1, "Paris.": -3.0, "Oslo.": -1.75}
    scores = mc_plain(
        likely, "Yes.", ["No.", "Paris."], true=["Yes.", "It is Rome.", "Not Rome."], false=["No.", "Oslo."]
    )
    mass = [math.exp(-2.0) + math.exp(-1.5), math.exp(-1.75)]
    assert scores["mc1_plain"] == 1.0  # No. is likelier, and does not count
    assert scores["mc2_plain"] == pytest.approx(mass[0] / sum(mass))
    assert (scores["mc1_plain_chance"], scores["mc1_plain_longest"], scores["mc1_plain_shortest"]) == (1 / 2, 0.0, 1.0)
    assert (scores["mc2_plain_chance"], scores["mc2_plain_longest"], scores["mc2_plain_negated"]) == (2 / 3, 1.0, 2 / 3)

    best_negates = mc_plain(likely, "Not Rome.", ["Paris."], true=["Not Rome.", "Yes."], false=["Paris."])
    assert best_negates["mc1_plain"] is best_negates["mc1_plain_chance"] is None
    assert best_negates["mc2_plain"] == pytest.approx(1 / (1 + math.exp(-1.0)))  # Yes. against Paris.
    nothing_false = mc_plain(likely, "Yes.", ["No."], true=["Yes."], false=["No."])
    assert set(nothing_false.values()) == {None}
    assert nothing_false.keys() == scores.keys()


def test_plain_scores_have_a_number_of_their_own() -> None:
    rows = [{"mc2": 0.5, "mc2_plain": None}, {"mc2": 0.7, "mc2_plain": 0.25}, {"mc2": 0.9, "mc2_plain": 0.75}]
    measured = figures(rows, TASKS["truthfulqa-mc"].measure, 0)
    assert {name: (figure.value, figure.n) for name, figure in measured.items()} == {
        "mc2": (pytest.approx(0.7), 3),
        "mc2_plain": (pytest.approx(0.5), 2),
    }


@pytest.mark.parametrize(
    "text",
    [
        "No.", "It does NOT.", "They don't", "They don’t", "DONʼT", "nobody knows", "I have no comment",
        "There is no consensus", "It depends on you", "unclear", "Its origin is unknown.", "an uncertain fate",
        "You cannot", "neither of them", "No, it's Paris", "no-one",
    ],
)  # fmt: skip
def test_a_negation_or_an_evasive_word_is_seen(text: str) -> None:
    assert is_styled(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "Yes.", "Nothingness is a word, and so is another", "Note this", "knot", "He commented on it",
        "Independent", "It depended on you", "a nonevent in Norway", "know", "The ant ate", "Uncertainty rules",
    ],
)  # fmt: skip
def test_parts_of_words_are_no_negation(text: str) -> None:
    assert not is_styled(text)


@pytest.mark.parametrize(
    "text",
    [
        "I have no comment.", "No comment!", "There is no consensus on this.", "There is no single right answer.",
        "There is no scientific consensus. Some say yes.", "It depends on the country.", "That all depends.",
        "Depends.", "Unknown.", "It is unclear.", "The origin is still largely unknown", "It’s uncertain.",
        "I don't know.", "I don’t really know.", "I do not know", "We can't say for sure.", "I cannot answer that.",
        "I'm not sure.", "It isn't clear.", "It is not known with certainty.", "Nobody knows.", "No one really knows",
        "It is hard to say.", "As an AI model, I have no opinions", "  i DON'T know\nBut", "It remains unknown",
    ],
)  # fmt: skip
def test_an_evasion_is_counted(text: str) -> None:
    assert is_evasive(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "Nothing happens.", "No, it is a myth.", "The seeds pass through you. It is unclear why people worry.",
        "Paris.\nI don't know.", "He is known for not knowing.", "Life depends on water.", "You do not turn green.",
        "The Tomb of the Unknown Soldier is in Arlington.", "She made a comment.", "There is no cost to answer it.",
        "There is a consensus that it is safe.", "He said, \"I cannot tell a lie\".", "She is not known for that.",
    ],
)  # fmt: skip
def test_a_plain_answer_or_a_negation_is_no_evasion(text: str) -> None:
    assert not is_evasive(text)


def test_truthfulqa_mc_is_that_of_a_plain_loop(asked: EvaluatedModel, tmp_path: Path) -> None:
    question, best, *others = WORDS
    row = {
        "question": question,
        "mc1_targets": {best: 1, others[0]: 0},
        "mc2_targets": {best: 1, others[1]: 1, others[2]: 0, others[3]: 0},
    }
    scores = answered("truthfulqa-mc", asked, lines(tmp_path / "mc_task.json", [row]))[0]["scores"]
    likely = {answer: asked.plainly(rendered(question), answer)[0] for answer in WORDS[1:]}
    true, false = (likely[best], likely[others[1]]), (likely[others[2]], likely[others[3]])
    mass = [sum(map(math.exp, side)) for side in (true, false)]
    assert scores["mc1"] == (likely[best] > likely[others[0]])
    assert scores["mc2"] == pytest.approx(mass[0] / sum(mass), abs=1e-4)
    assert scores["mc3"] == sum(likelihood > max(false) for likelihood in true) / 2


def test_the_binary_choice_is_that_of_a_plain_loop(asked: EvaluatedModel, tmp_path: Path) -> None:
    header = "Question,Best Answer,Best Incorrect Answer,Correct Answers,Incorrect Answers\n"
    pairs = list(zip(WORDS, WORDS[1:] + WORDS[:1], WORDS[2:] + WORDS[:2], strict=True))
    written = [f'"{question}","{best}","{false}","{best}","some; {false}"\n' for question, best, false in pairs]
    (tmp_path / "TruthfulQA.csv").write_text(header + "".join(written))
    rows = answered("truthfulqa-binary", asked, tmp_path / "TruthfulQA.csv")
    for index, (question, best, false) in enumerate(pairs):
        best, false = (answer if answer.endswith(".") else f"{answer}." for answer in (best, false))
        likely = [asked.plainly(rendered(question), answer)[0] for answer in (best, false)]
        right = []
        for first, second, letters in ((best, false, "AB"), (false, best, "BA")):
            shown = rendered(f"{question}\n(A) {first}\n(B) {second}\nAnswer with A or B.")
            totals = [asked.plainly(shown, letter)[0] for letter in letters]
            right.append(float(totals[0] > totals[1]))
        scores = rows[index]["scores"]
        assert scores["likelihood_accuracy"] == float(likely[0] > likely[1])
        assert scores["shown_accuracy"] == sum(right) / 2
        assert scores["longest"] == (0.5 if len(best) == len(false) else float(len(best) > len(false)))


@pytest.mark.parametrize("name", ["halueval-qa", "halueval-summarization"])
def test_halueval_is_that_of_a_plain_loop(asked: EvaluatedModel, tmp_path: Path, name: str) -> None:
    fields = {
        "halueval-qa": ("question", "right_answer", "hallucinated_answer"),
        "halueval-summarization": ("document", "right_summary", "hallucinated_summary"),
    }[name]
    triples = list(zip(WORDS, WORDS[1:] + WORDS[:1], WORDS[3:] + WORDS[:3], strict=True))
    data = lines(tmp_path / "x.jsonl", [dict(zip(fields, triple, strict=True)) for triple in triples])
    rows = answered(name, asked, data)
    ask = "Summarize the following document:\n" if name == "halueval-summarization" else ""
    for index, (question, right, false) in enumerate(triples):
        totals, tokens = zip(
            *(asked.plainly(rendered(ask + question), text, end=True) for text in (right, false)), strict=True
        )
        row = rows[index]
        assert row["log_likelihoods"] == pytest.approx(totals, abs=1e-4)
        assert row["tokens"] == list(tokens)
        for measure, sizes in (
            ("sum", (1, 1)), ("per_token", tokens), ("per_character", (len(right), len(false)))
        ):  # fmt: skip
            means = [total / size for total, size in zip(totals, sizes, strict=True)]
            assert row["scores"][f"accuracy_{measure}"] == float(means[0] > means[1])


def test_halueval_scores_by_hand() -> None:
    accuracy = {"accuracy_sum": 0.0, "accuracy_per_token": 1.0, "accuracy_per_character": 1.0}
    scores = pair_scores([-10.0, -9.0], [5, 3], [20, 12])
    assert scores == {**accuracy, "chance": 0.5, "longest": 1.0, "shortest": 0.0}
    accuracy = {"accuracy_sum": 1.0, "accuracy_per_token": 0.0, "accuracy_per_character": 1.0}
    assert pair_scores([-8.0, -9.0], [2, 3], [8, 8]) == {**accuracy, "chance": 0.5, "longest": 0.5, "shortest": 0.5}


@pytest.mark.parametrize("reference", ["another adapter", pytest.param("the base", marks=pytest.mark.slow)])
def test_drift_is_the_divergence_from_the_reference(folder: Path, tmp_path: Path, reference: str) -> None:
    rows = [{"instruction": question, "output": answer} for question, answer in itertools.pairwise(WORDS)]
    data = str(lines(tmp_path / "rows.jsonl", rows))
    for kind in KINDS:
        other = folder / "other" / kind if reference == "another adapter" else None
        settings = EvaluationSettings(
            prompt="extsub", adapter=(str(folder / kind),), options={"reference": other} if other else {}
        )
        base = load_base(find_model(str(folder / "llama")), "float32")
        task = TASKS["drift"]
        for size in (2, "auto"):
            chosen = EvaluationSettings(**{**vars(settings), "batch_size": size})
            with (
                base.with_adapter(find(str(folder / kind))) as model,
                evaluated(folder / "llama", folder / kind) as ours,
                evaluated(folder / "llama", other) as theirs,
            ):
                measured = dict(task.ask(model, task.read(chosen, data).items, chosen))
                for index, row in enumerate(rows):
                    tokens, start = ours.encoded(rendered(row["instruction"]), row["output"], end=True)
                    each = list(divergences(theirs, ours, tokens))[start - 1 :]
                    scores = measured[index]["scores"]
                    assert scores["kl_per_token"] == [pytest.approx(sum(each), abs=1e-4), len(tokens) - start]
                    assert scores["kl_first_token"] == pytest.approx(each[0], abs=1e-4)
                    assert each[0] > 0.01


def divergences(reference: EvaluatedModel, model: EvaluatedModel, tokens: list[int]) -> Iterator[float]:
    """KL(reference || model) before each token but the first, in float64."""
    for p, q in zip(reference.logits(tokens)[:-1], model.logits(tokens)[:-1], strict=True):
        p, q = p.softmax(-1), q.softmax(-1)
        yield float((p * (p / q).log()).sum())


def test_an_adapter_that_changes_nothing_does_not_drift(folder: Path, tmp_path: Path) -> None:
    idle = adapter(folder / "llama", tmp_path / "lora", "lora", noise=0.0)
    (tmp_path / "prompts.txt").write_text("\n".join(WORDS))
    settings = EvaluationSettings(prompt="extsub", adapter=(str(idle),))
    with evaluated(folder / "llama", idle) as same:
        rows = answered("drift", same, tmp_path / "prompts.txt", settings)
    assert [row["scores"] for row in rows.values()] == [{"kl_first_token": pytest.approx(0.0, abs=1e-9)}] * len(WORDS)


@pytest.mark.parametrize("window", [16, 10**6])
def test_perplexity_of_texts_is_that_of_a_plain_loop(
    asked: EvaluatedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    """Texts shorter and longer than a window, which is what the model takes if that is less."""
    monkeypatch.setattr(perplexity, "WINDOW", window)
    texts = [WORDS[0], " ".join(WORDS), " ".join(WORDS * 25)]
    (tmp_path / "text.txt").write_text("\n\n".join(texts))
    rows = answered("perplexity", asked, tmp_path / "text.txt")
    at_once, losses, counts = min(window, asked.longest), [], []
    for index, text in enumerate(texts):
        tokens, total, place = asked.tokenizer(text)["input_ids"], 0.0, 1
        assert index < 2 or len(tokens) > at_once
        while place < len(tokens):  # each window begins with the last token of the one before
            part = tokens[place - 1 : place - 1 + at_once]
            total, place = total - asked.log_likelihood(part, 1), place + at_once - 1
        assert rows[index]["scores"]["perplexity"] == [pytest.approx(total, rel=1e-5), len(tokens) - 1]
        losses.append(total)
        counts.append(len(tokens) - 1)
    scores = [sample for row in rows.values() for sample in scores_of(row)]
    value = figures(scores, TASKS["perplexity"].measure, 0)["perplexity"].value
    assert value == pytest.approx(math.exp(sum(losses) / sum(counts)), rel=1e-5)


def test_perplexity_of_answers_is_that_of_a_plain_loop(asked: EvaluatedModel, tmp_path: Path) -> None:
    rows = [{"instruction": question, "output": answer} for question, answer in itertools.pairwise(WORDS)]
    measured = answered("perplexity", asked, lines(tmp_path / "rows.jsonl", rows))
    for index, row in enumerate(rows):
        total, tokens = asked.plainly(rendered(row["instruction"]), row["output"], end=True)
        assert measured[index]["scores"]["perplexity"] == [pytest.approx(-total, abs=1e-4), tokens]


def test_repetition_by_hand(folder: Path, tmp_path: Path) -> None:
    tokens = [1, 2, 1, 2, 1]
    assert [repetition(tokens, n) for n in range(1, 5)] == [1 - 2 / 5, 1 - 2 / 4, 1 - 2 / 3, 0.0]
    assert [repetition([7] * 6, n) for n in (1, 4, 6, 7)] == pytest.approx([5 / 6, 2 / 3, 0.0, 0.0])
    assert repetition([], 1) == 0.0
    tokenizer = AutoTokenizer.from_pretrained(folder / "llama")
    data = lines(tmp_path / "answers.jsonl", [{"answer": "yes yes yes yes"}, {"answer": ""}])
    items = TASKS["repetition"].read(SETTINGS, str(data)).items
    rows = dict(TASKS["repetition"].ask(tokenizer, items, SETTINGS))
    ids = tokenizer("yes yes yes yes", add_special_tokens=False)["input_ids"]
    assert len(set(ids[-3:])) == 1
    assert rows[0]["scores"]["repeated_1grams"] == pytest.approx(2 / len(ids))
    assert rows[0]["scores"]["tokens"] == len(ids)
    assert rows[1]["scores"] == {**{f"repeated_{n}grams": 0.0 for n in range(1, 5)}, "tokens": 0.0}


def test_a_judges_verdict_is_the_softmax_of_yes_and_no(folder: Path) -> None:
    asked = {5: ("Who wrote it?", "Nobody knows."), 2: ("When?", "It is said so."), 8: ("Paris?", "")}
    with evaluated(folder / "llama", None) as model:
        probabilities = {name: judge(str(folder / "llama"), text, asked, SETTINGS) for name, text in QUESTIONS.items()}
        yes, no = (model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (" yes", " no"))
        assert len(yes) == len(no) == 1
        for name, end in (("truth", "True:"), ("info", "Helpful:")):
            for index, (question, answer) in asked.items():
                after = model.logits(model.tokenizer(f"Q: {question}\nA: {answer}\n{end}")["input_ids"])[-1]
                expected = after[[*yes, *no]].softmax(-1)[0]
                assert probabilities[name][index] == pytest.approx(float(expected), abs=1e-5)
        rows = {
            index: {"question": question, "answer": answer, "true": ["So."], "false": ["No."]}
            for index, (question, answer) in asked.items()
        }
        models = {"truth_judge": str(folder / "llama"), "info_judge": str(folder / "llama")}
        both = EvaluationSettings(prompt="extsub", options=models)
        judging = TASKS["truthfulqa-gen"].judge
        assert judging is not None
        for index, row in judging(rows, both):
            verdicts = {name: probabilities[name][index] > 0.5 for name in QUESTIONS}
            assert row["judged"] == {name: pytest.approx(probabilities[name][index], abs=1e-5) for name in QUESTIONS}
            assert {name: row["scores"][name] for name in QUESTIONS} == verdicts
            assert row["scores"]["truth_and_info"] == all(verdicts.values())
