"""How alike two texts are, by the triples of words that they share; and whether a text was seen before, nearly.

To find one like it among all before, a text is not compared with each of them: of 64 hashes over its triples (MinHash,
Broder 1997) 16 groups of 4 are looked up, and only texts that have a group in common are compared. Texts of a likeness
of .8 are found with a probability of .9998, of .5 with .64. So the time grows as the number of texts does.
"""

from __future__ import annotations

import re
import zlib

import numpy as np

SHINGLE = 3
"""Words that are taken together."""
GROUPS, IN_GROUP = 16, 4
NEARLY = 0.8
"""From this likeness on, a text is nearly another one."""
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_]+")
"""A word; in Chinese and Japanese, which do not part them, a character."""
_FACTORS, _ADDENDS = np.random.default_rng(0).integers(1, 2**63, size=(2, GROUPS * IN_GROUP), dtype=np.uint64)


def words(text: str) -> list[str]:
    """The words of a text, without case, punctuation and space."""
    return _WORD.findall(text.casefold())


def triples(text: str) -> frozenset[str]:
    """All runs of three words; a shorter text is one run."""
    text_words = words(text)
    return frozenset(
        " ".join(text_words[start : start + SHINGLE]) for start in range(max(1, len(text_words) - SHINGLE + 1))
    )


def likeness(first: frozenset[str], second: frozenset[str]) -> float:
    """The share of triples that two texts have in common, of all that they have (Jaccard's index)."""
    return len(first & second) / len(first | second)


class Seen:
    """The texts seen so far, to find those that are nearly one of them."""

    def __init__(self) -> None:
        self._groups: dict[tuple[int, bytes], list[frozenset[str]]] = {}

    def nearly(self, text: str) -> bool:
        """Whether a text is nearly one before it; if not, it is remembered."""
        text_triples = triples(text)
        keys = list(enumerate(_groups_of(text_triples)))
        for key in keys:
            if any(likeness(text_triples, other) >= NEARLY for other in self._groups.get(key, ())):
                return True
        for key in keys:
            self._groups.setdefault(key, []).append(text_triples)
        return False


def _groups_of(text_triples: frozenset[str]) -> list[bytes]:
    hashes = np.fromiter((zlib.crc32(triple.encode()) for triple in text_triples), np.uint64, len(text_triples))
    mixed = (hashes[:, None] * (_FACTORS | np.uint64(1)) + _ADDENDS) >> np.uint64(16)  # the low bits mix least
    smallest = mixed.min(axis=0).reshape(GROUPS, IN_GROUP)
    return [group.tobytes() for group in smallest]
