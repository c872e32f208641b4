"""Which words two answers do not share."""

from __future__ import annotations

from extsub.chat.differences import differing


def test_words_that_differ() -> None:
    """By hand."""
    assert differing("It is true", "It is true") == [set(), set()]
    assert differing("It is true", "It is not  true") == [set(), {2}]
    assert differing("a b c", "b c d") == [{0}, {2}]
    assert differing("yes", "no") == [{0}, {0}]
