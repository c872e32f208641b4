"""Examples become token ids, with the loss on the answer and its end token only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from extsub.data import Example
from extsub.errors import ExtSubError
from extsub.prompts import Template, render
from extsub.tokens import encode_pairs

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

MASKED = -100
"""a label that counts for nothing, in torch and all of its libraries"""
CHUNK = 1024
"""rows that are tokenised together: enough to keep every core busy, few enough to show progress"""

Progress = Callable[[Iterable[Sequence[Example]], int], Iterable[Sequence[Example]]]


@dataclass(frozen=True)
class Encoded:
    """Rows ready for training; ``answers[i]`` is where the answer starts in ``tokens[i]``."""

    tokens: list[list[int]]
    answers: list[int]
    truncated: int
    """rows that lost their end"""
    dropped: int
    """rows left out because the prompt alone fills them"""

    @property
    def lengths(self) -> list[int]:
        """tokens of each row"""
        return [len(row) for row in self.tokens]

    @property
    def labels(self) -> list[list[int]]:
        """for each row its tokens, the prompt's masked"""
        rows = zip(self.tokens, self.answers, strict=True)
        return [[MASKED] * answer + row[answer:] for row, answer in rows]


def encode(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    max_length: int,
    progress: Progress = lambda chunks, _: chunks,
) -> Encoded:
    """Tokenise prompt and answer as one text, so that tokens fall as they do in running text.

    Every token that holds a part of the answer is learnt, and the end token; a row longer than ``max_length`` loses
    its end (and its end token with it), one whose prompt fills ``max_length`` is left out. Linear in the text.

    Raises:
        ExtSubError: the template does not fit the tokenizer or the data, or no row is left.
    """
    end, tokens, answers, truncated = tokenizer.eos_token_id, [], [], 0
    chunks = (examples[start : start + CHUNK] for start in range(0, len(examples), CHUNK))
    for chunk in progress(chunks, -(-len(examples) // CHUNK)):
        rendered = [render(example.turns, example.answer, template, tokenizer) for example in chunk]
        # A chat template writes the tokens at both ends itself.
        for row, start in encode_pairs(rendered, tokenizer, special_tokens=template != "chat"):
            if template != "chat" and row[-1] != end:
                row.append(end)
            truncated += len(row) > max_length
            if start < max_length:
                tokens.append(row[:max_length])
                answers.append(start)
    if not tokens:
        raise ExtSubError(f"every prompt alone fills --max-length {max_length}: nothing would be learnt; raise it")
    return Encoded(tokens, answers, truncated, len(examples) - len(tokens))


def to_dataset(rows: Encoded, packed_length: int | None) -> Dataset:
    """Rows as TRL takes them, several in one of at most ``packed_length`` tokens if so asked."""
    from datasets import Dataset, disable_progress_bars

    dataset = Dataset.from_dict({"input_ids": rows.tokens, "labels": rows.labels})
    if packed_length is None:
        return dataset
    from trl.data_utils import pack_dataset

    disable_progress_bars()  # half a second's work
    return pack_dataset(dataset, packed_length, "bfd")
