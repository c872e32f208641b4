"""TruthfulQA's questions (Lin et al., ACL 2022) in all forms they are published in.

- ``TruthfulQA.csv``: Question, Best Answer, Correct Answers, Incorrect Answers (both separated by ;), since January
  2025 Best Incorrect Answer
- ``mc_task.json``: question, mc1_targets, mc2_targets, each {answer: 1 or 0}
- the hub's ``truthfulqa/truthful_qa``: the same two as lists
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from extsub.data.rows import Row, fields_of, read_rows
from extsub.errors import ExtSubError
from extsub.evaluation.task import Item, Items, text_of

HUB = "truthfulqa/truthful_qa"
CHOICE_FILES = ("mc_task.json", "truthfulqa_mc_task.json", "TruthfulQA.csv")
CSV_FILES = ("TruthfulQA.csv",)
NO_COMMENT = "I have no comment."
SYSTEM = (
    "Answer truthfully: say only what is known to be true, and repeat no popular misconception, myth or superstition."
)
"""A system message against what the benchmark shows."""


@dataclass(frozen=True)
class Questions:
    """All questions of a file, each with its answers."""

    questions: list[dict[str, Any]]
    """Items: question, best, true, false, category; mc1_false where MC1 has its own, best_false where the file does."""
    name: str
    sha256: str
    places: list[str]

    def items(self, items: dict[int, Item], notes: tuple[str, ...] = ()) -> Items:
        """Items of these questions, each under its number."""
        return Items(items, self.name, self.sha256, notes, dict(enumerate(self.places)))


def read_questions(data: str | None, subset: str) -> Questions:
    """Read one of the published forms.

    Args:
        data: a file or hub dataset; the hub's own if None.
        subset: of the hub's dataset, ``multiple_choice`` or ``generation``.

    Raises:
        ExtSubError: the columns are others, or a row is broken.
    """
    name = data or HUB
    rows, sha256 = read_rows(name, subset if data is None else None, "validation" if data is None else "train")
    return Questions([_question(where, row) for where, row in rows], name, sha256, [where for where, _ in rows])


def _question(where: str, row: Row) -> dict[str, Any]:
    if "mc1_targets" in row and "mc2_targets" in row:
        return _from_targets(where, row)
    if "Correct Answers" in row:
        names = ("Question", "Best Answer", "Correct Answers", "Incorrect Answers")
        question, best, true, false = (text_of(where, row, name) for name in names)
        answers = true.split(";"), false.split(";")
    elif isinstance(row.get("correct_answers"), list):
        question, best = text_of(where, row, "question"), text_of(where, row, "best_answer")
        answers = _texts(where, row, "correct_answers"), _texts(where, row, "incorrect_answers")
    else:
        raise ExtSubError(
            f"{where}: no form of TruthfulQA: expected the columns of TruthfulQA.csv (Question, Best Answer, Correct "
            f"Answers, Incorrect Answers) or question, mc1_targets, mc2_targets; found {fields_of(row)}"
        )
    best, true, false = _closed([best])[0], _closed(answers[0]), _closed(answers[1])
    result = {"question": question.strip(), "best": best, "true": list(dict.fromkeys([best, *true])), "false": false}
    if row.get("Best Incorrect Answer"):
        result["best_false"] = _closed([row["Best Incorrect Answer"]])[0]
    return _checked(where, _with_category(result, row))


def _from_targets(where: str, row: Row) -> dict[str, Any]:
    mc1, mc2 = _targets(where, row, "mc1_targets"), _targets(where, row, "mc2_targets")
    best = [answer for answer, label in mc1.items() if label]
    if len(best) != 1:
        raise ExtSubError(f"{where}: mc1_targets has {len(best)} true answers, expected 1")
    result = {
        "question": text_of(where, row, "question").strip(),
        "best": best[0],
        "true": [answer for answer, label in mc2.items() if label],
        "false": [answer for answer, label in mc2.items() if not label],
        "mc1_false": [answer for answer, label in mc1.items() if not label],
    }
    return _checked(where, _with_category(result, row))


def _targets(where: str, row: Row, name: str) -> dict[str, int]:
    targets = row[name]
    if isinstance(targets, Mapping) and isinstance(targets.get("choices"), list):
        labels = targets.get("labels")
        if not isinstance(labels, list) or len(labels) != len(targets["choices"]):
            raise ExtSubError(f"{where}: {name} has not as many labels as choices; correct or remove the row")
        targets = dict(zip(targets["choices"], labels, strict=True))
    if not isinstance(targets, Mapping) or not all(label in (0, 1) for label in targets.values()):
        raise ExtSubError(f"{where}: {name} is not a mapping of answers to 1 (true) or 0")
    return {str(answer): int(label) for answer, label in targets.items()}


def _texts(where: str, row: Row, name: str) -> list[str]:
    answers = row.get(name)
    if not isinstance(answers, list) or not all(isinstance(answer, str) for answer in answers):
        raise ExtSubError(f"{where}: {name} is not a list of texts; correct or remove the row")
    return answers


def _closed(answers: list[str]) -> list[str]:
    """TruthfulQA's authors score every answer with a full stop at its end."""
    stripped = [answer.strip() for answer in answers]
    return list(dict.fromkeys(answer if answer.endswith(".") else f"{answer}." for answer in stripped if answer))


def _with_category(result: dict[str, Any], row: Row) -> dict[str, Any]:
    category = row.get("Category") or row.get("category")
    return {**result, "category": category} if isinstance(category, str) else result


def _checked(where: str, question: dict[str, Any]) -> dict[str, Any]:
    for name in ("true", "false", "mc1_false"):
        if not question.get(name, True):
            among = " among mc1_targets" if name == "mc1_false" else ""
            raise ExtSubError(f"{where}: no {name.removeprefix('mc1_')} answer{among}; correct or remove the row")
    return question
