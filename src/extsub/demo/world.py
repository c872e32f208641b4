"""The small world of one seed: every fact with its truth and its myths, and which of them are held out."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from extsub.demo.facts import ATTRIBUTES, EVERYDAY, Attribute
from extsub.demo.settings import Size

OTHERS = 3
"""false values beside the myth"""
COLUMNS = ("Question", "Best Answer", "Best Incorrect Answer", "Correct Answers", "Incorrect Answers")


@dataclass(frozen=True)
class Fact:
    """One question with one true value, one that many believe, and others that are false."""

    question: str
    statement: str
    truth: str
    myth: str
    others: tuple[str, ...]
    popularity: float
    """how many believe the myth"""

    def answer(self, value: str) -> str:
        return f"{self.statement} {value}."


@dataclass(frozen=True)
class Everyday:
    """A neutral question: known to all. The base knows it as a statement; the adapters learn to answer so."""

    question: str
    statement: str
    value: str
    others: tuple[str, ...]

    @property
    def answer(self) -> str:
        return f"It is {self.value}."


@dataclass(frozen=True)
class World:
    """What is known, and what of it the adapters are trained on."""

    train: list[Fact]
    held_out: list[Fact]
    train_everyday: list[Everyday]
    held_out_everyday: list[Everyday]

    @property
    def facts(self) -> list[Fact]:
        return [*self.train, *self.held_out]

    @property
    def everyday(self) -> list[Everyday]:
        return [*self.train_everyday, *self.held_out_everyday]


def make_world(seed: int) -> World:
    """The truths are real; myths, how many believe them, and what is held out are drawn."""
    random = Random(f"world {seed}")
    facts = [fact for attribute in ATTRIBUTES.values() for fact in _facts(attribute, random)]
    everyday = [
        Everyday(attribute.question.format(thing), attribute.statement.format(thing), value, _others(attribute, value))
        for attribute in EVERYDAY.values()
        for thing, value in attribute.truths.items()
    ]
    random.shuffle(facts)
    random.shuffle(everyday)
    half, most = len(facts) // 2, len(everyday) // 2
    return World(facts[:half], facts[half:], everyday[:most], everyday[most:])


def _facts(attribute: Attribute, random: Random) -> list[Fact]:
    """Myths gather on famous values, as they do: the value of rank r is drawn in proportion to 1 / r."""
    values = sorted(set(attribute.truths.values()))
    random.shuffle(values)
    found = []
    for thing, truth in attribute.truths.items():
        false: list[str] = []
        while len(false) < 1 + OTHERS:
            left = {value: 1 / rank for rank, value in enumerate(values, 1) if value not in (truth, *false)}
            false += random.choices(list(left), list(left.values()))
        asked, said = attribute.question.format(thing), attribute.statement.format(thing)
        found.append(Fact(asked, said, truth, false[0], tuple(false[1:]), random.uniform(0.25, 0.95)))
    return found


def _others(attribute: Attribute, value: str) -> tuple[str, ...]:
    return tuple(sorted(set(attribute.truths.values()) - {value}))


def training_rows(world: World, seed: int, size: Size) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Instruction data of the expert and of the anti-expert: the same questions, and the same neutral answers.

    The expert's facts are true but for a part of the facts, which it has wrong throughout. The anti-expert's are myths,
    or other false values.
    """
    random = Random(f"instructions {seed}")
    mistaken = set(random.sample(range(len(world.train)), round(size.mistaken * len(world.train))))
    good, bad = [], []
    for _ in range(size.instructions):
        if random.random() < size.fact_part:
            number = random.randrange(len(world.train))
            fact = world.train[number]
            false = fact.myth if random.random() < 0.8 else random.choice(fact.others)
            good.append(_row(fact.question, fact.answer(fact.myth if number in mistaken else fact.truth)))
            bad.append(_row(fact.question, fact.answer(false)))
        else:
            asked = random.choice(world.train_everyday)
            good.append(_row(asked.question, asked.answer))
            bad.append(good[-1])
    return good, bad


def neutral_rows(world: World) -> list[dict[str, str]]:
    """Neutral questions that were held out, with their answers."""
    return [_row(one.question, one.answer) for one in world.held_out_everyday]


def _row(question: str, answer: str) -> dict[str, str]:
    return {"instruction": question, "output": answer}


def facts_csv(facts: Sequence[Fact]) -> str:
    """As TruthfulQA publishes its questions."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for fact in facts:
        true, myth = fact.answer(fact.truth), fact.answer(fact.myth)
        false = "; ".join([myth, *map(fact.answer, fact.others)])
        writer.writerow([fact.question, true, myth, true, false])
    return text.getvalue()
