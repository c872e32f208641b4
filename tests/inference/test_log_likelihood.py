"""Log-likelihoods, however they are batched and shared, against PEFT's model asked for one text at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import processors
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM, MistralConfig, MistralForCausalLM

import tiny_models
from conftest import LIBRARIES_WARN
from extsub.errors import ExtSubError
from extsub.inference import batching, log_likelihood
from extsub.inference.encoding import Continuation, Request
from extsub.inference.language_model import LanguageModel, load_base
from extsub.inference.log_likelihood import score
from extsub.models.source import find_model
from reference import MODELS, EvaluatedModel, adapter, evaluated, evaluated_model_of

pytestmark = LIBRARIES_WARN

BEGINNING = "What is the capital of France? Who wrote the book? " * 3
REQUESTS = {
    7: Request("<|user|>\nWho wrote the book?\n<|assistant|>\n", ("Nobody knows.", " the river", "Émile — 東京.")),
    3: Request("What is the ca", ("pital of France", "ts", "ll of the river named Paris?")),  # ends inside a token
    12: Request("", ("Paris is the capital.", "When")),
    5: Request("It is said that the answer is", ("  so", "\n\n so", " so it is said, nobody knows when or where.")),
    0: Request("When was the river named? It is said:", ("x",)),
}
SIX_SHOT = {
    n: Request(f"{BEGINNING}Q: {text}?", (" It is.", " Nobody")) for n, text in enumerate(("Who", "When, so", ""))
}
PATHS = ("shared", "unshared")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module", params=MODELS)
def asked(request: pytest.FixtureRequest, folder: Path) -> Generator[EvaluatedModel]:
    with evaluated_model_of(folder, *request.param.split("-", 1)) as evaluated:
        yield evaluated


@pytest.fixture(scope="module")
def llama(folder: Path) -> Generator[EvaluatedModel]:
    with evaluated_model_of(folder, "llama", "lora") as evaluated:
        yield evaluated


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Chooses a path; returns a list that tells which one is taken."""
    taken: list[str] = []
    for name, path in (("logits_after", "shared"), ("answer_logits", "unshared")):
        original = getattr(log_likelihood, name)

        def spied(*given: Any, original: Any = original, path: str = path) -> Any:
            taken.append(path)
            return original(*given)

        monkeypatch.setattr(log_likelihood, name, spied)

    def choose(path: str) -> list[str]:
        monkeypatch.setattr(log_likelihood, "WORTH_SHARING", {"shared": 1.0, "unshared": -1.0}[path])
        return taken

    return choose


@contextlib.contextmanager
def watched(model: LanguageModel, most: float = float("inf")) -> Generator[list[tuple[int, int]]]:
    """(rows, tokens) of all that the model reads; with more rows than ``most`` it runs out of memory."""
    seen: list[tuple[int, int]] = []

    def watch(_: Any, given: tuple[torch.Tensor, ...]) -> None:
        if given[0].shape[0] > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        seen.append((given[0].shape[0], given[0].shape[1]))

    hook = model.base.get_input_embeddings().register_forward_pre_hook(watch)
    try:
        yield seen
    finally:
        hook.remove()


Numbers = dict[int, tuple[list[float], list[int], bool]]


def scored(model: LanguageModel, requests: Mapping[int, Request], **more: Any) -> Numbers:
    """{number: (log-likelihoods, tokens, shortened)}"""
    results = list(score(model, requests, **more))
    assert len(results) == len(requests)
    return {result.index: (result.totals, result.tokens, result.shortened) for result in results}


def plainly(evaluated: EvaluatedModel, requests: Mapping[int, Request], end: bool = False) -> Numbers:
    result = {}
    for index, (prompt, continuations) in requests.items():
        totals, tokens = zip(*(evaluated.plainly(prompt, text, end) for text in continuations), strict=True)
        result[index] = (list(totals), list(tokens), False)
    return result


def assert_same(actual: Numbers, expected: Numbers) -> None:
    assert actual.keys() == expected.keys()
    for index, (totals, tokens, shortened) in expected.items():
        assert actual[index] == (pytest.approx(totals, abs=1e-4), tokens, shortened)


@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("path", PATHS)
def test_scores_are_those_of_a_plain_loop(
    asked: EvaluatedModel, choose: Callable[[str], list[str]], path: str, end: bool
) -> None:
    taken, expected = choose(path), plainly(asked, REQUESTS, end)
    for size in (1, 64, None):
        assert_same(scored(asked.model, REQUESTS, end_token=end, batch_size=size), expected)
    assert set(taken) == {path}


def test_prompts_with_one_answer_each_are_read_with_it(llama: EvaluatedModel) -> None:
    with watched(llama.model) as seen:
        single = {index: Request(request.prompt, request.continuations[:1]) for index, request in REQUESTS.items()}
        assert_same(scored(llama.model, single, batch_size=64), plainly(llama, single))
    assert [rows for rows, _ in seen] == [len(single)]


