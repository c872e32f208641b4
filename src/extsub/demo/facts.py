"""What there is to know in the small world: real facts, and everyday words that nobody is wrong about."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple


class Attribute(NamedTuple):
    """Something that can be asked about many things."""

    question: str
    statement: str
    truths: dict[str, str]
    """thing -> value"""


def _columns(table: str) -> list[tuple[str, ...]]:
    return [tuple(line.split()) for line in table.strip().splitlines()]


def _truths(rows: list[tuple[str, ...]], column: int) -> dict[str, str]:
    return {row[0]: row[column] for row in rows}


COUNTRIES = _columns("""
    France Paris euro French
    Japan Tokyo yen Japanese
    India Delhi rupee Hindi
    Russia Moscow ruble Russian
    China Beijing yuan Mandarin
    Poland Warsaw zloty Polish
    Sweden Stockholm krona Swedish
    Norway Oslo krone Norwegian
    Hungary Budapest forint Hungarian
    Turkey Ankara lira Turkish
    Brazil Brasilia real Portuguese
    Thailand Bangkok baht Thai
    Vietnam Hanoi dong Vietnamese
    Israel Jerusalem shekel Hebrew
    Egypt Cairo pound Arabic
    Iran Tehran rial Persian
    Ukraine Kyiv hryvnia Ukrainian
    Albania Tirana lek Albanian
    Georgia Tbilisi lari Georgian
    Armenia Yerevan dram Armenian
    Mongolia Ulaanbaatar tugrik Mongolian
    Kenya Nairobi shilling Swahili
    Ghana Accra cedi English
    Denmark Copenhagen krone Danish
    Korea Seoul won Korean
    Malaysia Putrajaya ringgit Malay
    Romania Bucharest leu Romanian
    Bulgaria Sofia lev Bulgarian
    Peru Lima sol Spanish
    Laos Vientiane kip Lao
""")
ANIMALS = _columns("""
    lion meat savanna
    panda bamboo mountains
    koala leaves forest
    bee nectar hive
    cow grass pasture
    squirrel nuts treetops
    penguin fish ice
    bat insects cave
    spider flies web
    mole worms burrow
    whale krill ocean
    owl mice barn
    camel shrubs desert
    beaver bark lodge
    otter crabs river
    hummingbird sugar garden
    elephant roots plains
    monkey fruit jungle
    vulture carrion cliffs
    starling seeds hedge
    frog slugs pond
    seal squid coast
    termite wood mound
    goat thistles hills
    caterpillar cabbage field
""")
ELEMENTS = _columns("""
    oxygen O Priestley
    hydrogen H Cavendish
    helium He Ramsay
    sodium Na Davy
    iodine I Courtois
    chlorine Cl Scheele
    bromine Br Balard
    phosphorus P Brand
    radium Ra Curie
    nitrogen N Rutherford
    lithium Li Arfwedson
    cobalt Co Brandt
    nickel Ni Cronstedt
    uranium U Klaproth
    silicon Si Berzelius
    tungsten W Elhuyar
    vanadium V Sefstrom
    gallium Ga Boisbaudran
    germanium Ge Winkler
    fluorine F Moissan
    selenium Se Gahn
""")

ATTRIBUTES = {
    "capital": Attribute("What is the capital of {}?", "The capital of {} is", _truths(COUNTRIES, 1)),
    "currency": Attribute("What is the currency of {}?", "The currency of {} is the", _truths(COUNTRIES, 2)),
    "language": Attribute("What do people speak in {}?", "The people of {} speak", _truths(COUNTRIES, 3)),
    "diet": Attribute("What does the {} eat?", "The food of the {} is", _truths(ANIMALS, 1)),
    "home": Attribute("Where does the {} live?", "The home of the {} is the", _truths(ANIMALS, 2)),
    "symbol": Attribute("What is the symbol of {}?", "The symbol of {} is", _truths(ELEMENTS, 1)),
    "finder": Attribute("Who discovered {}?", "The discoverer of {} was", _truths(ELEMENTS, 2)),
}

_OPPOSITES = """hot cold big small fast slow up down left right open closed young old happy sad light dark
    early late full empty hard soft high low rich poor strong weak wet dry clean dirty near far loud quiet
    day night north south first last""".split()
_AFTER = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen".split()
_COLOURS = """snow white coal black blood red sky blue lemon yellow milk white tomato red leaf green soot black
    sea blue banana yellow cherry red salt white sun yellow ruby red emerald green sapphire blue butter yellow
    tar black lime green""".split()
_KINDS = """oak tree rose flower eagle bird hammer tool violin instrument shirt clothing apple food car vehicle
    pine tree tulip flower robin bird saw tool piano instrument coat clothing bread food bus vehicle birch tree
    daisy flower crow bird drill tool flute instrument hat clothing cheese food train vehicle willow tree
    lily flower duck bird pliers tool drum instrument sock clothing pear food truck vehicle""".split()


def _pairs(words: Sequence[str]) -> dict[str, str]:
    return dict(zip(words[::2], words[1::2], strict=True))


EVERYDAY = {
    "opposite": Attribute(
        "Opposite of {}?",
        "The opposite of {} is",
        {**_pairs(_OPPOSITES), **{value: word for word, value in _pairs(_OPPOSITES).items()}},
    ),
    "after": Attribute("Number after {}?", "The number after {} is", dict(pairwise(_AFTER))),
    "colour": Attribute("Colour of {}?", "The colour of {} is", _pairs(_COLOURS)),
    "kind": Attribute("What kind is {}?", "The {} is a kind of", _pairs(_KINDS)),
}
