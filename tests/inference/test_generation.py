"""Greedy answers, however they are batched, against PEFT's model asked for one token at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from conftest import LIBRARIES_WARN
from extsub.errors import ExtSubError
from extsub.inference import batching, generation
from extsub.inference.generation import generate_answers
from extsub.inference.language_model import load_base
from extsub.inference.requests import Answer, Usage
from extsub.models.source import find_model
from reference import MODELS, EvaluatedModel, evaluated_model_of

pytestmark = LIBRARIES_WARN

PROMPTS = {
    9: "<|user|>\nWho wrote the book?\n<|assistant|>\n",
    2: "What is the ca",
    4: "When was the river named? It is said that nobody knows",
    7: "",
    3: "Who",
    5: "Paris, 東京 — Émile",
}
NEW = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module", params=MODELS)
def asked(request: pytest.FixtureRequest, folder: Path) -> Generator[EvaluatedModel]:
    with evaluated_model_of(folder, *request.param.split("-", 1)) as evaluated:
        yield evaluated


@pytest.fixture(params=["lora", "prefix", "prompt"])
def llama(request: pytest.FixtureRequest, folder: Path) -> Generator[EvaluatedModel]:
    with evaluated_model_of(folder, "llama", request.param) as evaluated:
        yield evaluated


def answers(
    evaluated: EvaluatedModel, prompts: dict[int, str] = PROMPTS, most: int = NEW, **more: Any
) -> dict[int, Answer]:
    replies = list(generate_answers(evaluated.model, prompts, max_new_tokens=most, **more))
    assert len(replies) == len(prompts)
    return {reply.index: reply for reply in replies}


def plainly(evaluated: EvaluatedModel, ends: set[int], most: int = NEW) -> dict[int, Answer]:
    result = {}
    for index, text in PROMPTS.items():
        ids = evaluated.tokenizer(text)["input_ids"]
        new, ended = evaluated.greedy(ids, most, ends)
        result[index] = Answer(
            index,
            evaluated.tokenizer.decode(new, skip_special_tokens=True),
            ended,
            False,
            Usage(len(ids), len(new) + ended),
        )
    return result


def third_token(evaluated: EvaluatedModel) -> int:
    """of the answer to the first prompt"""
    return evaluated.greedy(evaluated.tokenizer(PROMPTS[9])["input_ids"], 3, set())[0][-1]


def test_answers_are_those_of_a_plain_loop(asked: EvaluatedModel) -> None:
    end = third_token(asked)
    tokenizer = copy.deepcopy(asked.tokenizer)
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    ending, never = asked.with_tokenizer(tokenizer), plainly(asked, {1})
    expected = plainly(ending, {1, end})
    assert expected[9].finished
    assert len({reply.text for reply in never.values()}) > 3
    assert never[9].text != expected[9].text
    for size in (1, 4, 8, None):
        assert answers(asked, batch_size=size) == never
        assert answers(ending, batch_size=size) == expected


def test_the_end_tokens_of_the_models_own_settings_end_an_answer(
    llama: EvaluatedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """<|eot_id|> beside <|end_of_text|>, say; what else stands there samples, and is not for us."""
    end = third_token(llama)
    own = GenerationConfig(
        eos_token_id=[1, end],
        do_sample=True,
        temperature=5.0,
        top_k=3,
        repetition_penalty=9.0,
        no_repeat_ngram_size=1,
        min_new_tokens=8,
        num_beams=3,
        bad_words_ids=[[third_token(llama) - 1]],
        suppress_tokens=[5, 6, 7],
        max_length=400,
    )
    monkeypatch.setattr(llama.model.base, "generation_config", own)
    expected = plainly(llama, {1, end})
    assert expected[9].finished
    for size in (1, None):
        assert answers(llama, batch_size=size) == expected
    assert llama.model.base.generation_config is own


def test_a_prompt_that_is_too_long_loses_its_beginning(asked: EvaluatedModel) -> None:
    """And keeps <s>; there is room for the whole answer."""
    room = asked.longest - NEW
    long = {1: "Who wrote the book? " * 60, 6: "Q" * room, 8: "Q" * (room - 1)}
    replies = answers(asked, {**PROMPTS, **long}, batch_size=8)
    tokens = {index: asked.tokenizer(text)["input_ids"] for index, text in long.items()}
    assert [len(tokens[index]) - room for index in (6, 8)] == [1, 0]
    for index in long:
        kept = tokens[index] if index == 8 else [0, *tokens[index][-(room - 1) :]]
        new, ended = asked.greedy(kept, NEW, {1})
        text = asked.tokenizer.decode(new, skip_special_tokens=True)
        assert replies[index] == Answer(index, text, ended, index != 8, Usage(len(kept), len(new) + ended))
    assert {index: replies[index] for index in PROMPTS} == plainly(asked, {1})


def test_more_new_tokens_than_the_model_takes_are_refused(asked: EvaluatedModel) -> None:
    assert answers(asked, {1: "Who?"}, asked.longest - 1)[1].shortened  # <s> alone is left
    said = f"the model takes {asked.longest} tokens in all: lower --max-new-tokens {asked.longest}"
    with pytest.raises(ExtSubError, match=said):
        answers(asked, {1: "Who?"}, asked.longest)


def test_special_tokens_may_stand_in_the_prompt(llama: EvaluatedModel) -> None:
    """As a chat template writes them."""
    written = {index: f"<s>{text}" for index, text in PROMPTS.items()}
    assert answers(llama, written, special_tokens=False) == plainly(llama, {1})


def test_a_model_that_gives_nan_is_told_with_the_item(folder: Path, tmp_path: Path) -> None:
    with evaluated_model_of(folder, "llama", "base") as whole:
        broken: Any = AutoModelForCausalLM.from_pretrained(whole.folder)
        broken.get_input_embeddings().weight.data[whole.tokenizer("!")["input_ids"][-1]] = float("nan")
        broken.save_pretrained(tmp_path)
        whole.tokenizer.save_pretrained(tmp_path)
        with load_base(find_model(str(tmp_path)), "float32").with_adapter(None) as model:
            other = replace(whole, model=model)
            assert answers(other) == plainly(whole, {1})
            with pytest.raises(ExtSubError, match="^item 4: the model gives NaN: its weights or the adapter's are"):
                answers(other, {**PROMPTS, 4: "Who wrote the book!"})


def test_too_little_memory_halves_the_batches(llama: EvaluatedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "free_memory", lambda: None)
    original, tried = generation._generate, []

    def limited(most: int) -> Callable[..., list[Answer]]:
        def generate(model: Any, prompts: list[Any], *more: Any) -> list[Answer]:
            tried.append(len(prompts))
            if len(prompts) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return original(model, prompts, *more)

        return generate

    monkeypatch.setattr(generation, "_generate", limited(2))
    assert answers(llama) == plainly(llama, {1})
    assert max(tried[-2:]) <= 2
    monkeypatch.setattr(generation, "_generate", limited(0))
    with pytest.raises(ExtSubError, match="out of memory with one row of [1-9]"):
        answers(llama)