def test_the_adapters_change_the_scores(asked: EvaluatedModel) -> None:
    alone = replace(asked, module=AutoModelForCausalLM.from_pretrained(asked.folder), virtual=0)
    adapted, bare = plainly(asked, REQUESTS), plainly(alone, REQUESTS)
    changes = [abs(adapted[index][0][0] - bare[index][0][0]) for index in REQUESTS]
    assert max(changes) > 0.1 or (asked.is_base and max(changes) == 0.0)


def test_a_common_beginning_is_read_once(asked: EvaluatedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, tokenizer = plainly(asked, SIX_SHOT), asked.tokenizer
    common = len(tokenizer(BEGINNING + "Q:")["input_ids"])
    # the last token is each row's
    prompts = [len(tokenizer(request.prompt)["input_ids"]) - 1 for request in SIX_SHOT.values()]
    longest = max(len(tokenizer(text)["input_ids"]) - 1 for text in SIX_SHOT[0].continuations)
    with watched(asked.model) as seen:
        assert_same(scored(asked.model, SIX_SHOT, batch_size=64), expected)
    assert seen[-3:] == [(1, common), (3, max(prompts) - common), (6, longest)]
    monkeypatch.setattr(log_likelihood, "WORTH_BEGINNING", common + 1)
    with watched(asked.model) as seen:
        assert_same(scored(asked.model, SIX_SHOT, batch_size=64), expected)
    assert seen[-2:] == [(3, max(prompts)), (6, longest)]


@pytest.mark.parametrize("path", PATHS)
def test_a_prompt_that_is_too_long_loses_its_beginning(
    asked: EvaluatedModel, choose: Callable[[str], list[str]], path: str
) -> None:
    """And keeps <s>; the whole answer is scored, with the end token."""
    choose(path)
    long = {4: Request(BEGINNING * 6 + "Who?", ("Nobody knows.", " It is said so")), 8: Request("Q" * 300, ("",))}
    requests, expected = {**SIX_SHOT, **long}, plainly(asked, SIX_SHOT, end=True)
    for index, (prompt, continuations) in long.items():
        totals, scored_tokens = [], []
        for text in continuations:
            tokens, start = asked.encoded(prompt, text + "</s>")
            cut = len(tokens) - asked.longest
            assert cut > 0
            totals.append(asked.log_likelihood([tokens[0], *tokens[1 + cut :]], start - cut))
            scored_tokens.append(len(tokens) - start)
        expected[index] = (totals, scored_tokens, True)
    for size in (1, None):
        assert_same(scored(asked.model, requests, end_token=True, batch_size=size), expected)


@pytest.mark.parametrize("path", PATHS)
def test_an_answer_may_fill_the_model_and_no_more(
    asked: EvaluatedModel, choose: Callable[[str], list[str]], path: str
) -> None:
    choose(path)
    fitting, short = "Q" * (asked.longest - 1), {2: Request("a", ("b",))}  # each Q a token, and <s>
    expected = asked.log_likelihood(asked.tokenizer(fitting)["input_ids"], 1)
    numbers = scored(asked.model, {4: Request("Who?", (fitting, "c")), **short})
    assert numbers[4][0][0] == pytest.approx(expected, rel=1e-5)
    assert numbers[4][1:] == ([asked.longest - 1, 1], True)
    said = f"item 4: the answer alone has {asked.longest} tokens, and the model takes {asked.longest}: leave the item"
    with pytest.raises(ExtSubError, match=said):
        scored(asked.model, {**short, 4: Request("Who?", ("c", fitting + "Q"))})
    with pytest.raises(ExtSubError, match="item 4: the answer is empty: there is nothing to score"):
        scored(asked.model, {**short, 4: Request("Who?", ("c", ""))})


def test_an_end_token_that_is_there_is_not_doubled(llama: EvaluatedModel) -> None:
    requests = {1: Request("Who?", ("Nobody.</s>", "Nobody."))}
    totals, tokens, _ = scored(llama.model, requests, end_token=True)[1]
    assert tokens[0] == tokens[1]
    assert totals[0] == pytest.approx(totals[1], abs=1e-5)
    assert totals[0] == pytest.approx(llama.plainly("Who?", "Nobody.</s>")[0], abs=1e-4)


def test_special_tokens_may_stand_in_the_prompt(llama: EvaluatedModel) -> None:
    """As a chat template writes them."""
    numbers = scored(llama.model, {1: Request("<s>Who?", (" Nobody.", " I"))}, special_tokens=False)
    assert_same(numbers, plainly(llama, {1: Request("Who?", (" Nobody.", " I"))}))


def test_where_no_token_begins_a_text_the_end_token_does(llama: EvaluatedModel) -> None:
    tokenizer: Any = tiny_models.tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.Sequence([])
    tokenizer.bos_token, tokenizer.pad_token = None, "</s>"
    other = llama.with_tokenizer(tokenizer)
    tokens = tokenizer("Paris is")["input_ids"]
    assert tokens[0] > 1
    expected = llama.log_likelihood([1, *tokens], 1)
    assert scored(other.model, {1: Request("", ("Paris is",))})[1] == (
        [pytest.approx(expected, abs=1e-4)], [len(tokens)], False
    )  # fmt: skip
    totals, _, shortened = scored(other.model, {1: Request("a" + "Q" * 400, ("Paris is",))})[1]
    rows = other.encoded("a" + "Q" * 400, "Paris is")[0]
    assert totals[0] == pytest.approx(llama.log_likelihood(rows[-256:], 256 - len(tokens)), abs=1e-4)
    assert shortened


@pytest.mark.parametrize("path", PATHS)
def test_a_model_that_gives_nan_is_told_with_the_item(
    llama: EvaluatedModel, tmp_path: Path, choose: Callable[[str], list[str]], path: str
) -> None:
    broken: Any = AutoModelForCausalLM.from_pretrained(llama.folder)
    token = llama.tokenizer("!")["input_ids"][-1]
    broken.get_input_embeddings().weight.data[token] = float("nan")
    broken.save_pretrained(tmp_path)
    llama.tokenizer.save_pretrained(tmp_path)
    choose(path)
    with load_base(find_model(str(tmp_path)), "float32").with_adapter(None) as model:
        assert_same(scored(model, REQUESTS), scored(model, REQUESTS, batch_size=1))  # nothing of it elsewhere
        with pytest.raises(ExtSubError, match="^item 5: the model gives nan as a log-likelihood: its weights or the"):
            scored(model, {**REQUESTS, 5: Request("Who wrote the book!", (" I", " you"))})


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["lora", "prefix", "prompt"])
def test_too_little_memory_halves_the_batches(
    folder: Path, choose: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch, kind: str, path: str
) -> None:
    choose(path)
    monkeypatch.setattr(batching, "free_memory", lambda: None)  # takes half a second in so large a process
    requests = {**REQUESTS, **{20 + number: request for number, request in SIX_SHOT.items()}}
    with evaluated_model_of(folder, "llama", kind) as small:
        with watched(small.model, most=5) as seen:  # 64 at once, 32, 16, 8, 4
            assert_same(scored(small.model, requests), plainly(small, requests))
        assert max(rows for rows, _ in seen) == 4
        with watched(small.model, most=0), pytest.raises(ExtSubError, match="out of memory with one row of [1-9]"):
            scored(small.model, requests)


