"""Examples become token ids, with the loss on the answer and its end token only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from extsub.data.instructions import Example
from extsub.data.rows import refusal
from extsub.errors import ExtSubError, RowError
from extsub.models.prompts import Said, Template, check_template, render_answer, render_prompt, rewritten
from extsub.models.tokenization import Text, encode_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MASKED = -100
"""The label that the loss ignores, in torch and all of its libraries."""
CHUNK = 1024
"""Rows that are tokenised together: enough to keep every core busy, few enough to show progress."""

ChunkProgress = Callable[[Iterable[Sequence[Example]], int], Iterable[Sequence[Example]]]


@dataclass(frozen=True)
class EncodedExamples:
    """Rows ready for training; ``answers[i]`` is where the answer starts in ``tokens[i]``."""

    tokens: list[list[int]]
    answers: list[int]
    truncated: int
    """How many rows lost their end."""
    dropped: int
    """How many rows were left out because the prompt alone fills them."""
    notes: tuple[str, ...] = ()
    """What the chat template does to the rows, in sentences."""

    @property
    def lengths(self) -> list[int]:
        """The number of tokens of each row."""
        return [len(row) for row in self.tokens]

    @property
    def labels(self) -> list[list[int]]:
        """The labels of each row: its tokens, with the prompt's masked."""
        rows = zip(self.tokens, self.answers, strict=True)
        return [[MASKED] * answer + row[answer:] for row, answer in rows]


def encode(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    template: Template,
    max_length: int,
    progress: ChunkProgress = lambda chunks, _: chunks,
    places: Sequence[str] = (),
) -> EncodedExamples:
    """Tokenise prompt and answer as one text, so that tokens fall as they do in running text.

    Every token that holds a part of the answer is learnt, and its end; a row longer than ``max_length`` loses its end
    (and its end token with it), one whose prompt fills ``max_length`` is left out. Linear in the text.

    Args:
        places: where each example stands, for errors.

    Raises:
        ExtSubError: the template does not fit the tokenizer or a row, or no row is left.
    """
    check_template(template, tokenizer)
    tokens, answers, wrong, truncated, changes = [], [], [], 0, Counter[str]()
    chunks = (examples[start : start + CHUNK] for start in range(0, len(examples), CHUNK))
    for number, chunk in enumerate(progress(chunks, -(-len(examples) // CHUNK))):
        texts = []
        for place, example in enumerate(chunk, start=number * CHUNK):
            try:
                prompt = render_prompt(example.messages, template, tokenizer)
                said = render_answer(prompt, example.messages, example.answer, template, tokenizer)
            except RowError as error:
                wrong.append((places[place] if places else f"row {place + 1}", error))
                continue
            changes.update(_changes(prompt, example, said))
            texts.append(Text(prompt, said.text, said.end))
        # A chat template writes the tokens at both ends itself.
        for row, start in encode_texts(texts, tokenizer, special_tokens=template != "chat") if not wrong else ():
            truncated += len(row) > max_length
            if start < max_length:
                tokens.append(row[:max_length])
                answers.append(start)
    if wrong:
        raise refusal(wrong)
    if not tokens:
        raise ExtSubError(f"every prompt alone fills --max-length {max_length}: nothing would be learnt; raise it")
    notes = tuple(f"{count:,} of {len(examples):,} rows: {what}" for what, count in changes.items())
    return EncodedExamples(tokens, answers, truncated, len(examples) - len(tokens), notes)


def _changes(prompt: str, example: Example, said: Said) -> Iterator[str]:
    """What the chat template does to a row that is learnt nevertheless."""
    if said.trimmed:
        yield "the chat template drops white space at the ends of the answer, and it is learnt without"
    if said.without:
        yield f"the chat template puts {said.without!r} before the answer, but asks without it, so it is left out"
    if rewritten(prompt, example.messages):
        yield "the chat template leaves out or rewrites a part of the messages before the question; it is asked so too"
