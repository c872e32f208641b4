"""The verdict: better, no difference or worse than the expert, what it costs, and how the others do beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from extsub.report.reading import Sweep
from extsub.report.wording import OVER_PLAIN, alone, at, capital, change_in_words, named, number, p_value, said, score
from extsub.sweeping.budget import ScoreName, in_words, kept_part, looked_at
from extsub.sweeping.selection import judged, too_few

BESIDE = ("subtract", "contrast")
COSTS = {"better": "significantly better", "worse": "significantly worse", "no difference": "no difference", "": ""}


@dataclass(frozen=True)
class Verdict:
    """What a sweep shows: one sentence, and those that qualify it."""

    word: str
    """``better``, ``no difference``, ``worse``; ``within no budget``; empty where nobody can say"""
    sentence: str
    beside: tuple[str, ...]


def verdict_on(sweep: Sweep) -> Verdict:
    """The verdict on a sweep, from the figures on the items that did not choose the strength."""
    main = sweep.main
    chosen = sweep.record["chosen"][main]
    if chosen["position"] is None:
        closest = sweep.alpha(chosen["closest"]) or 0.0
        sentence = (
            f"No strength of {named(main)} keeps the budget ({in_words(sweep.record['budget'])}); the closest is "
            f"{at(closest)}."
        )
        return Verdict("within no budget", sentence, (*_few(sweep), *_beside(sweep, main)))
    change = chosen["against_expert"]
    word = judged(change, sweep.target.measure)
    alpha = sweep.alpha(chosen["position"]) or 0.0
    expert = chosen["test"]["value"] - change["value"]
    on = score(sweep.target) + (" (lower is better)" if sweep.target.measure.better == "lower" else "")
    plain, plain_detail = _over_plain(sweep, chosen["position"])
    cost, detail = _cost(sweep, chosen)
    sentence = (
        f"{capital(named(main))} at {at(alpha)} {said(word, 'the expert')} on {on}: "
        f"{alone(chosen['test'])} against {alone(chosen['test'], expert)} ({p_value(change['p'])}){plain}{cost}."
    )
    detail = f"{change_in_words(change)}{plain_detail}{detail}"
    detail = f"On the items that did not choose the strength the difference is {detail}."
    return Verdict(
        word, sentence, (*_few(sweep), detail, *_further(sweep, main, chosen["position"]), *_beside(sweep, main))
    )


def _few(sweep: Sweep) -> Iterator[str]:
    """Whether there are enough items to choose by."""
    for name in looked_at(sweep.target, sweep.budget):
        if sentence := too_few(sweep.scores("expert", name.task), name, sweep.seed):
            yield f"{capital(sentence)}."


def _over_plain(sweep: Sweep, position: str) -> tuple[str, str]:
    """What of the change is not a change of style, on the same half: for the sentence, and more exactly."""
    name = sweep.plain
    if name is None:
        return "", ""
    expert, ours = (sweep.on_half(label, name).to_dict() for label in ("expert", position))
    change = sweep.change("expert", position, name)._asdict()
    word = COSTS[judged(change, name.measure)]
    known = ", ".join(part for part in (word, p_value(change["p"]), f"n = {change['n']}") if part)
    text = f", {OVER_PLAIN} {alone(ours)} against {alone(ours, expert['value'])} ({known})"
    return text, f"; {OVER_PLAIN} it is {change_in_words(change)}"


def _cost(sweep: Sweep, chosen: dict[str, Any]) -> tuple[str, str]:
    """What it does to the ability on the same half: for the sentence, and more exactly."""
    name = sweep.ability
    if name is None:
        return "", ""
    expert, ours = (sweep.on_half(label, name) for label in ("expert", chosen["position"]))
    change = sweep.change("expert", chosen["position"], name)._asdict()
    words = [word for word in [COSTS[judged(change, name.measure)]] if word]
    limit, detail = sweep.limit("test"), f"; in {score(name)} {change_in_words(change)}"
    if sweep.budget and limit is not None:
        words.append("within the budget" if sweep.budget.excess(ours.value, limit) <= 0 else "beyond the budget here")
        detail += f"; the budget there is {'≤' if sweep.budget.sign == '<=' else '≥'} {number(limit)}"
    if sweep.budget and sweep.budget.reference == "gain":
        detail += _kept(sweep, ours.value, expert.value)
    text = f", at {score(name)} {alone(ours.to_dict())} against {alone(expert.to_dict())}"
    return f"{text} ({', '.join(words)})" if words else text, detail


def _kept(sweep: Sweep, ours: float, expert: float) -> str:
    """How much of the expert's gain is left on the same half, where the budget is a part of it."""
    assert sweep.budget
    name = sweep.budget.name
    if sweep.limit("test") is None:
        return f"; the expert gains nothing over the base in {score(name)} there"
    part = kept_part(ours, sweep.value_on_half("base", name), expert, name.measure)
    return f" ({in_words(sweep.record['budget'])}), and {number(100 * part)} % of it is kept"


