"""``combine --alpha``: what is typed, and what a combination at several strengths ends with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cyclopts import Parameter

from extsub.errors import ExtSubError, counted
from extsub.escaping import brief
from extsub.files.staging import strength_folder
from extsub.printing import say

ALPHA = Parameter(consume_multiple=False, allow_leading_hyphen=True, show_default="1")
"""Each ``--alpha`` takes one word, which may begin with a minus; what follows is an adapter again."""


def strengths_of(given: Sequence[str]) -> list[list[float]]:
    """The strengths of each result: one for all anti-experts, or one for each of them.

    Args:
        given: the words after each ``--alpha``: ``0.5`` and ``1`` are one result, of two anti-experts; ``0.5,1`` alone
            is two results.

    Raises:
        ExtSubError: a word is not a number, a strength is there twice, or both ways are mixed.
    """
    strengths = [[_number(text, word) for text in word.split(",")] for word in given] or [[1.0]]
    if len(strengths) > 1:
        if several := [word for word in given if "," in word]:
            raise ExtSubError(
                f"--alpha {brief(several[0])}: with commas it is for all anti-experts: give it alone, or --alpha with "
                "one number for each anti-expert"
            )
        return [[alpha for (alpha,) in strengths]]
    folders = [strength_folder(alpha) for alpha in strengths[0]]
    if twice := [folder for folder in folders if folders.count(folder) > 1]:
        raise ExtSubError(f"--alpha {brief(given[0])}: {twice[0]} would be written twice: leave one out")
    return [[alpha] for alpha in strengths[0]]


def _number(text: str, word: str) -> float:
    try:
        return float(text)
    except ValueError:
        expected = "a number (0.5), or several with commas (0.5,1,1.5)"
        raise ExtSubError(f"--alpha {brief(word)}: expected {expected}") from None


def check_names(adapters: Iterable[str]) -> None:
    """Refuse a strength among the adapters: of ``--alpha 1 0.5`` only the 1 belongs to --alpha.

    Raises:
        ExtSubError: a name is a number, and nothing is called so.
    """
    for name in adapters:
        try:
            float(name)
        except ValueError:
            continue
        if not Path(name).exists():
            raise ExtSubError(f"{name} is a number, not an adapter: if it is a strength, say --alpha {name}")


def print_strengths(output: Path, records: Mapping[str, Mapping[str, Any]], expert: str) -> None:
    """Print the summary of a combination at several strengths, each in a folder of ``output``."""
    from extsub.adapters.card_use import serve_line
    from extsub.console.summaries import SERVING, print_end

    first = next(iter(records.values()))
    names = [given["name"] for given in first["inputs"]]
    rank = f", rank {first['rank']}" if first["rank"] else ""
    say(f"{output}: {first['operation']} of {names[0]} and {', '.join(names[1:])} at {len(records)} strengths")
    say(f"  {'each':14} {counted(first['modules'], 'module')}{rank}")
    for name, record in records.items():
        say(f"  {name:14} {_figures(record)}")
    problem = first["serve"].get("problem")
    if problem:
        say(f"  {'serve':14} no: {problem}")
    for note in dict.fromkeys(note for record in records.values() for note in record["notes"]):
        noted = [name for name, record in records.items() if note in record["notes"]]
        say(f"  note: {note}" if len(noted) == len(records) else f"  note: {', '.join(noted)}: {note}")
    folders = {name: str(output / name) for name in records}
    served = [] if problem else [serve_line(first["base_model"], first["serve"]["vllm"], folders)]
    asked = ("evaluate", "truthfulqa-mc", "--adapter", expert, *folders.values(), "--output", "results")
    print_end([f"{output}/: {', '.join(records)}"], *served, asked)
    say(SERVING)


def _figures(record: Mapping[str, Any]) -> str:
    figures = [
        record["dtype"],
        f"expert rows scaled by {record['largest_amplification']['factor']:.3g} at most",
        f"verified to {record['verification']['largest_relative_error']:.1e}",
    ]
    if record["truncation"]:
        figures.append(f"truncated with relative error {record['truncation']['relative_error']:.2%}")
    return ", ".join(figures)
