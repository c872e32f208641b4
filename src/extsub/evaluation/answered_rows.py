"""Rows of prompts with their answers: no field of theirs is lost, and each becomes a line of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping

from extsub.data.instructions import Prompts
from extsub.data.rows import Row
from extsub.errors import ExtSubError
from extsub.evaluation.task import ItemResult

ADDED = ("index", "prompt", "answer", "finished", "shortened")
"""Fields that are added to a row of the prompts."""


def answered(rows: Iterable[Row], answers: Iterable[ItemResult], names: Mapping[str, str]) -> Iterator[ItemResult]:
    """The rows of the prompts, each with its answer, as they are written.

    Args:
        names: new names of fields (``new_names``).
    """
    for row, result in zip(rows, answers, strict=True):
        yield {names.get(name, name): value for name, value in row.items()} | result


def new_names(rows: Iterable[Row]) -> dict[str, str]:
    """New names for fields of the prompts that are called like those that are added."""
    there = {name for row in rows for name in row}
    names = {}
    for name in ADDED:
        if name in there:
            names[name] = f"given_{name}"
            while names[name] in there:
                names[name] = f"given_{names[name]}"
    return names


def check_json(prompts: Prompts) -> None:
    """Check that every row can be written again, as a line of JSON, when all answers are made.

    Raises:
        ExtSubError: one cannot be.
    """
    for where, row in zip(prompts.places, prompts.rows, strict=True):
        for name, value in row.items() if _no_json(row) else ():
            if held := _no_json({name: value}):
                raise ExtSubError(
                    f"{where}: field {name!r} holds {held}, which JSON does not know: make it text, or leave it out"
                )


def _no_json(row: Row) -> str | None:
    """What in it is not JSON; None where all is."""
    try:
        json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        return "half a character (a lone surrogate)"
    except ValueError:
        return "NaN or an infinite number"
    except RecursionError:
        return "lists in lists without end"
    except TypeError as error:  # Object of type date is not JSON serializable
        return f"a {str(error).removeprefix('Object of type ').partition(' ')[0]}"
    return None
