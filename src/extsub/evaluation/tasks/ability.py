"""General ability: any task of lm-evaluation-harness, on the model in memory."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extsub.errors import ExtSubError
from extsub.escaping import line
from extsub.evaluation.metrics import Measure
from extsub.evaluation.settings import EvaluationSettings
from extsub.evaluation.task import Item, ItemResult, Items, Task
from extsub.files.reading import located

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

    from extsub.inference.language_model import LanguageModel


@dataclass(frozen=True)
class AbilityOptions:
    """The options of ability: what lm-evaluation-harness runs."""

    lm_eval: tuple[str, ...] = ()
    """Tasks of lm-evaluation-harness, mmlu,gsm8k say."""


def _read(settings: EvaluationSettings, data: str | None) -> Items:
    """One item for each task of the harness, which reads its own data.

    ``--data`` may name a folder of task files (YAML), which are then the only ones known.
    """
    given = ",".join(settings.of(AbilityOptions).lm_eval)
    names = [name.strip() for name in given.split(",") if name.strip()]
    if not names:
        raise ExtSubError("ability runs tasks of lm-evaluation-harness: name them, --lm-eval mmlu,gsm8k say")
    if data is not None and not located(data).is_dir():
        raise ExtSubError(f"--data {data}: ability expects a folder of task files (YAML)")
    folder = None if data is None else str(located(data).resolve())
    known = _manager(folder)
    for name in names:
        if not known.match_tasks([name]) and not Path(name).is_file():
            where = f"no task of {data}" if data else "no task of lm-evaluation-harness; lm_eval ls tasks shows them"
            raise ExtSubError(f"--lm-eval {name}: {where}")
    items: dict[int, Item] = {index: {"task": name, "folder": folder} for index, name in enumerate(names)}
    return Items(items, data or "lm-evaluation-harness", "" if folder is None else _fingerprint(Path(folder)))


@functools.cache
def _manager(folder: str | None) -> TaskManager:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=folder, include_defaults=folder is None)


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and not _is_hidden(path)):
        digest.update(f"{path.name} {path.stat().st_size} ".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _is_hidden(path: Path) -> bool:
    return "__pycache__" in path.parts or path.name.startswith(".")


def _ask(
    model: LanguageModel, items: Mapping[int, Item], settings: EvaluationSettings
) -> Iterator[tuple[int, ItemResult]]:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    manager = _manager(next(iter(items.values()))["folder"])
    automatic, sound = "auto" if model.device.type == "cuda" else 16, model.soundness.everywhere
    if not sound.cache or sound.answering is None:
        raise ExtSubError(
            f"ability: lm-evaluation-harness generates with a cache, and with one {model.base.config.model_type} does "
            "not say what it says without: leave ability out"
        )
    in_batches = sound.scoring == sound.answering == "any"
    tokenizer: Any = model.tokenizer
    harness = HFLM(
        pretrained=model.module,
        tokenizer=tokenizer,
        batch_size=(settings.rows_at_once or automatic) if in_batches else 1,
        max_length=model.longest,
    )
    for index, item in items.items():
        name = item["task"]
        try:
            with _without_git():
                results = simple_evaluate(
                    model=harness,
                    tasks=[name],
                    task_manager=manager,
                    limit=settings.limit,
                    bootstrap_iters=0,  # intervals are ours
                    apply_chat_template=settings.asked_with == "chat",
                    random_seed=settings.seed,
                    numpy_random_seed=settings.seed,
                    torch_random_seed=settings.seed,
                    fewshot_random_seed=settings.seed,
                )
        except (KeyError, ValueError, OSError) as error:
            said = line(" ".join(str(error).split())[:200])
            raise ExtSubError(f"--lm-eval {name}: lm-evaluation-harness cannot run it: {said}") from error
        yield index, {"task": name, "samples": list(_samples(name, results["samples"]))}


@contextlib.contextmanager
def _without_git() -> Generator[None]:
    """The harness asks git for the commit of the folder where the user happens to be, and git complains on stderr where
    that is not a repository; we keep no such answer."""
    from lm_eval import evaluator

    harness: Any = evaluator
    asked, harness.get_git_commit_hash = harness.get_git_commit_hash, lambda: None
    try:
        yield
    finally:
        harness.get_git_commit_hash = asked


def _samples(name: str, by_leaf: Mapping[str, list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Each document's own scores. What is not a number for a single document (a corpus BLEU, say) has none."""
    for leaf, samples in by_leaf.items():
        for sample in samples:
            ending = "" if sample.get("filter", "none") == "none" else f",{sample['filter']}"
            scores = {
                f"{name}/{metric}{ending}": float(sample[metric])
                for metric in sample.get("metrics", ())
                if isinstance(sample.get(metric), (bool, int, float))
            }
            yield {"task": leaf, "document": sample["doc_id"], "answers": sample["filtered_resps"], "scores": scores}


TASK = Task(
    name="ability",
    read=_read,
    ask=_ask,
    measures={},
    others=Measure(proportion=True),
    needs="likelihoods",
    libraries={"lm_eval": "ability"},
    folder_with="*.yaml",
    options=AbilityOptions,
    for_others="one of lm-evaluation-harness is ability --lm-eval {name}.",
    generates=True,
    is_whole=True,
    asks_module=True,
)
