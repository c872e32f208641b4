"""The benchmarks, one file each."""

from __future__ import annotations

from extsub.evaluation.task import Task
from extsub.evaluation.tasks import ability, drift, flattery, halueval, perplexity, repetition, toxicity
from extsub.evaluation.tasks import truthfulqa_choice as choice
from extsub.evaluation.tasks import truthfulqa_generation as generation

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        choice.MULTIPLE,
        choice.BINARY,
        generation.TASK,
        *halueval.TASKS,
        flattery.TASK,
        toxicity.TASK,
        repetition.TASK,
        perplexity.TASK,
        drift.TASK,
        ability.TASK,
    )
}
