"""The demo's own data: nothing in the style, length or choice of words of an answer tells whether it is true."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from functools import cache
from importlib.resources import as_file, files
from itertools import combinations

import pytest

from extsub.data.instructions import load_data
from extsub.evaluation.tasks.flattery import openings
from extsub.evaluation.tasks.truthfulqa import read_questions

DATA = files("extsub.demo")
COLUMNS = "Type,Category,Question,Best Answer,Best Incorrect Answer,Correct Answers,Incorrect Answers,Source".split(",")
NEGATION = re.compile(r"\b(no|not|never|none|nothing|nobody|nowhere|neither|cannot)\b|n't", re.IGNORECASE)
EVASION = re.compile(r"\b(comment|consensus|depends?|unclear|unknown|uncertain)\b", re.IGNORECASE)
SENTENCE = re.compile(r"\"?[A-Z0-9][^;\n]*[^.]\.")
KINDS = ("explain", "list", "rewrite", "sort", "compute", "name")


@cache
def rows() -> list[dict[str, str]]:
    text = DATA.joinpath("misconceptions.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def true(row: dict[str, str]) -> list[str]:
    return row["Correct Answers"].split("; ")


def false(row: dict[str, str]) -> list[str]:
    return row["Incorrect Answers"].split("; ")


@cache
def instructions() -> list[dict[str, str]]:
    return [json.loads(line) for line in DATA.joinpath("instructions.jsonl").read_text(encoding="utf-8").splitlines()]


def words(text: str) -> set[str]:
    return set(re.findall(r"[\w']+", text.lower()))


def negated(answers: list[str]) -> float:
    """The share that holds a negation."""
    return sum(bool(NEGATION.search(answer)) for answer in answers) / len(answers)


def share_of_true(longest: list[tuple[int, int]]) -> float:
    """How often the true side is the longer one; a draw counts half."""
    return sum((right > wrong) + (right == wrong) / 2 for right, wrong in longest) / len(longest)


def test_misconceptions_have_the_columns_of_truthfulqa() -> None:
    assert all(list(row) == COLUMNS for row in rows())
    assert all(value and value == value.strip() for row in rows() for value in row.values())
    assert {row["Type"] for row in rows()} == {"Misconception"}


def test_there_are_many_questions_and_many_categories_of_about_equal_size() -> None:
    assert len(rows()) >= 240
    sizes = Counter(row["Category"] for row in rows())
    assert len(sizes) >= 20
    assert all(8 <= size <= 16 for size in sizes.values()), sizes


def test_questions_differ() -> None:
    asked = [words(row["Question"]) for row in rows()]
    assert [(a, b) for a, b in combinations(asked, 2) if len(a & b) > 0.6 * len(a | b)] == []


def test_every_question_has_true_and_false_sentences_and_the_best_are_among_them() -> None:
    for row in rows():
        assert row["Question"][0].isupper(), row
        assert row["Question"].endswith("?"), row
        assert row["Best Answer"] in true(row), row
        assert row["Best Incorrect Answer"] in false(row), row
        assert 2 <= len(true(row)) <= 4, row
        assert 2 <= len(false(row)) <= 4, row
        assert len({*true(row), *false(row)}) == len(true(row) + false(row)), row
        assert all(SENTENCE.fullmatch(answer) for answer in true(row) + false(row)), row


def test_no_answer_evades() -> None:
    assert [row for row in rows() if any(EVASION.search(answer) for answer in true(row) + false(row))] == []


def test_a_negation_does_not_tell_truth() -> None:
    for row in rows():
        assert not all(NEGATION.search(answer) for answer in true(row)), row
        assert any(NEGATION.search(answer) for answer in false(row)), row
    all_true, all_false = ([answer for row in rows() for answer in side(row)] for side in (true, false))
    assert negated(all_true) == pytest.approx(negated(all_false), abs=0.08)
    best, worst = ([row[name] for row in rows()] for name in ("Best Answer", "Best Incorrect Answer"))
    assert negated(best) == pytest.approx(negated(worst), abs=0.08)


def test_length_does_not_tell_truth() -> None:
    lengths = [([len(answer) for answer in true(row)], [len(answer) for answer in false(row)]) for row in rows()]
    assert 0.42 <= share_of_true([(max(right), max(wrong)) for right, wrong in lengths]) <= 0.58
    assert 0.42 <= share_of_true([(min(right), min(wrong)) for right, wrong in lengths]) <= 0.58
    best = [(len(row["Best Answer"]), len(row["Best Incorrect Answer"])) for row in rows()]
    assert 0.42 <= share_of_true(best) <= 0.58
    for right, wrong in lengths:
        assert max(right + wrong) <= 90
        assert max(right + wrong) <= 2 * min(right + wrong)


def test_no_common_word_tells_truth() -> None:
    in_true = Counter(word for row in rows() for answer in true(row) for word in words(answer))
    in_false = Counter(word for row in rows() for answer in false(row) for word in words(answer))
    common = {word: count for word, count in (in_true + in_false).items() if count >= 20}
    assert len(common) > 100
    told = {word: in_true[word] / count for word, count in common.items()}
    assert {word: share for word, share in told.items() if not 0.25 <= share <= 0.75} == {}


def test_the_reader_of_truthfulqa_reads_the_misconceptions() -> None:
    with as_file(DATA.joinpath("misconceptions.csv")) as path:
        questions = read_questions(str(path), "multiple_choice").questions
    assert len(questions) == len(rows())
    for question, row in zip(questions, rows(), strict=True):
        assert question["question"] == row["Question"]
        assert question["category"] == row["Category"]
        assert (question["best"], question["best_false"]) == (row["Best Answer"], row["Best Incorrect Answer"])
        assert (sorted(question["true"]), sorted(question["false"])) == (sorted(true(row)), sorted(false(row)))


def test_instructions_have_short_answers_of_several_kinds() -> None:
    assert len(instructions()) == 128
    assert all(list(row) == ["instruction", "output", "kind", "topic"] for row in instructions())
    assert all(value and value == value.strip() for row in instructions() for value in row.values())
    assert all(len(row["output"].split()) <= 25 for row in instructions())
    assert {row["kind"] for row in instructions()} == set(KINDS)
    with as_file(DATA.joinpath("instructions.jsonl")) as path:
        data = load_data(str(path))
    assert (len(data.examples), data.empty_answers, data.duplicates) == (128, 0, 0)


def test_every_second_instruction_is_half_of_each_kind_and_of_other_topics() -> None:
    learnt, asked = instructions()[::2], instructions()[1::2]
    assert Counter(row["kind"] for row in learnt) == Counter(row["kind"] for row in asked)
    assert len({row["topic"] for row in instructions()}) == 128
    assert len({row["instruction"] for row in instructions()}) == 128


def test_flatteries_are_many_short_sentences_of_different_lengths() -> None:
    assert len(set(openings())) == len(openings()) >= 12
    assert all(re.fullmatch(r"[A-Z][^.!?]*!", sentence) for sentence in openings())
    lengths = {len(sentence.split()) for sentence in openings()}
    assert (min(lengths), max(lengths)) == (3, 8)
    assert len(lengths) >= 5


def test_a_flattery_neither_negates_nor_evades() -> None:
    assert [sentence for sentence in openings() if NEGATION.search(sentence) or EVASION.search(sentence)] == []
