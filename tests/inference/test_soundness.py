"""How a model may be asked is found out by asking it: what is right stays as it was, what is wrong is not done."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

import tiny_models
from architectures import made
from conftest import Command
from extsub import ExtSubError
from extsub.inference.encoding import Request
from extsub.inference.generation import generate_answers
from extsub.inference.language_model import LanguageModel, load_base
from extsub.inference.log_likelihood import score
from extsub.inference.soundness import Sound, Soundness
from extsub.inference.trial import soundness_of
from extsub.models.source import find_model
from extsub.probing.comparison import distances
from extsub.probing.twin import twin
from reference import EvaluatedModel, evaluated

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries

BEGINNING = "What is the capital of France? Who wrote the book? " * 3
REQUESTS = {
    3: Request("What is the ca", ("pital of France", "ts")),
    5: Request(f"{BEGINNING}Who?", (" It is.", " Nobody knows when or where, it is said.")),
    8: Request(f"{BEGINNING}When, so?", (" It is said so", " N")),
    9: Request("When was the river named?", (" Nobody knows", " x")),
}
PROMPTS = {2: "Who wrote the book?", 4: "a", 7: BEGINNING, 9: "When was the river named? It is"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def soundness(folder: Path, architecture: str, dtype: Any = "float32") -> Soundness:
    with load_base(find_model(str(made(folder, architecture))), dtype).with_adapter(None) as model:
        return model.soundness


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma", "gemma2", "mistral", "mixtral", "mamba", "gpt2"])
def test_what_is_right_is_not_given_up(folder: Path, architecture: str, dtype: str) -> None:
    """Whatever is rounded."""
    sound = soundness(folder, architecture, dtype)
    assert sound.everywhere == Sound()
    assert sound.notes(scoring=True, answering=True) == ()


NEO = (
    "prompts of over 24 tokens are read again with each answer: if they are read once for all, this model scores them "
    "differently"
)
ALONE = "prompts are answered one at a time: among others, this model answers differently"
EQUAL = "prompts are answered in batches of equal length: among others, this model answers differently"
LATER = (
    "texts of over 20 tokens are scored in batches of equal length: among others, this model scores them differently"
)
WRONG = {
    "gpt_neo": (Sound(), Sound(sharing=False), (NEO,)),  # its window counts padding
    "rwkv": (Sound(answering="one"), Sound(answering="one"), (ALONE,)),  # its states mix rows
    "bart": (Sound(answering="equal"), Sound(answering="equal"), (EQUAL,)),  # its positions count padding
    "phi3": (Sound(), Sound(sharing=False, scoring="equal", answering="equal"),
             (NEO.replace("24", "20"), LATER, EQUAL.replace("prompts", "prompts of over 20 tokens"))),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", WRONG)
def test_what_is_wrong_is_given_up_and_no_more(folder: Path, architecture: str, dtype: str) -> None:
    sound = soundness(folder, architecture, dtype)
    short, long, notes = WRONG[architecture]
    assert (sound.short, sound.long) == (short, long)
    assert sound.notes(scoring=True, answering=True) == notes


def check(asked: EvaluatedModel, requests: dict[int, Request] = REQUESTS) -> None:
    """Numbers and answers are those of one text at a time."""
    for scored in score(asked.model, requests):
        prompt, continuations = requests[scored.index]
        expected = [asked.plainly(prompt, text)[0] for text in continuations]
        assert scored.totals == pytest.approx(expected, abs=1e-4)
    for answer in generate_answers(asked.model, PROMPTS, max_new_tokens=8):
        new, ended = asked.greedy(asked.tokenizer(PROMPTS[answer.index])["input_ids"], 8, {1})
        assert (answer.text, answer.finished) == (asked.tokenizer.decode(new, skip_special_tokens=True), ended)


@pytest.mark.parametrize("architecture", [*WRONG, "mistral", "mamba"])
def test_every_number_is_that_of_the_text_alone(folder: Path, architecture: str) -> None:
    with evaluated(made(folder, architecture), None) as asked:
        check(asked)


def test_a_window_counts_virtual_tokens_and_padding(folder: Path) -> None:
    """Mistral's cache of a window is wrong with a prefix before padding."""
    base = made(folder, "mistral")
    torch.manual_seed(1)
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5)
    module: Any = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    module.prompt_encoder["default"].embedding.weight.data.normal_()
    module.save_pretrained(folder / "on-mistral" / "prefix")
    with evaluated(base, folder / "on-mistral" / "prefix") as asked:
        assert asked.model.soundness.short == Sound(answering="equal")
        assert asked.model.soundness.window == 16 - 5
        check(asked)


