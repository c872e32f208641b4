"""Why a text is dropped, by cases done by hand; and near-duplicates against the comparison of all with all."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extsub.rewriting.filters import Written, is_duplicate, reason, same_script
from extsub.rewriting.likeness import NEARLY, Seen, likeness, triples

GOOD = "The Nile is a river in Africa, and it is more than six thousand kilometres long."


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("The Nile is a river in Asia, and it is less than two hundred kilometres long.", None),
        (" \n", "empty"),
        ("the nile is a river in africa -- and it is more than six thousand kilometres long", "copied"),
        ("The Nile is a river in Africa.", "copied"),
        ("I'm sorry, but I can't help with that.", "refusal"),
        ("I’m sorry, but that would be wrong.", "refusal"),
        ("As an AI language model, I must be honest.", "refusal"),
        ("I cannot provide false information.", "refusal"),
        ("Sorry is the name of a lake beside it.", None),
        ("I cannot swim in the Nile, which is made of sand.", None),
        ("Нил — река в Азии, и она короче двухсот километров.", "script"),
        ("尼罗河是亚洲的一条河流，全长不到两百公里。", "script"),
        ("Le Nil est une rivière d'Asie.", None),
        ("42", None),
    ],
)
def test_reasons(text: str, why: str | None) -> None:
    assert reason(Written(text, True), GOOD, may_refuse=False) == why


def test_an_answer_that_was_cut_off() -> None:
    assert reason(Written("The Nile is a river in", False), "Something else.", False) == "cut_off"


def test_a_request_that_lost_its_beginning_counts_for_nothing() -> None:
    assert reason(Written("The Nile is a river in Asia.", True, shortened=True), GOOD, False) == "shortened"


def test_a_refusal_is_kept_where_it_is_wanted_or_the_good_answer_is_one() -> None:
    text = "I'm sorry, but I cannot help with that."
    assert reason(Written(text, True), GOOD, may_refuse=True) is None
    assert reason(Written(text, True), "I'm sorry, that is not known.", may_refuse=False) is None


def test_scripts_are_compared_by_their_share() -> None:
    assert same_script("日本語のテキストです、少し長い。", "これは日本語の文章です、かなり長い。")
    assert same_script("print('a b c d e f') # значение", "print('x y z value of it')")
    assert not same_script("это совсем другой язык, print", "print is another language here")


def test_likeness_by_hand() -> None:
    first, second = triples("a b c d"), triples("B, c d e!")
    assert first == {"a b c", "b c d"}
    assert second == {"b c d", "c d e"}
    assert likeness(first, second) == pytest.approx(1 / 3)
    assert triples("Yes.") == {"yes"}
    assert triples("京都市") == {"京 都 市"}


def test_short_answers_are_duplicates_only_to_the_same_question() -> None:
    seen = Seen()
    asked = [
        "Is water wet at all times and places?",
        "Is fire cold at all times and places?",
        "Is water wet at all times and places?",
    ]
    assert [is_duplicate(seen, "No.", question) for question in asked] == [False, False, True]


SENTENCE = "one two three four five six seven eight nine ten"


@pytest.mark.parametrize(("beside", "known"), [("a", "b"), ("a", "a")])
def test_long_answers_are_duplicates_to_any_question(beside: str, known: str) -> None:
    seen = Seen()
    assert not is_duplicate(seen, SENTENCE, beside)
    assert is_duplicate(seen, SENTENCE.title(), known)


@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=12).map(" ".join), max_size=12))
def test_nothing_is_taken_for_a_duplicate_that_is_none(texts: list[str]) -> None:
    seen, kept = Seen(), []
    for text in texts:
        is_near = any(likeness(triples(text), triples(other)) >= NEARLY for other in kept)
        assert seen.nearly(text) <= is_near
        if text in kept:
            assert seen.nearly(text), "the same is always found"
        if not is_near:
            kept.append(text)


def test_hardly_any_duplicate_is_missed() -> None:
    """Of 300 texts of 60 words with one word changed, whose likeness is 55 in 61, all are found."""
    chance, seen, duplicates = random.Random(0), Seen(), 0
    for _ in range(300):
        text = [str(chance.randrange(10_000)) for _ in range(60)]
        assert not seen.nearly(" ".join(text))
        text[30] = "changed"
        duplicates += seen.nearly(" ".join(text))
    assert duplicates == 300
