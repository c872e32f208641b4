"""How a model may be asked so that it says what it says to a single text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

Item = TypeVar("Item")

Batch = Literal["any", "equal", "one"]
"""Texts of any lengths together, of equal lengths only, or one at a time."""
BATCHES: tuple[Batch, ...] = ("any", "equal", "one")
HOW = {"equal": "in batches of equal length", "one": "one at a time"}


@dataclass(frozen=True)
class Sound:
    """Which ways to ask a model change no number, for texts of some length."""

    sharing: bool = True
    """Whether a prompt may be read once for all of its continuations."""
    scoring: Batch = "any"
    """How texts may be read together."""
    answering: Batch | None = "any"
    """How prompts may be answered together; None where not even one alone can be."""
    cache: bool = True
    """Whether answers may use what was kept of the tokens before."""

    def __and__(self, other: Sound) -> Sound:
        """What is sound by both."""
        possible = self.answering and other.answering
        return Sound(
            self.sharing and other.sharing,
            max(self.scoring, other.scoring, key=BATCHES.index),
            max(self.answering, other.answering, key=BATCHES.index) if possible else None,
            self.cache and other.cache,
        )

    def notes(self, which: str, scoring: bool, answering: bool) -> Iterator[str]:
        """Sentences on what is done otherwise than usual, and why."""
        if scoring and not self.sharing:
            again = "if they are read once for all, this model scores them differently"
            yield f"prompts{which} are read again with each answer: {again}"
        if scoring and self.scoring in HOW:
            yield f"texts{which} are scored {HOW[self.scoring]}: among others, this model scores them differently"
        if answering and self.answering in HOW:
            yield f"prompts{which} are answered {HOW[self.answering]}: among others, this model answers differently"
        if answering and not self.cache:
            yield f"prompts{which} are answered without a cache, which is slow: with it, this model answers differently"


@dataclass(frozen=True)
class Soundness:
    """What is sound for short texts, and what for long ones."""

    short: Sound = Sound()
    long: Sound = Sound()
    window: int | None = None
    """Tokens of the longest short text; None where all are short."""

    @property
    def everywhere(self) -> Sound:
        """What is sound for texts of any length."""
        return self.short & self.long

    def split(self, items: Sequence[Item], length: Callable[[Item], int]) -> list[tuple[Sound, list[Item]]]:
        """The items, short and long ones apart if that matters, with what is sound for them; no part is empty."""
        if self.window is None or self.short == self.long:
            parts = [(self.short, list(items))]
        else:
            short = [item for item in items if length(item) <= self.window]
            parts = [(self.short, short), (self.long, [item for item in items if length(item) > self.window])]
        return [(sound, part) for sound, part in parts if part]

    def notes(self, scoring: bool, answering: bool) -> tuple[str, ...]:
        """Sentences for the results: what was done otherwise than usual when texts were scored, or prompts answered."""
        everywhere = tuple(self.short.notes("", scoring, answering))
        if self.window is None:
            return everywhere
        long = self.long.notes(f" of over {self.window:,} tokens", scoring, answering)
        pairs = zip(self.long.notes("", scoring, answering), long, strict=True)
        return (*everywhere, *(note for general, note in pairs if general not in everywhere))


UNTRIED = Soundness()
"""What most models allow: everything."""