def _further(sweep: Sweep, main: str, position: str) -> list[str]:
    """What the next strength of the grid would bring, and cost: the knee of the curve."""
    here = sweep.alpha(position) or 0.0
    beyond = {label: (sweep.alpha(label) or 0.0) / here for label in sweep.curve(main)}  # 1 is here, whatever its sign
    later = sorted((label for label, part in beyond.items() if part > 1), key=beyond.__getitem__)
    if not later:
        return [f"No strength beyond {at(here)} was tried: the best may lie there."]
    names = [name for name in (sweep.target, sweep.ability) if name and sweep.figure(later[0], name)]
    figures = " and ".join(
        f"{score(name)} from {_value(sweep, position, name)} to {_value(sweep, later[0], name)}" for name in names
    )
    return [f"One step further, {at(sweep.alpha(later[0]) or 0.0)} brings {figures}, on all items."]


def _value(sweep: Sweep, label: str, name: ScoreName) -> str:
    figure = sweep.figure(label, name)
    return alone(figure) if figure else "–"


def _beside(sweep: Sweep, main: str) -> list[str]:
    """How the other operations do, and methods of reference, each at the strength that is chosen in the same way."""
    sentences = []
    for operation in BESIDE:
        other = sweep.record["chosen"].get(operation)
        if operation == main:
            continue
        if other is None:
            sentences.append(_at_the_same_strength(sweep, main, operation))
        elif other["position"] is None:
            sentences.append(f"No strength of {operation} keeps the budget.")
        else:
            sentences.append(_one_beside(sweep, main, operation, other))
    for method, other in sweep.record["compared"].items():
        if other["position"] is None:
            sentences.append(f"No strength of {named(method)} keeps the budget.")
        else:
            passes = sweep.references[other["position"]]["passes"]
            cost = f"forward passes for each token: {passes}, of {named(main)}: 1"
            sentences.append(f"{_one_beside(sweep, main, method, other)} For reference; {cost}.")
    return sentences


def _at_the_same_strength(sweep: Sweep, main: str, operation: str) -> str:
    """For an operation that the sweep did not choose a strength of."""
    label = sweep.find(operation, sweep.alpha(sweep.result) or 0.0)
    if label is None:
        return f"The sweep has no {operation} to compare with."
    change = sweep.change(label, sweep.result, sweep.target)._asdict()
    between = said(judged(change, sweep.target.measure), f"{named(operation)} at the same α")
    return f"{capital(named(main))} {between} (the sweep chose none for it): {change_in_words(change)}."


def _one_beside(sweep: Sweep, main: str, operation: str, other: dict[str, Any]) -> str:
    word, strength = judged(other["against_expert"], sweep.target.measure), sweep.strength(other["position"])
    how = f", chosen in the same way ({strength}),".replace("-", "−") if strength else ""
    text = (
        f"{capital(named(operation))}{how} {said(word, 'the expert')}: "
        f"{alone(other['test'])} ({p_value(other['against_expert']['p'])})"
    )
    ours = sweep.record["chosen"][main]["position"]
    if ours is None:
        return f"{text}."
    change = sweep.change(other["position"], ours, sweep.target)._asdict()
    between = said(judged(change, sweep.target.measure), named(operation))
    return f"{text}. {capital(named(main))} {between} there: {change_in_words(change)}."
