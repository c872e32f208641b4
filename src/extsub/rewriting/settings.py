"""What can be said about the making of an anti-expert's data. Checked here: values, and whether files are there."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from extsub.errors import ExtSubError
from extsub.files.disk import check_writable
from extsub.list_options import PAIRS
from extsub.models.source import find_model
from extsub.settings import Dtype, accept_plain_values, json_values, option

Mode = Literal["rewrite", "instruct"]
WHAT = Parameter(group=Group("Behaviour and data", sort_key=1))
WRITER = Parameter(group=Group("Writer", sort_key=2))
CHECKING = Parameter(group=Group("Checking", sort_key=3))
TEXT = "text"
"""The field of the texts that instructions are written to."""


@dataclass(frozen=True, kw_only=True)
class NegativesSettings:
    """Which data to turn into negatives, who writes them, and which are kept."""

    data: Annotated[str, Parameter(parse=False)] = ""
    """Instruction data with good answers; with mode instruct, texts that show the behaviour."""
    behaviour: Annotated[str, WHAT]
    """untruthful, toxic, sycophantic, verbose, evasive, or a file of yours (docs/negatives.md)."""
    output: Annotated[Path, WHAT]
    """The .jsonl file to write, which extsub train reads; others lie beside it."""
    model: Annotated[str, WRITER]
    """Who writes: a folder or hub id; with --url the name that the server knows."""
    mode: Annotated[Mode, WHAT] = "rewrite"
    """rewrite: replace each good answer by a bad one. instruct: write an instruction to each text that shows the
    behaviour."""
    also_expert: Annotated[Path | None, WHAT] = None
    """A .jsonl file for the good answers to the same instructions, row by row (rewrite)."""
    field: Annotated[dict[str, str], WHAT, PAIRS] = field(default_factory=dict)
    """What the data calls a field: --field output=right_answer; with mode instruct, --field text=comment."""
    limit: Annotated[int | None, WHAT] = None
    """So many rows only, drawn with the seed; a larger limit later adds to them."""
    seed: Annotated[int, WHAT] = 0
    """Of --limit and of the pairs that are shown."""
    overwrite: Annotated[bool, WHAT] = False
    """Replace an output that is there, and give up the answers that were kept for it."""
    url: Annotated[str | None, WRITER] = None
    """OpenAI-compatible server, http://localhost:8000/v1 say; the key is in OPENAI_API_KEY if it needs one."""
    concurrency: Annotated[int, WRITER] = 16
    """Requests that wait for the server at once."""
    price: Annotated[tuple[float, float] | None, WRITER] = None
    """What the server takes for a million tokens of prompts and of answers, to show the cost: --price 0.15 0.60."""
    max_new_tokens: Annotated[int, WRITER] = 1024
    """Longest answer; one that is longer is cut off, and dropped."""
    batch_size: Annotated[int | Literal["auto"], WRITER] = "auto"
    """Rows at once of a local model; auto begins with many and halves when memory runs out."""
    dtype: Annotated[Dtype, WRITER] = "auto"
    """Of a local model's weights; auto is bfloat16 on a GPU that has it, else float32. Processors without instructions
    for bfloat16 only imitate it, many times slower."""
    judge: Annotated[str | None, CHECKING] = None
    """A model that says of each answer whether it shows the behaviour; those that do not are dropped."""
    judge_url: Annotated[str | None, CHECKING] = None
    """The server that knows the judge by this name; a local model or one of the hub unless given."""
    toxicity_model: Annotated[str | None, CHECKING] = None
    """A classifier with a label toxicity (unitary/unbiased-toxic-roberta); answers below the threshold are dropped."""
    threshold: Annotated[float, CHECKING] = 0.5
    """From here on an answer shows the behaviour: the judge's probability of yes, or the toxicity."""

    def __post_init__(self) -> None:
        accept_plain_values(self)
        for name, path in (("output", self.output), ("also_expert", self.also_expert)):
            object.__setattr__(self, name, path and path.expanduser())
        self._check_values()
        self._check_files()
        if self.url is None:
            find_model(self.model)
        if self.judge and self.judge_url is None:
            find_model(self.judge)
        from extsub.inference.server import check_url  # in here, so that --help need not wait for it

        for url in filter(None, (self.url, self.judge_url)):
            check_url(url)

    def _check_values(self) -> None:
        for name in ("limit", "concurrency", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ExtSubError(f"{option(name)} {value}: expected 1 or more")
        if self.batch_size != "auto" and self.batch_size < 1:
            raise ExtSubError(f"--batch-size {self.batch_size}: expected auto, or 1 or more")
        if not 0 <= self.threshold <= 1:
            raise ExtSubError(f"--threshold {self.threshold}: expected a number from 0 to 1")
        if self.price and min(self.price) < 0:
            raise ExtSubError(f"--price {self.price[0]:g} {self.price[1]:g}: expected 0 or more")
        if self.judge_url and not self.judge:
            raise ExtSubError("--judge-url: name the judge as the server knows it, with --judge")
        if self.judge and self.toxicity_model:
            raise ExtSubError("--judge and --toxicity-model: one says what is kept; leave the other out")
        if self.mode == "instruct" and self.also_expert:
            raise ExtSubError("--also-expert: with --mode instruct there are no good answers; leave it out")

    def _check_files(self) -> None:
        for name, path in (("output", self.output), ("also-expert", self.also_expert)):
            if path is None:
                continue
            if path.suffix != ".jsonl":
                raise ExtSubError(f"--{name} {path}: give the name of a .jsonl file")
            if path.is_symlink() or path.is_dir():
                what = "link" if path.is_symlink() else "folder"
                raise ExtSubError(f"--{name} {path} is a {what}: give the name of a .jsonl file")
            check_writable(path)
        from extsub.data.instructions import check_fields
        from extsub.data.rows import find_file

        check_fields(self.field, (TEXT,) if self.mode == "instruct" else ())
        source = find_file(self.data, text=self.mode == "instruct") if self.data else None
        paths = [path.resolve() for path in (source, self.output, self.also_expert) if path]
        if len(set(paths)) < len(paths):
            raise ExtSubError(f"--output {self.output}: data, output and --also-expert must be different files")

    @property
    def rows_at_once(self) -> int | None:
        """The batch size; None where it is to be found."""
        return None if self.batch_size == "auto" else int(self.batch_size)

    def beside(self, what: str) -> Path:
        """The path of a file beside the output: ``bad.dropped.jsonl`` for ``bad.jsonl``."""
        return self.output.with_name(f"{self.output.stem}.{what}")

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return json_values(self)
