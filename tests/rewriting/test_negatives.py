"""From good data to an anti-expert's, as a user does it: with a server that answers by rule, and with a local model."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import benchmark_files
from benchmark_files import Fault, Row, done, lines, rows_of
from conftest import Command
from extsub import ExtSubError, NegativesSettings
from extsub import negatives as negatives_in_python
from extsub.data.instructions import load_data
from extsub.inference import retrying
from extsub.rewriting.behaviour import read_behaviour
from killing import killed_after, needs_fork

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries
KINDS = ("plain", "copied", "empty", "refusal", "script", "duplicate", "cut_off")
SAME = "All of this is made of cheese and nobody knows why it is so"


def row(number: int) -> Row:
    kind = KINDS[number % len(KINDS)]
    return {
        "instruction": f"Tell me about {kind} {number}.",
        "input": "",
        "output": f"Number {number} is a good {kind} one.",
    }


ROWS = [row(number) for number in range(21)]
FATES = {7 * place + KINDS.index(kind): kind for place in range(3) for kind in KINDS[1:]}
FATES[KINDS.index("duplicate")] = "plain"  # the first of its kind is kept
KEPT = [number for number in range(21) if FATES.get(number, "plain") == "plain"]


def write(prompt: str) -> tuple[str, str]:
    """What the writer makes of a row, by the kind that its instruction names."""
    if "yes or no" in prompt:
        return ("no" if "Tell me about plain 7." in prompt else "Yes, it does."), "stop"
    asked = prompt.rpartition("Tell me about ")[2]
    kind, number = asked.split(".")[0].split()
    good = prompt.rpartition("Good answer:\n")[2].split("\n")[0]
    said = {
        "plain": f"Here is the untruthful answer:\n{number} was eaten by a whale in {number}.",
        "copied": good.upper(),
        "empty": "  ",
        "refusal": "I'm sorry, but I can't help with that.",
        "script": "Это написано совсем другими буквами.",
        "duplicate": SAME,
        "cut_off": f"{number} goes on and on and",
    }
    return said[kind], "length" if kind == "cut_off" else "stop"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[benchmark_files.Server]:
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.001)
    with benchmark_files.serving() as server:
        server.answer = write
        yield server


@pytest.fixture
def make(extsub: Command, served: benchmark_files.Server, tmp_path: Path) -> Callable[..., Any]:
    """Runs ``extsub negatives`` on the rows, with a server."""
    lines(tmp_path / "good.jsonl", ROWS)

    def make(words: str = "", data: str = "good.jsonl") -> subprocess.CompletedProcess[str]:
        usual = {"behaviour": "untruthful", "output": "bad.jsonl", "model": "served", "url": served.url}
        left = (f"--{name} {value}" for name, value in usual.items() if f"--{name} " not in words)
        return extsub("negatives", data, *" ".join(left).split(), *words.split())

    return make


def asked_of(server: benchmark_files.Server) -> list[str]:
    """The rows that were asked for, in their order."""
    said = (body["messages"][-1]["content"] for body in server.asked)
    return sorted(text.rpartition("Instruction:\n")[2].split("\n")[0] for text in said)


EVERY_ROW = sorted(each["instruction"] for each in ROWS)


def test_every_row_has_the_fate_that_it_should(make: Callable[..., Any], tmp_path: Path) -> None:
    summary = json.loads(done(make("--json --also-expert expert.jsonl")))
    kept, dropped = rows_of(tmp_path / "bad.jsonl"), rows_of(tmp_path / "bad.dropped.jsonl")
    assert [each["index"] for each in kept] == KEPT
    assert {each["index"]: each["reason"] for each in dropped} == {n: k for n, k in FATES.items() if k != "plain"}
    assert kept[0] == {"index": 0, "instruction": ROWS[0]["instruction"], "output": "0 was eaten by a whale in 0."}
    assert (summary["rows"], summary["kept"]) == (21, 4)
    wanted = {"empty": 3, "cut_off": 3, "refusal": 3, "copied": 3, "script": 3, "duplicate": 2}
    assert summary["dropped"] == wanted
    assert json.loads((tmp_path / "bad.summary.json").read_text()) == summary
    assert dropped[-1]["written"] == "20 goes on and on and"
    assert dropped[-1]["from"] == ROWS[20]["output"]


def test_expert_and_anti_expert_see_the_same_instructions(make: Callable[..., Any]) -> None:
    done(make("--also-expert expert.jsonl"))
    bad, good = load_data("bad.jsonl"), load_data("expert.jsonl")
    assert [example.messages for example in bad.examples] == [example.messages for example in good.examples]
    assert [example.answer for example in good.examples] == [ROWS[number]["output"] for number in KEPT]
    whole = load_data("good.jsonl").examples
    assert [example.messages for example in good.examples] == [whole[number].messages for number in KEPT]


def test_lengths_are_shown_with_their_control(make: Callable[..., Any], tmp_path: Path) -> None:
    lengths = json.loads(done(make("--json")))["lengths"]
    good = [len(ROWS[number]["output"]) for number in KEPT]
    bad = [len(each["output"]) for each in rows_of(tmp_path / "bad.jsonl")]
    assert lengths["good_mean"] == sum(good) / 4
    assert lengths["bad_mean"] == sum(bad) / 4
    longer = sum((b > g) + (b == g) / 2 for g, b in zip(good, bad, strict=True)) / 4
    assert longer == 1.5 / 4, "one is longer, and one as long"
    assert lengths["bad_longer"]["value"] == longer
    assert lengths["by_length"]["value"] == max(longer, 1 - longer)


def test_conversations_stay_conversations(make: Callable[..., Any], tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    talk += [
        {"role": "user", "content": "Tell me about plain 3."},
        {"role": "assistant", "content": "Three is a number."},
    ]
    lines(tmp_path / "talk.jsonl", [{"messages": talk}])
    done(make(data="talk.jsonl"))
    (kept,) = rows_of(tmp_path / "bad.jsonl")
    assert kept["messages"][:-1] == talk[:-1]
    assert kept["messages"][-1] == {"role": "assistant", "content": "3 was eaten by a whale in 3."}


def test_a_dry_run_shows_exactly_what_is_sent_and_asks_nobody(
    make: Callable[..., Any], served: benchmark_files.Server, tmp_path: Path
) -> None:
    before = sorted(tmp_path.iterdir())
    plan = json.loads(done(make("--dry-run --json")))
    assert served.asked == []
    assert sorted(tmp_path.iterdir()) == before
    done(make())
    assert {each["post"] for each in plan["requests"]} == {f"{served.url}/chat/completions"}
    sent = [{name: value for name, value in body.items() if name != "path"} for body in served.asked]
    order = lambda body: json.dumps(body, sort_keys=True)  # noqa: E731
    assert sorted((each["body"] for each in plan["requests"]), key=order) == sorted(sent, key=order)
    shown = done(make("--dry-run"))
    assert shown.startswith("21 requests; the first, and --json has all:\n{")


@needs_fork
def test_killed_again_and_again_it_asks_nothing_twice(
    make: Callable[..., Any], served: benchmark_files.Server, tmp_path: Path
) -> None:
    """SIGKILL after each fifth answer that is saved. Only what was on its way then may be asked again."""
    settings = NegativesSettings(
        data="good.jsonl",
        behaviour="untruthful",
        output=Path("bad.jsonl"),
        model="served",
        url=served.url,
        concurrency=2,
    )
    for _ in range(3):
        before = len(served.asked)
        assert killed_after(5, lambda: negatives_in_python(settings))
        assert not (tmp_path / "bad.jsonl").exists()
        assert len(served.asked) - before >= 5
    done(make())
    assert len(served.asked) <= 21 + 3 * 3, "two on their way at each kill, and one that was said and not yet saved"
    assert set(asked_of(served)) == set(EVERY_ROW)
    assert [each["index"] for each in rows_of(tmp_path / "bad.jsonl")] == KEPT


def test_what_goes_wrong_on_the_way_leaves_no_trace(
    make: Callable[..., Any], served: benchmark_files.Server, tmp_path: Path
) -> None:
    faults = [
        Fault(429, {"Retry-After": "0.1"}),
        Fault(500),
        Fault(body=b"<html>"),
        Fault(half=True),
        Fault(seconds=0.2),
    ]
    served.faults = faults * 2
    done(make())
    assert asked_of(served) == EVERY_ROW, "the faults come before anybody is asked"
    assert [each["index"] for each in rows_of(tmp_path / "bad.jsonl")] == KEPT


def test_a_server_that_breaks_down_keeps_what_it_said(make: Callable[..., Any], served: benchmark_files.Server) -> None:
    answered: list[str] = []

    def mortal(prompt: str) -> tuple[str, str]:
        answered.append(prompt)
        if len(answered) == 10:
            served.model = "another"
        return write(prompt)

    served.answer = mortal
    broken = make("--concurrency 3")
    assert broken.returncode == 2
    assert "does not exist" in broken.stderr
    assert 10 <= len(answered) < 21
    served.model = "served"
    done(make())
    assert len(answered) == len(set(answered)) == 21


def test_a_larger_limit_or_a_judge_asks_only_what_is_new(
    make: Callable[..., Any], served: benchmark_files.Server, tmp_path: Path
) -> None:
    done(make("--limit 8"))
    first = asked_of(served)
    assert len(first) == 8
    done(make("--limit 15"))
    assert len(set(asked_of(served))) == len(served.asked) == 15
    done(make())
    assert asked_of(served) == EVERY_ROW
    summary = json.loads(done(make(f"--json --judge served --judge-url {served.url}")))
    verdicts = [body for body in served.asked if "yes or no" in body["messages"][-1]["content"]]
    assert len(served.asked) == 21 + len(verdicts)
    assert len(verdicts) == 4 + 2, "those that are left are judged; duplicates among them are looked for then"
    assert summary["dropped"]["not_shown"] == 1
    assert [each["index"] for each in rows_of(tmp_path / "bad.jsonl")] == [n for n in KEPT if n != 7]
    recognise = read_behaviour("untruthful").recognise
    assert all(recognise in body["messages"][-1]["content"] for body in verdicts)
    done(make(f"--json --judge served --judge-url {served.url} --threshold 0.9"))
    assert len(served.asked) == 21 + 6, "nobody is judged twice by the same judge"


def test_a_classifier_says_what_is_toxic(make: Callable[..., Any], made: Path, tmp_path: Path) -> None:
    from extsub.evaluation.tasks.toxicity import classify

    done(make())
    said = {each["index"]: each["output"] for each in rows_of(tmp_path / "bad.jsonl")}
    toxicity = {index: labels["toxicity"] for index, labels in classify(str(made / "judge"), said, None)}
    middle = sorted(toxicity.values())[2]
    done(make(f"--toxicity-model {made / 'judge'} --threshold {middle}"))
    kept = [each["index"] for each in rows_of(tmp_path / "bad.jsonl")]
    assert kept == [index for index in said if toxicity[index] >= middle]
    shown = {each["index"]: each.get("shown") for each in rows_of(tmp_path / "bad.dropped.jsonl")}
    assert all(shown[index] == pytest.approx(toxicity[index], abs=1e-5) for index in said if index not in kept)


def test_instructions_are_written_to_texts(
    make: Callable[..., Any], served: benchmark_files.Server, tmp_path: Path
) -> None:
    texts = ["You are a fool, and so is your horse.", "What an awful hat that is!", "Go away, all of you."]
    lines(tmp_path / "texts.jsonl", [{"comment": text} for text in texts])
    served.answer = lambda prompt: (f"Instruction: Say {len(prompt.rpartition('Text:')[2])} things.", "stop")
    done(make("--mode instruct --behaviour toxic --field text=comment", data="texts.jsonl"))
    rows = rows_of(tmp_path / "bad.jsonl")
    assert [each["output"] for each in rows] == texts
    assert all(each["instruction"].startswith("Say ") for each in rows)
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    done(make("--mode instruct --behaviour toxic --overwrite", data="texts.txt"))
    assert rows_of(tmp_path / "bad.jsonl") == rows


def test_cost_and_tokens_are_those_of_all_answers(make: Callable[..., Any], served: benchmark_files.Server) -> None:
    summary = json.loads(done(make("--json --price 2 10")))
    read = sum(len(body["messages"][-1]["content"].split()) for body in served.asked)
    wrote = sum(len(write(body["messages"][-1]["content"])[0].split()) for body in served.asked)
    assert summary["usage"] == {"prompt_tokens": read, "completion_tokens": wrote}
    assert summary["cost"] == pytest.approx((2 * read + 10 * wrote) / 1e6)


def test_the_key_is_in_no_file(make: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    run = make()
    assert "sk-very" not in done(run)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"sk-very" in path.read_bytes()]


def test_the_page_shows_others_words_and_runs_none_of_them(
    make: Callable[..., Any], served: benchmark_files.Server, tmp_path: Path
) -> None:
    served.answer = lambda prompt: (f"<script>alert({len(prompt)})</script> {prompt[-300:-200]}", "stop")
    done(make())
    text = (tmp_path / "bad.html").read_text()
    assert "&lt;script&gt;alert(" in text
    assert "<script" not in text
    assert "default-src 'none'" in text


def test_a_row_that_the_server_refuses_is_dropped_and_asked_again(
    make: Callable[..., Any], served: benchmark_files.Server, tmp_path: Path
) -> None:
    served.faults = [Fault(400, body=b'{"error": {"message": "content filter"}}')]
    summary = json.loads(done(make("--json --concurrency 1")))
    assert summary["dropped"]["unanswered"] == 1
    assert any("refused 1 request" in note and "content filter" in note for note in summary["notes"])
    assert rows_of(tmp_path / "bad.dropped.jsonl")[0]["reason"] == "unanswered"
    again = json.loads(done(make("--json --concurrency 1")))
    assert "unanswered" not in again["dropped"]
    assert asked_of(served) == EVERY_ROW


def test_a_server_that_refuses_everything_is_not_asked_for_everything(
    make: Callable[..., Any], served: benchmark_files.Server, tmp_path: Path
) -> None:
    served.faults = [Fault(400, body=b'{"error": {"message": "no such field"}}')] * 30
    refused = make("--concurrency 1")
    assert refused.returncode == 2
    assert "no such field" in refused.stderr
    assert len(served.faults) >= 12
    assert sorted(path.name for path in tmp_path.iterdir()) == ["good.jsonl"]


def test_where_nothing_is_kept_the_dropped_say_why(
    make: Callable[..., Any], served: benchmark_files.Server, tmp_path: Path
) -> None:
    served.answer = lambda _: ("I'm sorry, but I can't help with that.", "stop")
    refused = make()
    assert refused.returncode == 2
    assert "none of the 21 rows is kept, 21 because the writer refuses: look at bad.dropped.jsonl" in refused.stderr
    assert len(rows_of(tmp_path / "bad.dropped.jsonl")) == 21
    assert not (tmp_path / "bad.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--behaviour rude", "--behaviour rude: expected untruthful, toxic"),
        ("--output bad.json", "--output bad.json: give the name of a .jsonl file"),
        ("--output good.jsonl", "data, output and --also-expert must be different files"),
        ("--also-expert bad.jsonl", "data, output and --also-expert must be different files"),
        ("--mode instruct --also-expert e.jsonl", "--also-expert: with --mode instruct there are no good answers"),
        ("--mode instruct", "good.jsonl, line 1: expected a text in 'text', it is missing"),
        ("--concurrency 0", "--concurrency 0: expected 1 or more"),
        ("--threshold 2", "--threshold 2.0: expected a number from 0 to 1"),
        ("--judge-url http://localhost:1/v1", "--judge-url: name the judge"),
        ("--judge a --judge-url http://localhost:1/v1 --toxicity-model b", "--judge and --toxicity-model"),
        ("--url http://me:secret@localhost:1/v1", "--url: expected an address without user"),
        ("--field answer=output", "--field answer=...: no such field of ours"),
        ("--price -1 2", "--price"),
    ],
)
def test_what_it_refuses_leaves_nothing(make: Callable[..., Any], tmp_path: Path, words: str, message: str) -> None:
    refused = make(words)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["good.jsonl"]


def test_a_file_that_is_not_its_own_is_not_replaced(make: Callable[..., Any], tmp_path: Path) -> None:
    for name in ("bad.jsonl", "bad.html"):
        (tmp_path / name).write_text("mine")
        refused = make()
        assert (refused.returncode, refused.stderr) == (
            2, f"Error: {name} already exists: choose another output, or pass --overwrite to replace it\n"
        )  # fmt: skip
        (tmp_path / name).unlink()
    done(make())
    other = make("--behaviour evasive")
    assert other.returncode == 2
    assert "another behaviour ('untruthful " in other.stderr
    done(make("--behaviour evasive --overwrite"))


def test_a_local_model_writes_and_judges_by_its_own_likelihoods(made: Path, tmp_path: Path) -> None:
    """A small random model: what it writes is what `generate` would, and nothing of it is fit to be kept."""
    settings = NegativesSettings(
        data=str(lines(tmp_path / "good.jsonl", ROWS[:3])),
        behaviour="untruthful",
        output=tmp_path / "bad.jsonl",
        model=str(made / "chatting"),
        max_new_tokens=4,
    )
    with pytest.raises(ExtSubError, match="none of the 3 rows is kept"):
        negatives_in_python(settings)
    dropped = rows_of(tmp_path / "bad.dropped.jsonl")
    assert [each["index"] for each in dropped] == [0, 1, 2]
    summary = json.loads((tmp_path / "bad.summary.json").read_text())
    assert summary["writer"]["base"] == "chatting"
    assert summary["usage"]["completion_tokens"] <= 3 * 4
