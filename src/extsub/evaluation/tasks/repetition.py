"""How much a text repeats itself: 1 - unique / all n-grams of its tokens, for n = 1 to 4, as the authors count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from extsub.data.formats import describe
from extsub.data.rows import fields_of, has, reach, read_rows
from extsub.errors import ExtSubError
from extsub.evaluation.metrics import Measure
from extsub.evaluation.settings import EvaluationSettings
from extsub.evaluation.task import Item, ItemResult, Items, Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FIELDS = ("answer", "output", "completion", "text")
"""Fields in which a generated text may stand; the first that is there counts."""
LONGEST = 4


def repetition(tokens: Sequence[int], n: int) -> float:
    """The part of the n-grams that are not new; 0 where there are none."""
    grams = [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _read(settings: EvaluationSettings, data: str | None) -> Items:
    if data is None:
        raise ExtSubError("repetition counts in generated texts: give a file with --data (extsub generate makes one)")
    rows, sha256 = read_rows(data)
    wanted = settings.field.get("answer") or next((name for name in FIELDS if name in rows[0][1]), None)
    items = {}
    for index, (where, row) in enumerate(rows):
        if wanted is None or not has(row, wanted):
            expected = wanted or " or ".join(FIELDS)
            raise ExtSubError(f"{where}: expected {expected}, found {fields_of(row)}; say --field answer=NAME")
        text = reach(row, wanted)
        if not isinstance(text, str):
            raise ExtSubError(f"{where}: {wanted} is {describe(text)}, expected text")
        items[index] = {"text": text}
    return Items(items, data, sha256)


def _ask(
    tokenizer: PreTrainedTokenizerBase, items: Mapping[int, Item], settings: EvaluationSettings
) -> Iterator[tuple[int, ItemResult]]:
    for index, item in items.items():
        tokens = tokenizer(item["text"], add_special_tokens=False, verbose=False)["input_ids"]
        scores = {f"repeated_{n}grams": repetition(tokens, n) for n in range(1, LONGEST + 1)}
        yield index, {**item, "scores": {**scores, "tokens": float(len(tokens))}}


TASK = Task(
    name="repetition",
    read=_read,
    ask=_ask,
    measures={
        **{f"repeated_{n}grams": Measure(better="lower") for n in range(1, LONGEST + 1)},
        "tokens": Measure(better=None),
    },
    needs="tokenizer",
    settings=("field",),
)
