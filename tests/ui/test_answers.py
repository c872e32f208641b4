"""Two answers of one model: each is that of its own position, however many pages ask at once."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import reference
import served_pages
from extsub import ExtSubError, Session, combine, save_adapter
from extsub.models.position import Position
from extsub.ui.answers import Answers, Pair
from listening import first_logits
from served_pages import NEW, QUESTION

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries
PROMPT = f"<|user|>\n{QUESTION}\n<|assistant|>\n"
POSITIONS = [Position("base"), Position("expert"), Position("anti-expert"), Position("ext-sub", 1.0)]
POSITIONS += [Position("subtract", 0.5), Position("ext-sub", 0.0)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return served_pages.models(tmp_path_factory.mktemp("answers"))


@pytest.fixture(scope="module")
def session(folder: Path) -> Session:
    return Session.open([folder / "expert", folder / "anti"], max_new_tokens=NEW)


@pytest.fixture
def heard(session: Session, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    return first_logits(session, monkeypatch)


def whole(pairs: Iterator[Pair]) -> Pair:
    return list(pairs)[-1]


def test_each_side_is_the_model_that_its_name_says(
    folder: Path, session: Session, heard: dict[str, Tensor], tmp_path: Path
) -> None:
    """By logits, against PEFT's own models: the base is the base, α = 0 the expert, a result as written."""
    answers = Answers(session)
    for left, right in zip(POSITIONS[::2], POSITIONS[1::2], strict=True):
        pair = whole(answers.pair(QUESTION, left, right))
        assert pair.left.whole
        assert pair.right.whole
    for operation, alpha in (("ext-sub", 1.0), ("subtract", 0.5)):
        combined = combine(folder / "expert", folder / "anti", operation=operation, alpha=alpha)
        save_adapter(combined, tmp_path / f"{operation}-{alpha:g}")
    made = {"base": None, "anti-expert": folder / "anti", **dict.fromkeys(("expert", "ext-sub-0"), folder / "expert")}
    made |= {name: tmp_path / name for name in ("ext-sub-1", "subtract-0.5")}
    assert heard.keys() == made.keys()
    for label, adapter in made.items():
        with reference.evaluated(folder / "base", adapter) as model:
            expected = model.logits(model.tokenizer(PROMPT)["input_ids"])[-1]
        torch.testing.assert_close(heard[label], expected, rtol=1e-4, atol=1e-4)
    names = [name for name in made if name != "ext-sub-0"]
    for place, name in enumerate(names):
        for other in names[:place]:
            assert (heard[name] - heard[other]).abs().max() > 0.1


def test_the_left_answer_comes_first_piece_by_piece(session: Session) -> None:
    pairs = list(Answers(session).pair(QUESTION, Position("expert"), Position("base")))
    begun = next(place for place, pair in enumerate(pairs) if pair.right.text)
    assert begun > 3
    assert all(pair.left.whole for pair in pairs[begun:])
    for before, after in itertools.pairwise(pairs):
        assert after.left.text.startswith(before.left.text)
    assert pairs[-1].left.note == f"stopped at {NEW} tokens"


def test_what_was_answered_is_not_generated_again(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(session)
    first = whole(answers.pair(QUESTION, Position("expert"), Position("base")))
    monkeypatch.setattr(session, "stream", None)
    assert whole(answers.pair(QUESTION, Position("base"), Position("expert"))) == first[::-1]


@pytest.fixture
def slowly(session: Session, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Answers take their time, and positions are noted before each piece."""
    seen: list[str] = []
    stream = session.stream

    class Slow:
        def __init__(self, *arguments: Any) -> None:
            self.reply = stream(*arguments)
            self.finished, self.shortened = False, False

        def __iter__(self) -> Iterator[str]:
            for piece in self.reply:
                time.sleep(0.01)
                seen.append(session.position.label)
                yield piece

        def close(self) -> None:
            self.reply.close()

    monkeypatch.setattr(session, "stream", Slow)
    return seen


def test_two_pages_do_not_turn_the_dial_under_one_another(session: Session, slowly: list[str]) -> None:
    """They ask at once, and each gets what it would get alone."""
    sides = {
        "one": (Position("expert"), Position("ext-sub", 2.0)),
        "two": (Position("base"), Position("contrast", 1.0)),
    }
    alone = {name: whole(Answers(session).pair(QUESTION, *each)) for name, each in sides.items()}
    slowly.clear()
    answers, said = Answers(session), {}
    together = threading.Barrier(2)

    def ask(name: str) -> None:
        together.wait()
        said[name] = whole(answers.pair(QUESTION, *sides[name], page=name))

    threads = [threading.Thread(target=ask, args=[name]) for name in sides]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == alone
    turns = [label for place, label in enumerate(slowly) if not place or slowly[place - 1] != label]
    assert len(turns) == 4, "each answer was made from its beginning to its end"


def test_a_page_that_asks_again_does_not_wait_for_its_last_answer(session: Session, slowly: list[str]) -> None:
    answers = Answers(session)
    first = answers.pair(QUESTION, Position("expert"), Position("base"), page="one")
    while not next(first).left.text:
        pass
    second: list[Pair] = []
    asking = threading.Thread(target=lambda: second.extend(answers.pair("What?", *POSITIONS[:2], page="one")))
    mine = answers._asking["one"]
    asking.start()
    while answers._asking["one"] is mine:
        time.sleep(0.01)
    assert not any(pair.left.whole or pair.right.text for pair in first)
    asking.join()
    assert second[-1].right.whole


def test_a_page_that_was_closed_leaves_the_model_to_others(session: Session) -> None:
    answers = Answers(session)
    abandoned = answers.pair(QUESTION, Position("expert"), Position("base"), page="one")
    while not next(abandoned).left.text:
        pass
    abandoned.close()
    assert whole(answers.pair(QUESTION, Position("expert"), Position("base"), page="two")).right.whole


def test_after_an_error_the_next_question_is_answered(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(session)
    with monkeypatch.context() as patched:
        patched.setattr(session, "max_new_tokens", 10_000)
        with pytest.raises(ExtSubError, match="lower --max-new-tokens"):
            list(answers.pair(QUESTION, Position("expert"), Position("base")))
    assert whole(answers.pair(QUESTION, Position("expert"), Position("base"))).right.whole
