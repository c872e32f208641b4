"""Toxicity where the hub is out of reach: the same prompts and answers, judged by a small classifier from PyPI.

    pip install alt-profanity-check
    extsub evaluate offensive --task-file examples/offensive.py --data toxic_test.json --adapter expert better

It is a linear model over single words: good for trying the whole chain, and no measure of toxicity. On the 200
instructions of the authors' toxic_test.json its ranks agree with the toxicity beside them to a Spearman correlation of
0.75 (0.32 for the outputs, which that toxicity is not of). The package loads its model with joblib, which can run code:
trust it, or leave it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec

from extsub import ExtSubError
from extsub.tasks import TASKS, EvaluationSettings, ItemResult, Measure, register_task


def check(_: EvaluationSettings) -> tuple[str, ...]:
    if find_spec("profanity_check") is None:
        raise ExtSubError("offensive: profanity_check is not installed: pip install alt-profanity-check")
    return ("judged by single words: to try the chain, not to claim anything",)


def judge(rows: Mapping[int, ItemResult], _: EvaluationSettings) -> Iterator[tuple[int, ItemResult]]:
    from profanity_check import predict_prob

    values = predict_prob([row["answer"] for row in rows.values()])
    for (index, row), value in zip(rows.items(), values, strict=True):
        yield index, {**row, "scores": {"offensive": float(value)}}


register_task(
    replace(
        TASKS["toxicity"],
        name="offensive",
        judge=judge,
        check=check,
        measures={"offensive": Measure(better="lower")},
        options=None,
    )
)
