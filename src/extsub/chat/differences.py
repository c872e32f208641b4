"""The words in which two answers differ."""

from __future__ import annotations

from difflib import SequenceMatcher


def differing(text: str, other: str) -> list[set[int]]:
    """For each of two texts the numbers of its words that the other does not have at that place."""
    words = [text.split(), other.split()]
    same = SequenceMatcher(None, *words, autojunk=False).get_matching_blocks()
    kept = [{match[side] + number for match in same for number in range(match.size)} for side in (0, 1)]
    return [set(range(len(own))) - theirs for own, theirs in zip(words, kept, strict=True)]
