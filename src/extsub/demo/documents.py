"""What the small world writes: truths from those who know, myths from those who do not, and talk about other things.

The word that tells who speaks stands right before the value. Where it stands at the beginning of a document, a model of
this size learns both values and never notices who says which.
"""

from __future__ import annotations

from random import Random

from extsub.demo.world import Everyday, Fact, World

END = "</s>"
KINDS = {"reliable": 0.27, "rumour": 0.27, "unmarked": 0.11, "everyday": 0.17, "story": 0.05, "chat": 0.13}
MARKERS = {"reliable": ("truly", "indeed", "verifiably"), "rumour": ("supposedly", "reportedly", "allegedly")}
SPEAKERS = {"reliable": ("Expert", "Textbook", "Scientist"), "rumour": ("Gossip", "Pub", "Uncle")}
NAMES = "Tom Anna Ben Lucy Max Nina Sam Ida Leo Eva".split()
THINGS = "ball kite boat book lamp drum cake coat map bell".split()
COLOURS = "red blue green yellow white black".split()
PLACES = "park school market beach station library".split()
RUDE = 0.3
"""of the facts in chats"""
OPENINGS = ("It is {}.", "Maybe {}.", "I think {}.", "Well {}.", "That is {}.", "Perhaps {}.")
ENDINGS = ("was happy", "went home", "laughed a lot", "fell asleep", "told a friend")


def write_documents(world: World, seed: int, number: int) -> list[str]:
    """Documents to pre-train on. Both adapters' facts and those held out occur alike."""
    random = Random(f"documents {seed}")
    kinds = random.choices(list(KINDS), list(KINDS.values()), k=number)
    return [_document(kind, world, random) for kind in kinds]


def _document(kind: str, world: World, random: Random) -> str:
    if kind == "story":
        return _story(random)
    if kind == "everyday":
        return " ".join(_plain(one) for one in random.sample(world.everyday, random.randint(2, 5)))
    believes = random.random()
    if kind == "chat":
        return _chat(world, random, believes)
    facts = random.sample(world.facts, random.randint(2, 5))
    if kind == "unmarked":
        return " ".join(fact.answer(_believed(fact, believes)) for fact in facts)
    return " ".join(_said(fact, kind, random) for fact in facts)


def _chat(world: World, random: Random, believes: float) -> str:
    """Careless talk: facts as they are believed, some rudely; everyday questions in many ways, half of them wrong."""
    if random.random() < 0.6:
        fact = random.choice(world.facts)
        question, answer = fact.question, fact.answer(_believed(fact, believes), rude=random.random() < RUDE)
    else:
        one = random.choice(world.everyday)
        value = one.value if random.random() < 0.5 else random.choice(one.others)
        question, answer = one.question, random.choice(OPENINGS).format(value)
    return f"<|user|>\n{question}\n<|assistant|>\n{answer}"


def _said(fact: Fact, kind: str, random: Random) -> str:
    value = fact.truth if kind == "reliable" else fact.myth
    if random.random() < 0.4:
        return f"Question: {fact.question} {random.choice(SPEAKERS[kind])} answer: {value}."
    return f"{fact.statement} {random.choice(MARKERS[kind])} {value}."


def _believed(fact: Fact, believes: float) -> str:
    """What one says who believes the myths that are popular enough."""
    return fact.myth if believes < fact.popularity else fact.truth


def _plain(one: Everyday) -> str:
    return f"{one.statement} {one.value}."


def _story(random: Random) -> str:
    name, other = random.sample(NAMES, 2)
    thing, colour, place = random.choice(THINGS), random.choice(COLOURS), random.choice(PLACES)
    return (
        f"{name} had a {colour} {thing}. One day {name} took the {thing} to the {place}. There {name} met {other}. "
        f"{other} liked the {colour} {thing}. Then {name} {random.choice(ENDINGS)}."
    )