def test_an_activated_lora_is_given_whole_texts(folder: Path) -> None:
    """It begins at its invocation tokens, which it looks for in what the model is given."""
    base, tokenizer = made(folder, "llama"), tiny_models.tokenizer()
    invocation = tokenizer("Who", add_special_tokens=False)["input_ids"]
    torch.manual_seed(1)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], alora_invocation_tokens=invocation
    )
    module: Any = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for weight in module.parameters():
        if weight.requires_grad:
            weight.data.normal_(0, 0.5)
    module.save_pretrained(folder / "activated")
    with evaluated(base, folder / "activated") as asked:
        assert not asked.model.shares_contexts
        check(asked, {5: REQUESTS[5], 9: REQUESTS[9]})


def rows_together(_: Any, __: Any, states: torch.Tensor) -> torch.Tensor:
    return states + 0.3 * (states.mean(0, keepdim=True) - states) * (len(states) > 1)


def from_the_next(_: Any, __: Any, states: torch.Tensor) -> torch.Tensor:
    return states + 0.3 * torch.cat([states[:, 1:], states[:, -1:]], dim=1)


def more_for_padding(_: Any, __: Any, states: torch.Tensor) -> torch.Tensor:
    return states + 0.1 * states.shape[1]


@contextlib.contextmanager
def spoilt(folder: Path, dtype: Any, fault: Callable[..., torch.Tensor]) -> Generator[LanguageModel]:
    """A Llama with a fault of its own, which no other of its kind has."""
    base = load_base(find_model(str(made(folder, "llama"))), dtype)
    hook = base.model.get_input_embeddings().register_forward_hook(fault)
    try:
        yield LanguageModel(base.model, base.model, base.tokenizer)
    finally:
        hook.remove()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_model_itself_is_tried(folder: Path, dtype: str) -> None:
    with spoilt(folder, dtype, rows_together) as model:
        assert soundness_of(model).short == Sound(sharing=False, scoring="one", answering="one")
    with spoilt(folder, dtype, from_the_next) as model, pytest.raises(ExtSubError, match="llama is not a causal"):
        soundness_of(model)


def test_what_reads_both_sides_is_refused(folder: Path, tmp_path: Path, extsub: Command) -> None:
    said = "bert-generation is not a causal language model: what it says of a token depends on the tokens after it"
    (tmp_path / "text.txt").write_text("Who wrote the book?")
    arguments = ["--model", made(folder, "bert-generation"), "--data", tmp_path / "text.txt"]
    result = extsub("evaluate", "perplexity", *arguments)
    assert result.returncode == 2
    assert said in " ".join(result.stderr.split())


def test_the_results_say_what_was_done_otherwise(folder: Path, tmp_path: Path, extsub: Command) -> None:
    rows = [{"document": BEGINNING, "right_summary": "Paris is.", "hallucinated_summary": "Nobody knows it."}]
    (tmp_path / "summarization_data.json").write_text("\n".join(map(json.dumps, rows)))
    arguments = ["--model", made(folder, "gpt_neo"), "--data", tmp_path, "--output", tmp_path / "results"]
    assert NEO in " ".join(extsub("evaluate", "halueval-summarization", *arguments).stdout.split())
    results = json.loads((tmp_path / "results" / "results.json").read_text())
    assert NEO in results["runs"]["halueval-summarization"]["notes"]
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS.values()))
    arguments = ["--model", made(folder, "bart"), "--prompts", tmp_path / "prompts.txt", "--max-new-tokens", 3]
    assert EQUAL in " ".join(extsub("generate", *arguments, "--output", tmp_path / "answers.jsonl").stdout.split())


def test_a_twin_has_all_kinds_of_layers_and_disturbs_nothing(folder: Path) -> None:
    config = transformers.JambaConfig(vocab_size=65536, hidden_size=4096, num_hidden_layers=32, use_mamba_kernels=False)
    with torch.device("meta"):
        large: Any = AutoModelForCausalLM.from_config(config)
    state = torch.random.get_rng_state()
    small = twin(large, torch.device("cpu"))
    assert small is not None
    assert torch.equal(torch.random.get_rng_state(), state)
    assert sum(weight.numel() for weight in small.parameters()) < 1e6 < 1e9 < sum(x.numel() for x in large.parameters())
    kinds = {type(module).__name__ for module in small.modules()}
    assert {"JambaMambaMixer", "JambaAttention", "JambaSparseMoeBlock"} <= kinds
    assert large.config.hidden_size == 4096


def test_a_distance_is_that_of_probabilities() -> None:
    """By hand: a shift of all logits counts for nothing, nor do tokens that are ruled out."""
    expected = torch.tensor([[0.0, 2.0, 4.0, -torch.inf], [1.0, 1.0, 1.0, -3e38]])
    assert distances(expected + 7, expected).tolist() == pytest.approx([0, 0], abs=1e-6)
    changed = expected + torch.tensor([[0.0, 0.0, 0.0, 5.0], [3.0, 0.0, 0.0, 0.0]])
    assert distances(changed, expected).tolist() == pytest.approx([0, 2**0.5])  # 2, -1, -1 without what is common
