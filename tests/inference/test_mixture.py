"""Several positions of one dial, asked as one model, against a plain unbatched loop over models loaded apart."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import reference
import tiny_models
from extsub import SweepSettings, load_adapter
from extsub.distributed import process_group
from extsub.evaluation.run import silent
from extsub.inference import log_likelihood
from extsub.inference.encoding import Request
from extsub.inference.generation import generate_answers
from extsub.inference.language_model import LanguageModel
from extsub.inference.log_likelihood import score
from extsub.inference.mixture import Mixture, combined
from extsub.inference.soundness import Sound, Soundness
from extsub.models.source import find_model
from extsub.sweeping.grid import SweepPoint
from extsub.sweeping.runner import Runner

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries
REQUESTS = {
    7: Request("<|user|>\nWho wrote the book?\n<|assistant|>\n", ("Nobody knows.", " the river", "Émile — 東京.")),
    3: Request("What is the ca", ("pital of France", "ts")),
    12: Request("", ("Paris is the capital.", "When")),
    4: Request("What is the capital of France? Who wrote the book?", (" Nobody knows.", " It is said.")),
}
PROMPTS = {2: "What is the capital", 0: "Who", 5: "When was the river named? It is said that nobody knows", 9: ""}
NEW = 8
BETA = 0.7
WEIGHTS = {
    "icd": {"expert": 1.7, "anti-expert": -0.7},
    "dexperts": {"base": 1.0, "expert": 0.7, "anti-expert": -0.7},
}


class Apart:
    """Three models in memory of their own, asked for one text at a time."""

    def __init__(self, folder: Path, kind: str, method: str, stack: contextlib.ExitStack) -> None:
        paths = {"base": None, "expert": folder / f"{kind}-1" / kind, "anti-expert": folder / f"{kind}-2" / kind}
        self.weights, self.method = WEIGHTS[method], method
        self.models = {
            name: stack.enter_context(reference.evaluated(folder / "base", paths[name])) for name in self.weights
        }
        self.first = self.models["expert"]

    def logits(self, tokens: list[int]) -> Tensor:
        """(tokens, vocabulary) float64"""
        return torch.stack([weight * self.models[name].logits(tokens) for name, weight in self.weights.items()]).sum(0)

    def plainly(self, prompt: str, answer: str) -> float:
        tokens, start = self.first.encoded(prompt, answer)
        each = self.logits(tokens).log_softmax(-1)
        return sum(float(each[place - 1, tokens[place]]) for place in range(start, len(tokens)))

    def greedy(self, tokens: list[int]) -> list[int]:
        new: list[int] = []
        while len(new) < NEW:
            scores = self.logits(tokens + new)[-1]
            if self.method == "icd":
                likely = self.models["expert"].logits(tokens + new)[-1].softmax(-1)
                scores[likely < 0.1 * likely.max()] = -math.inf
            token = int(scores.argmax())
            if token == self.first.tokenizer.eos_token_id:
                break
            new.append(token)
        return new


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_models.llama(folder / "base")
    for kind in ("lora", "ia3", "prefix"):
        for seed in (1, 2):
            reference.adapter(folder / "base", folder / f"{kind}-{seed}" / kind, kind, seed)
    return folder


@contextlib.contextmanager
def mixed(folder: Path, kind: str, method: str) -> Generator[LanguageModel]:
    """The method on one dial, as a sweep asks it."""
    adapters = [load_adapter(folder / f"{kind}-{seed}" / kind) for seed in (1, 2)]
    settings = SweepSettings(tasks=("truthfulqa-mc",), output=folder / "swept", dtype="float32")
    base = find_model(str(folder / "base"))
    runner = Runner(base, {}, adapters, [], {}, settings, process_group(), silent)
    runner._ask_at(SweepPoint("expert"), [], lambda _: None)  # loads all
    with runner._at(SweepPoint(method, BETA)) as model:
        yield model
    runner.put_away()


MIXED = [
    *(f"lora {method}" for method in WEIGHTS),
    "prefix dexperts",
    *(pytest.param(mixed, marks=pytest.mark.slow) for mixed in ("prefix icd", "ia3 icd", "ia3 dexperts")),
]


@pytest.fixture(scope="module", params=MIXED)
def asked(request: pytest.FixtureRequest, folder: Path) -> Generator[tuple[LanguageModel, Apart]]:
    """A mixture, and the models of which it is one"""
    kind, method = request.param.split()
    with contextlib.ExitStack() as stack, mixed(folder, kind, method) as model:
        yield model, Apart(folder, kind, method, stack)


@pytest.mark.parametrize("shared", [1.0, -1.0], ids=["shared", "unshared"])
def test_choices_score_what_a_plain_loop_over_three_models_gives(
    asked: tuple[LanguageModel, Apart], shared: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_likelihood, "WORTH_SHARING", shared)
    model, apart = asked
    for size in (1, None):
        likelihoods = {scored.index: scored.likelihoods for scored in score(model, REQUESTS, batch_size=size)}
        for index, request in REQUESTS.items():
            for answer, likelihood in zip(request.continuations, likelihoods[index], strict=True):
                expected = apart.plainly(request.prompt, answer)
                assert likelihood.total == pytest.approx(expected, rel=1e-5, abs=1e-5), (index, answer)


CAREFUL = Soundness(*[Sound(sharing=False, scoring="one")] * 2)


def test_answers_are_those_of_a_plain_loop_over_three_models(asked: tuple[LanguageModel, Apart]) -> None:
    model, apart = asked
    tokenizer = apart.first.tokenizer
    said = {index: apart.greedy(tokenizer(text)["input_ids"]) for index, text in PROMPTS.items()}
    expected = {index: (tokenizer.decode(new, skip_special_tokens=True), len(new) < NEW) for index, new in said.items()}
    assert len(set(expected.values())) > 1
    without_cache = replace(model, soundness=CAREFUL)
    for way, size in ((model, 1), (model, None), (without_cache, None)):
        answers = list(generate_answers(way, PROMPTS, max_new_tokens=NEW, batch_size=size))
        assert {reply.index: (reply.text, reply.finished) for reply in answers} == expected


def test_a_mixture_ends_and_is_not_the_expert(folder: Path) -> None:
    """An end token that comes early ends the answer there, and not those beside it."""
    with contextlib.ExitStack() as stack, mixed(folder, "lora", "icd") as model:
        apart = Apart(folder, "lora", "icd", stack)
        tokens = apart.first.tokenizer(PROMPTS[2])["input_ids"]
        new = apart.greedy(tokens)
        assert new != apart.first.greedy(tokens, NEW, {1})[0]
        end = new[2]
        answers = {reply.index: reply for reply in generate_answers(model, PROMPTS, max_new_tokens=NEW, end=end)}
        assert answers[2].finished
        assert answers[2].text == apart.first.tokenizer.decode(new[: new.index(end)], skip_special_tokens=True)


def test_the_combination_by_hand() -> None:
    """Expert (0, 1, 2), anti-expert (0, 3, 0), base (1, 1, 1); β = 2."""
    expert, anti_expert, base = (torch.tensor([values]) for values in ((0.0, 1.0, 2.0), (0.0, 3.0, 0.0), (1.0,) * 3))
    assert combined([expert, anti_expert], [3.0, -2.0]).tolist() == [[0.0, -3.0, 6.0]]
    assert combined([base, expert, anti_expert], [1.0, 2.0, -2.0]).tolist() == [[1.0, -3.0, 5.0]]
    assert combined([expert.bfloat16()], [1.0]).dtype == torch.float32
    # e^-2 = 0.135 and e^-1 = 0.37 of the likeliest: at 0.2 the first token is cut, likelier than the second as it is
    mixture = Mixture((), (3.0, -2.0), plausible=0.2)
    assert mixture.next_logits([expert, anti_expert]).tolist() == [[-math.inf, -3.0, 6.0]]
    assert replace(mixture, plausible=0.1).next_logits([expert, anti_expert]).tolist() == [[0.0, -3.0, 6.0]]


def test_a_nan_at_one_position_is_told(folder: Path) -> None:
    broken = SimpleNamespace()
    with mixed(folder, "lora", "icd") as model:
        assert model.mixture
        position: Callable[[], Any] = model.mixture.positions[1]

        @contextlib.contextmanager
        def spoilt() -> Generator[LanguageModel]:
            with position() as there:
                head = there.base.get_output_embeddings()
                hook = head.register_forward_hook(lambda *given: given[2] * math.nan)
                broken.asked = True
                try:
                    yield there
                finally:
                    hook.remove()

        mixture = replace(model.mixture, positions=(model.mixture.positions[0], spoilt))
        for ask in (
            lambda: list(generate_answers(replace(model, mixture=mixture), PROMPTS, max_new_tokens=2)),
            lambda: list(score(replace(model, mixture=mixture), REQUESTS)),
        ):
            with pytest.raises(Exception, match=r"item \d+: the model gives (NaN|nan)"):
                ask()
    assert broken.asked
