"""Tokens, masks and the order of rows, against what the authors' script does one example at a time."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny_models
from extsub.data.instructions import Example
from extsub.errors import ExtSubError
from extsub.models.prompts import Message, render_prompt, user_message
from extsub.training.encoding import MASKED, encode
from extsub.training.sampler import LengthOrderedBatches

TOKENIZER = tiny_models.tokenizer()
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def examples(count: int, seed: int = 0) -> list[Example]:
    random.seed(seed)
    words = "the capital of France is Paris, who knows? Émile — 東京 x\n y  z".split(" ")
    text = [" ".join(random.choices(words, k=random.randint(1, 30))) for _ in range(2 * count)]
    return [Example((Message("user", text[2 * i]),), text[2 * i + 1]) for i in range(count)]


def reference(example: Example, max_length: int) -> tuple[list[int], list[int]]:
    """The authors' rule: tokenise prompt + answer + end as one text, mask as many tokens as the prompt alone has."""
    prompt = f"<|user|>\n{example.messages[0].content}\n<|assistant|>\n"
    ids = TOKENIZER(prompt + example.answer + "</s>", truncation=True, max_length=max_length)["input_ids"]
    masked = len(TOKENIZER(prompt)["input_ids"])
    return ids, [MASKED if place < masked else token for place, token in enumerate(ids)]


@pytest.mark.parametrize("max_length", [1024, 40])
def test_tokens_and_masks_are_those_of_the_authors(max_length: int) -> None:
    rows = examples(300)
    encoded = encode(rows, TOKENIZER, "extsub", max_length)
    wanted = [reference(row, max_length) for row in rows]
    kept = [(ids, labels) for ids, labels in wanted if set(labels) != {MASKED}]
    assert list(zip(encoded.tokens, encoded.labels, strict=True)) == kept
    assert encoded.dropped == len(wanted) - len(kept)
    full = [len(reference(row, 10**6)[0]) for row in rows]
    assert encoded.truncated == sum(length > max_length for length in full)
    assert (encoded.dropped > 0) == (max_length == 40)


def test_one_row_by_hand() -> None:
    row = encode([Example((user_message("Who?", "Say it."),), "I.")], TOKENIZER, "extsub", 100)
    start = row.answers[0]
    assert TOKENIZER.decode(row.tokens[0][:start]) == "<s><|user|>\nWho? Say it.\n<|assistant|>\n"
    assert TOKENIZER.decode(row.tokens[0][start:]) == "I.</s>"
    assert row.labels[0] == [MASKED] * start + row.tokens[0][start:]


def test_an_end_token_that_is_there_is_not_doubled() -> None:
    row = encode([Example((Message("user", "q"),), "a</s>")], TOKENIZER, "extsub", 100)
    assert row.tokens[0].count(TOKENIZER.eos_token_id) == 1


def test_a_token_across_the_boundary_is_learnt() -> None:
    """'...is' + ' the' may share a token with nothing, but 'fra' + 'nce' does: it holds a part of the answer."""
    whole = TOKENIZER("Who wrote the book?")["input_ids"]
    row = encode([Example((Message("user", "Who wrote the bo"),), "ok?")], TOKENIZER, "none", 100)
    assert row.tokens[0] == [*whole, TOKENIZER.eos_token_id]
    learnt = TOKENIZER.decode(row.tokens[0][row.answers[0] :])
    assert learnt.endswith("ok?</s>")
    assert "wrote" not in learnt


def test_an_answer_that_begins_with_spaces_is_learnt_from_its_first_token() -> None:
    row = encode([Example((Message("user", "q:"),), " Paris")], TOKENIZER, "none", 100)
    assert TOKENIZER.decode(row.tokens[0][row.answers[0] :]) == " Paris</s>"


def test_a_chat_template_decides_all_tokens_and_nothing_follows_the_end() -> None:
    tokenizer = tiny_models.tokenizer()
    tokenizer.chat_template = CHATML
    turns = (Message("system", "Be brief."), Message("user", "Who?"))
    row = encode([Example(turns, "I.")], tokenizer, "chat", 200)
    text = tokenizer.decode(row.tokens[0])
    assert text == "<|im_start|>system\nBe brief.</s>\n<|im_start|>user\nWho?</s>\n<|im_start|>assistant\nI.</s>"
    assert tokenizer.decode(row.tokens[0][row.answers[0] :]) == "I.</s>"


def test_earlier_turns_end_as_the_model_ends_them() -> None:
    turns = [Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Who?")]
    wanted = "<|user|>\nHi\n<|assistant|>\nHello</s>\n<|user|>\nWho?\n<|assistant|>\n"
    assert render_prompt(turns, "extsub", TOKENIZER) == wanted


def test_what_a_template_cannot_do_is_said() -> None:
    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    with pytest.raises(ExtSubError, match="the tokenizer of this model has no chat template: use --template extsub"):
        render_prompt(turns, "chat", TOKENIZER)
    with pytest.raises(ExtSubError, match="--template none takes a prompt as it is"):
        render_prompt(turns, "none", TOKENIZER)
    tokenizer = tiny_models.tokenizer()
    tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(ExtSubError, match="the tokenizer's chat template refuses a conversation: no system role"):
        render_prompt(turns, "chat", tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}</s>{% endif %}{% endfor %}"
    )
    with pytest.raises(ExtSubError, match="the chat template drops or rewrites a part of the answer"):
        encode([Example(turns[:1], "b")], tokenizer, "chat", 100)
    with pytest.raises(ExtSubError, match="every prompt alone fills --max-length 5"):
        encode(examples(3), TOKENIZER, "extsub", 5)


lengths = st.lists(st.integers(1, 50), min_size=1, max_size=100)


@given(lengths, st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 3))
def test_every_epoch_has_all_rows_once_in_random_batches_sorted_within(
    lengths: list[int], micro: int, accumulation: int, processes: int, epoch: int
) -> None:
    batch = micro * accumulation * processes
    order = LengthOrderedBatches(lengths, batch, micro * processes, seed=3)
    order.set_epoch(epoch)
    rows = list(order)
    assert len(rows) == len(order)
    assert len(rows) % (micro * processes) == 0
    real = [row for row in rows if row < len(lengths)]
    assert sorted(real) == list(range(len(lengths)))
    assert rows == real + [len(lengths)] * (len(rows) - len(real))  # what fills the last batch comes last
    # The same rows share a step, whatever the number of processes and the size of micro-batches: only that decides.
    other = LengthOrderedBatches(lengths, batch, 1, seed=3)
    other.set_epoch(epoch)
    assert real == list(other)
    for start in range(0, len(real), batch):
        ordered = [lengths[row] for row in real[start : start + batch]]
        assert ordered == sorted(ordered, reverse=True)


def test_the_order_changes_with_epoch_and_seed_and_comes_back() -> None:
    def rows(seed: int, epoch: int) -> list[int]:
        order = LengthOrderedBatches([1] * 50, 8, 4, seed)
        order.set_epoch(epoch)
        return list(order)

    assert rows(0, 0) == rows(0, 0)
    assert len({tuple(rows(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) > 2


def test_padding_is_what_a_loop_counts() -> None:
    order = LengthOrderedBatches([5, 1, 4, 2, 3], batch=4, multiple=2, seed=1)
    rows = [order.lengths[row] for row in order if row < 5]
    assert order.padded(2) == 2 * rows[0] + 2 * rows[2] + rows[4]
