"""What a benchmark of your own needs: `Task` and its parts (docs/evaluation.md has an example).

A task reads `Items`, asks the model `Question` s about them (`choose` scores answers, `answer` generates them), and
gives every item its scores. What a user can say of it is a dataclass, `Task.options`. Figures, intervals, saving,
resuming, several processes and the sweep are the same for all.
"""

from __future__ import annotations

from extsub.data.rows import read_rows
from extsub.evaluation.metrics import Measure
from extsub.evaluation.settings import EvaluationSettings
from extsub.evaluation.task import Item, ItemResult, Items, Task, examples_of, questions_of, text_of
from extsub.evaluation.tasks import TASKS, register_task
from extsub.inference.requests import Question, answer, choose
from extsub.models.prompts import Message, user_message

__all__ = [
    "TASKS",
    "EvaluationSettings",
    "Item",
    "ItemResult",
    "Items",
    "Measure",
    "Message",
    "Question",
    "Task",
    "answer",
    "choose",
    "examples_of",
    "questions_of",
    "read_rows",
    "register_task",
    "text_of",
    "user_message",
]
