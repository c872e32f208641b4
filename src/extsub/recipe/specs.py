"""The adapters of a recipe: taken as they are, trained on data that are there, or on data that are made first."""

from __future__ import annotations

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from extsub.errors import ExtSubError
from extsub.rewriting.settings import NegativesSettings
from extsub.training.settings import TrainingSettings
from extsub.values import mapping_of, settings_of, text_of

NOT_WRITTEN = ("output", "also_expert", "overwrite")
"""Settings of the making of negatives that a recipe gives, or has no use for."""


@dataclass(frozen=True)
class AdapterSpec:
    """An adapter that a result is made of: trained here, or taken as it is."""

    name: str
    """``expert`` or ``anti-NAME``: its stage, and its folder if it is trained"""
    adapter: str
    """The folder in which it lies, or will lie."""
    training: TrainingSettings | None
    """None where it is taken as it is"""
    negatives: NegativesSettings | None = None
    """How its data are made, where they are; ``training`` then names other data in their place (``learning``)"""

    @property
    def writing(self) -> str:
        """The stage in which its data are made: ``negatives-NAME``."""
        return self.name.replace("anti", "negatives", 1)

    @property
    def learning(self) -> TrainingSettings:
        """The settings by which the adapter is trained here, once its data are there.

        Raises:
            ExtSubError: they are not.
        """
        assert self.training
        return replace(self.training, data=str(self.negatives.output), field=None) if self.negatives else self.training


@contextmanager
def named(where: str) -> Generator[None]:
    """Say where in the recipe a setting is that other rooms refuse."""
    try:
        yield
    except ExtSubError as error:
        raise ExtSubError(f"{where}: {error}") from error


@dataclass(frozen=True)
class Shared:
    """What all adapters of a recipe have in common."""

    model: str
    output: Path
    training: dict[str, Any]
    negatives: dict[str, Any]


def anti_expert_spec(name: str, given: Any, where: str, expert: AdapterSpec, shared: Shared) -> AdapterSpec:
    """What a recipe says of an anti-expert; its sweep apart.

    Args:
        where: its place in the recipe, for messages.

    Raises:
        ExtSubError: a name or value is wrong, or files that it names are not there.
    """
    if isinstance(given, Mapping):
        given = {word: value for word, value in given.items() if word != "sweep"}
        if "negatives" in given:
            return _from_negatives(name, given, where, expert, shared)
    return adapter_spec(name, given, where, shared)


def adapter_spec(name: str, given: Any, where: str, shared: Shared) -> AdapterSpec:
    """What a recipe says of an adapter that is taken as it is, or trained on data that are there.

    Raises:
        ExtSubError: as `anti_expert_spec`.
    """
    if not re.fullmatch(r"[\w-][\w.-]{0,99}", name):
        raise ExtSubError(f"{where}: a name is of letters, digits and . _ -, since its folder is called so")
    if isinstance(given, Mapping) and "adapter" in given:
        adapter = mapping_of(where, given, ["adapter"]).get("adapter")
        return AdapterSpec(name, text_of(f"{where}: adapter", adapter), None)
    own = settings_of(where, given, TrainingSettings, ("model", "output"))
    if "data" not in own:
        raise ExtSubError(f"{where}: say what it is trained on (data: FILE), or which one it is (adapter: FOLDER)")
    with named(where):
        folder = shared.output / name
        settings = TrainingSettings(**{**shared.training, **own}, model=shared.model, output=folder)
        return AdapterSpec(name, str(folder), settings)


def _from_negatives(
    name: str, given: Mapping[str, Any], where: str, expert: AdapterSpec, shared: Shared
) -> AdapterSpec:
    """An anti-expert whose data are made, of the expert's unless it names others."""
    if both := given.keys() & {"data", "adapter", "field"}:
        raise ExtSubError(f"{where}: {min(both)} and negatives: what negatives are made of stands inside of negatives")
    theirs = given["negatives"]
    own = {"behaviour": theirs} if isinstance(theirs, str) else theirs
    settings: dict[str, Any] = {"model": shared.model, **shared.negatives}
    settings |= settings_of(f"{where}: negatives", own, NegativesSettings, NOT_WRITTEN)
    if "behaviour" not in settings:
        raise ExtSubError(f"{where}: negatives: say which behaviour (negatives: untruthful)")
    if "data" not in settings:
        if expert.training is None or settings.get("mode") == "instruct":
            raise ExtSubError(f"{where}: negatives: say what they are made of (data: FILE)")
        settings |= {"data": expert.training.data, "field": expert.training.field or {}}
    training = {word: value for word, value in given.items() if word != "negatives"}
    there = expert.training.data if expert.training else settings["data"]  # in place of what is still to be made
    spec = adapter_spec(name, {**training, "data": there}, where, shared)
    with named(f"{where}: negatives"):
        output = shared.output / f"{spec.writing}.jsonl"
        return replace(spec, negatives=NegativesSettings(**settings, output=output))
