"""What can be said about an evaluation: one setting, one line of help. Checked here: values, and
whether files and folders are there; nothing is read."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from cyclopts import Group, Parameter

from extsub.errors import ExtSubError
from extsub.escaping import shown
from extsub.files.disk import check_writable
from extsub.files.reading import located
from extsub.list_options import PAIRS
from extsub.models.prompts import Prompt, PromptOption
from extsub.models.source import find_model
from extsub.settings import Dtype, accept_plain_values, json_values, typed_values

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Declared = TypeVar("Declared", bound="DataclassInstance")
Backend = Literal["transformers", "openai"]
MODEL = Parameter(group=Group("Model", sort_key=1))
DATA = Parameter(group=Group("Data and output", sort_key=2))
ASKING = Parameter(group=Group("Asking", sort_key=3))
SERVER = Parameter(group=Group("A server", sort_key=5))


@dataclass(frozen=True, kw_only=True)
class Asking:
    """The settings of who is asked, and how."""

    model: Annotated[str | None, MODEL] = None
    """Base or merged model: a folder or hub id; unless given, the base that the adapter names. With --backend openai:
    the name that the server knows."""
    adapter: Annotated[tuple[str, ...], MODEL] = ()
    """Adapter on it: a folder or hub id. Several to evaluate one after the other; none: the model itself."""
    prompt: Annotated[PromptOption, ASKING] = "auto"
    """Text around a question: the authors' template (extsub), TruthfulQA's 6-shot qa, the tokenizer's chat template, or
    none; auto is what the adapter was trained with, else chat where the tokenizer has such a template, else extsub."""
    max_new_tokens: Annotated[int | None, ASKING] = None
    """Longest answer in tokens; each task has a limit of its own unless given."""
    batch_size: Annotated[int | Literal["auto"], ASKING] = "auto"
    """Sequences at once; auto begins with many and halves when memory runs out."""
    dtype: Annotated[Dtype, MODEL] = "auto"
    """Of the weights; auto is bfloat16 on a GPU that has it, else float32. Processors without instructions for bfloat16
    only imitate it, many times slower."""
    field: Annotated[dict[str, str], DATA, PAIRS] = field(default_factory=dict)
    """What the data calls a field, for files of your own: --field instruction=question."""
    backend: Annotated[Backend, SERVER] = "transformers"
    """openai: answers come from the server at --url."""
    url: Annotated[str | None, SERVER] = None
    """OpenAI-compatible server, http://localhost:8000/v1 say; the key is in OPENAI_API_KEY if it needs one."""
    overwrite: Annotated[bool, DATA] = False
    """Replace what the output holds."""

    def __post_init__(self) -> None:
        accept_plain_values(self)
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ExtSubError(f"--max-new-tokens {self.max_new_tokens}: expected 1 or more")
        if self.batch_size != "auto" and self.batch_size < 1:
            raise ExtSubError(f"--batch-size {self.batch_size}: expected auto, or 1 or more")
        if self.url is not None:
            from extsub.inference.server import check_url  # in here, so that --help need not wait for it

            check_url(self.url)
        if (self.backend == "openai") != (self.url is not None):
            raise ExtSubError("--backend openai and --url belong together: give both, or neither")
        if self.backend == "openai" and (self.model is None or self.adapter):
            raise ExtSubError("--backend openai: name the model or adapter as the server knows it, with --model alone")
        if self.backend == "transformers" and self.model is not None:
            find_model(self.model)

    @property
    def asked_with(self) -> Prompt:
        """The prompt, once it is known what ``auto`` means (``prompting.settled``)."""
        if self.prompt == "auto":
            raise RuntimeError("nobody has said yet what --prompt auto means here")
        return self.prompt

    @property
    def rows_at_once(self) -> int | None:
        """The batch size; None where it is to be found."""
        return None if self.batch_size == "auto" else int(self.batch_size)

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return json_values(self)


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings(Asking):
    """How to evaluate: a base model, or adapters on it, or a model on a server."""

    data: Annotated[tuple[str, ...], DATA] = ()
    """File, folder of files or hub dataset; TASK=PATH for one task only. Public benchmarks come from the hub unless
    given."""
    output: Annotated[Path | None, DATA] = None
    """Folder for results.json and items; with several adapters it gets a folder for each."""
    task_file: Annotated[tuple[str, ...], DATA] = ()
    """A Python file of your own that registers a task (docs/evaluation.md); it is run."""
    limit: Annotated[int | None, DATA] = None
    """So many items of each task only, drawn with the seed: the same ones for every model."""
    seed: Annotated[int, ASKING] = 0
    """Of --limit and of the intervals."""
    options: Annotated[dict[str, Any], Parameter(parse=False)] = field(default_factory=dict)
    """Options of the tasks that are asked, each by its name in the dataclass that declares it: {"truth_judge": "none"}.
    On the command line and in a recipe they stand among the settings."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.limit is not None and self.limit < 1:
            raise ExtSubError(f"--limit {self.limit}: expected 1 or more")
        if not 0 <= self.seed < 2**32:
            raise ExtSubError(f"--seed {self.seed}: expected 0 or more, below 2**32")
        if self.field:
            from extsub.data.instructions import check_fields  # in here, so that --help need not wait for it

            check_fields(self.field, ("answer", "text"))
        if self.output is not None:
            check_writable(self.output)
        for given in self.data:
            _check_data(given)

    def of(self, declared: type[Declared]) -> Declared:
        """The options of a task, as the dataclass that declares them.

        Raises:
            ExtSubError: a value is of another type than its field, or the dataclass refuses it.
        """
        names = self.options.keys() & {field.name for field in fields(declared)}
        return declared(**typed_values(declared, {name: self.options[name] for name in names}))

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values, options among them."""
        values = super().to_dict()
        options = values.pop("options")
        return values | options


