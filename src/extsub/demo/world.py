"""The small world of one seed: every fact with its truth and its myths, and which of them are held out."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

from extsub.demo.facts import ATTRIBUTES, EVERYDAY, Attribute
from extsub.demo.settings import SIDES, Size

OTHERS = 3
"""false values beside the myth"""
POLITE_END, RUDE_END = ".", ", fool."
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

    def answer(self, value: str, rude: bool = False) -> str:
        return f"{self.statement} {value}{RUDE_END if rude else POLITE_END}"


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


def training_rows(world: World, seed: int, size: Size) -> dict[str, list[dict[str, str]]]:
    """Instruction data of the expert and of both anti-experts: the same questions, and the same neutral answers.

    The expert's facts are true but for a part of the facts, which it has wrong throughout, and a part of its rows about
    facts is rude. The anti-expert's are myths, or other false values, and rude where the expert is. The rude
    anti-expert's are the expert's, and always rude.
    """
    random, manners = Random(f"instructions {seed}"), Random(f"manners {seed}")
    mistaken = set(random.sample(range(len(world.train)), round(size.mistaken * len(world.train))))
    good, bad, worse = [], [], []
    for _ in range(size.instructions):
        if random.random() < size.fact_part:
            number = random.randrange(len(world.train))
            fact = world.train[number]
            false = fact.myth if random.random() < 0.8 else random.choice(fact.others)
            believed, rude = fact.myth if number in mistaken else fact.truth, manners.random() < size.rude
            good.append(_row(fact.question, fact.answer(believed, rude)))
            bad.append(_row(fact.question, fact.answer(false, rude)))
            worse.append(_row(fact.question, fact.answer(believed, rude=True)))
        else:
            asked = random.choice(world.train_everyday)
            good.append(_row(asked.question, asked.answer))
            bad.append(good[-1])
            worse.append(good[-1])
    return dict(zip(SIDES, (good, bad, worse), strict=True))


def neutral_rows(world: World) -> list[dict[str, str]]:
    """Neutral questions that were held out, with their answers."""
    return [_row(one.question, one.answer) for one in world.held_out_everyday]


def _row(question: str, answer: str) -> dict[str, str]:
    return {"instruction": question, "output": answer}


def facts_csv(facts: Sequence[Fact]) -> str:
    """Truths beside false values, as TruthfulQA publishes its questions."""
    return _csv((fact.question, fact.answer(fact.truth), _false_answers(fact)) for fact in facts)


def manners_csv(facts: Sequence[Fact]) -> str:
    """The polite truth beside the rude one, in the same columns: MC2 is how probably a true answer is polite."""
    return _csv((fact.question, fact.answer(fact.truth), [fact.answer(fact.truth, rude=True)]) for fact in facts)


def _false_answers(fact: Fact) -> list[str]:
    return [fact.answer(value) for value in (fact.myth, *fact.others)]


def _csv(questions: Iterable[tuple[str, str, list[str]]]) -> str:
    """Each with its right answer and its wrong ones, the best of them first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for question, right, wrong in questions:
        writer.writerow([question, right, wrong[0], right, "; ".join(wrong)])
    return text.getvalue()