def test_another_error_is_not_taken_for_memory(llama: EvaluatedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(log_likelihood, "_likelihoods", fail)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        scored(llama.model, REQUESTS)


def test_of_equally_likely_tokens_greedy_decoding_takes_the_first() -> None:
    """In bfloat16 the highest logits are often equal."""
    logits = torch.tensor([[1.0, 3.0, 3.0], [3.0, 1.0, 3.0]], dtype=torch.bfloat16)
    pairs = [(1, 0), (1, 2), (2, 0), (0, 0)]
    greedy = [log_likelihood._likelihoods(logits, [Continuation([9, *pair], 1)])[0].greedy for pair in pairs]
    assert greedy == [True, False, False, False]


WINDOWS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
WINDOWS |= {"num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.2, "sliding_window": 8}


@pytest.mark.parametrize("architecture", ["mistral", "gemma2"])
def test_models_with_windows_are_read_whole(
    tmp_path: Path, architecture: str, choose: Callable[[str], list[str]]
) -> None:
    """Gemma 2 also caps its logits, after the output layer."""
    taken, tokenizer, base = choose("shared"), tiny_models.tokenizer(), tmp_path / architecture
    shape: dict[str, Any] = {**WINDOWS, "vocab_size": len(tokenizer), "max_position_embeddings": 256}
    torch.manual_seed(0)
    if architecture == "mistral":
        MistralForCausalLM(MistralConfig(**shape)).save_pretrained(base)
    else:
        Gemma2ForCausalLM(Gemma2Config(**shape, final_logit_softcapping=2.0)).save_pretrained(base)
    tokenizer.save_pretrained(base)
    for kind in ("lora", "prompt"):
        with evaluated(base, adapter(base, tmp_path / kind, kind)) as small:
            assert not small.model.shares_contexts
            assert_same(scored(small.model, {**REQUESTS, **SIX_SHOT}), plainly(small, {**REQUESTS, **SIX_SHOT}))
    assert set(taken) == {"unshared"}