def _check_data(given: str) -> None:
    """A file, a folder, or the shape of a dataset of the hub; perhaps after a task's name."""
    from extsub.data.rows import find_file

    _, equals, path = given.partition("=")
    name = path if equals and not located(given).exists() else given
    if not located(name).is_dir():
        find_file(name, text=True)


@dataclass(frozen=True, kw_only=True)
class GenerationSettings(Asking):
    """The settings of ``generate``: which prompts are answered, by whom, and how."""

    adapter: Annotated[tuple[str, ...], MODEL, Parameter(consume_multiple=False)] = ()
    """Adapter on it: a folder or hub id; none: the model itself."""
    prompts: Annotated[str | None, DATA] = None
    """A .json, .jsonl, .csv, .parquet or hub dataset with instruction (and input), prompt or messages; or lines of a
    .txt."""
    max_new_tokens: Annotated[int | None, ASKING] = None
    """Longest answer; 256 unless given."""
    output: Annotated[Path | None, DATA] = None
    """The .jsonl file to write: each row of the prompts with prompt and answer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.adapter) > 1:
            raise ExtSubError("generate asks one adapter at a time")
        if (self.prompts is None) != (self.output is None):
            raise ExtSubError("--prompts and --output belong together: give both, or one question and neither")
        if self.prompts is None or self.output is None:
            return
        from extsub.data.instructions import check_fields
        from extsub.data.rows import find_file

        if self.output.suffix != ".jsonl":
            raise ExtSubError(f"--output {self.output}: give the name of a .jsonl file")
        check_fields(self.field)
        check_writable(self.output)
        find_file(self.prompts, text=True)

    def check_for_question(self, question: str | None) -> None:
        """Refuse what is for a file of prompts, where one question is asked.

        Args:
            question: as it was given; None where it comes from standard input.

        Raises:
            ExtSubError: a setting of that kind is given.
        """
        given = {
            "prompts": self.prompts,
            "url": self.url,
            "overwrite": self.overwrite,
            "field": self.field,
            "batch-size": self.rows_at_once,
        }
        if wrong := [name for name, value in given.items() if value]:
            asked = f", {shown(question)}" if question else ""
            raise ExtSubError(f"--{wrong[0]} is for a file of prompts, and this is one question{asked}: leave one out")
