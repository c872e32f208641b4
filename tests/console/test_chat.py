"""``extsub chat`` through a pipe and in a terminal, and ``extsub generate`` with one question, on small models."""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tiny_models
from benchmark_files import done, rows_of
from conftest import Command
from extsub.inference.generation import Finite
from killing import needs_fork

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries

CTRL_C, CTRL_D = "\x03", "\x04"
SAID = "日é🙂.\x1b[31m"


@pytest.fixture
def here(experts: Path, tmp_path: Path) -> Path:
    """A folder with adapters to talk to, and a model that recites."""
    for name in ("base", "expert", "anti"):
        (tmp_path / name).symlink_to(experts / name)
    tiny_models.reciting(tmp_path / "reciting", f" {SAID}")
    return tmp_path


@pytest.fixture
def piped(here: Path, extsub: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a command with a text, or bytes, in standard input."""

    def run(content: str | bytes, *words: object) -> Any:
        raw = content.encode() if isinstance(content, str) else content
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8"))
        return extsub(*words)

    return run


def test_a_pipe_gives_a_line_for_every_question(piped: Command) -> None:
    """What a model says is shown, and not obeyed."""
    ran = piped("Who?\n\n  /is this a question?\r\n/quit\nWho?\n", "chat", "--model", "reciting")
    assert done(ran) == "日é🙂.\\x1b[31m\n" * 2
    assert ran.stderr == ""


def test_json_is_a_line_for_every_answer(piped: Command) -> None:
    ran = piped("Who?\n/alpha 2\n/compare\nWhen?\n", *"chat expert anti --json -q --max-new-tokens 3".split())
    rows = [json.loads(row) for row in done(ran).splitlines()]
    assert [(row["question"], row["operation"], row["alpha"]) for row in rows] == [
        ("Who?", "ext-sub", 1.0),
        ("When?", "expert", None),
        ("When?", "ext-sub", 2.0),
    ]
    assert all(row["answer"] and not row["finished"] for row in rows)
    assert ran.stderr == ""
    plain = piped("/alpha 2\n/compare\nWho?\n", *"chat expert anti -q --max-new-tokens 3".split())
    assert [row.partition(": ")[0] for row in done(plain).splitlines()] == ["expert", "ext-sub α 2"]


def test_lines_that_fail_are_told_and_the_others_carried_out(piped: Command) -> None:
    ran = piped("/alpha x\n/foo\nWho?\n/save out\n", "chat", "--model", "reciting")
    assert ran.returncode == 2
    assert ran.stdout == "日é🙂.\\x1b[31m\n"
    assert ran.stderr.splitlines() == [
        "/alpha x: expected a number, or one for each anti-expert",
        "/foo is not a command: /help lists them; a question may begin with a space",
        "nothing to save: give an expert and an anti-expert, and their combination can be saved",
        "Error: 3 lines of the input could not be carried out, as said above",
    ]


def test_what_cannot_be_begun_is_refused(piped: Command, extsub: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for words, message in (
        ("chat", "no base model: give --model"),
        ("chat expert nowhere", "nowhere"),
        ("chat expert --prompt chat", "the tokenizer of this model has no chat template: use --prompt extsub"),
        ("chat expert --max-new-tokens 0", "--max-new-tokens 0: expected 1 or more"),
    ):
        ran = piped("Who?\n", *words.split())
        assert (ran.returncode, ran.stdout) == (2, "")
        assert message in ran.stderr
    ran = piped(b"Who?\n\xff?\n", "chat", "--model", "reciting")
    assert (ran.returncode, ran.stdout) == (2, "日é🙂.\\x1b[31m\n")
    assert ran.stderr == "Error: standard input, line 2: not UTF-8, so no question\n"
    monkeypatch.setattr(sys, "stdin", None)
    assert extsub("chat", "--model", "reciting").stderr == "Error: there is no standard input to read questions from\n"


def test_notes_say_what_a_user_should_know(piped: Command) -> None:
    ran = piped("Who?\nWho?\n", *"chat expert --prompt qa --max-new-tokens 1".split())
    assert (ran.returncode, ran.stderr.splitlines()) == (
        0,
        [
            "  note: --prompt qa asks one question at a time: what was said before is not seen",
            *["  note: the answer reached --max-new-tokens 1 and stopped there"] * 2,
        ],
    )


def test_a_full_context_is_said(piped: Command) -> None:
    ran = piped("Who wrote the book?\n" * 3, *"chat --model reciting --max-new-tokens 450".split())
    assert (ran.returncode, ran.stdout) == (0, "日é🙂.\\x1b[31m\n" * 3)
    assert ran.stderr == "  note: the context is full: the oldest 2 messages are forgotten\n"


@pytest.mark.parametrize("way", ["question", "dash", "pipe"])
def test_one_question_has_the_answer_that_a_file_of_prompts_gets(piped: Command, here: Path, way: str) -> None:
    question = "Who wrote the book?"
    Path("prompts.txt").write_text(question)
    asked = "generate --max-new-tokens 20 -q --json --adapter expert".split()
    done(piped("", *asked, "--prompts", "prompts.txt", "--output", "out.jsonl"))
    answer = rows_of(Path("out.jsonl"))[0]["answer"]
    given = {"question": [question], "dash": ["-"], "pipe": []}[way]
    ran = piped(f"{question}\n", *asked, *given)
    record = json.loads(done(ran))
    assert record["answer"] == answer
    assert (record["question"], record["prompt"], record["finished"]) == (question, "extsub", False)
    assert record["notes"] == [
        "expert: nothing says which template it was trained with: asked with --prompt extsub",
        "the answer reached --max-new-tokens 20 and stopped there",
    ]
    assert len({path.name for path in here.iterdir()} - {"prompts.txt", "out.jsonl"}) == 4


def test_an_answer_is_printed_as_data(piped: Command) -> None:
    ran = piped("", *"generate --model reciting".split(), "Who?")
    assert done(ran) == "日é🙂.\\x1b[31m\n"
    assert ran.stderr == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--prompts p.txt", "--prompts and --output belong together"),
        ("--output o.jsonl", "--prompts and --output belong together"),
        ("--adapter lora more --prompts p.txt --output o.jsonl", "a file of prompts, and this is one question, 'more'"),
        ("Who? --batch-size 2", "--batch-size is for a file of prompts"),
        ("Who? --overwrite", "--overwrite is for a file of prompts"),
        ("Who? --field prompt=question", "--field is for a file of prompts"),
        ("", "the question is empty"),
        ("-", "the question is empty"),
        ("Who? --adapter expert --adapter anti", "generate asks one adapter at a time"),
    ],
)
def test_combinations_that_make_no_sense_are_refused(piped: Command, words: str, message: str) -> None:
    Path("p.txt").write_text("Who?\n")
    ran = piped(" \n", "generate", "--model", "reciting", *words.split())
    assert (ran.returncode, ran.stdout) == (2, "")
    assert message in ran.stderr
    assert not Path("o.jsonl").exists()


class Terminal:
    """A command in a terminal of its own, in a forked child."""

    def __init__(self, columns: int, *words: str) -> None:
        import fcntl
        import pty
        import struct
        import termios

        self.shown, self._fresh = "", ""
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self.pid, self._fd = pty.fork()
        if not self.pid:
            try:
                fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
                sys.stdin, sys.stdout, sys.stderr = map(os.fdopen, (0, 1, 2), "rww")
                os.environ |= {"TERM": "xterm", "COLUMNS": str(columns)}  # rich may know other streams, of pytest-xdist
                from extsub.__main__ import main

                main([*words])
            except SystemExit as error:
                os._exit(int(error.code or 0))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)

    def wait(self, text: str) -> str:
        """What is shown until then."""
        ends = time.monotonic() + 60
        while text not in self._fresh:
            assert time.monotonic() < ends, self.shown
            assert self._read(1), self.shown
        seen, _, self._fresh = self._fresh.partition(text)
        return seen

    def send(self, text: str) -> None:
        """Type it."""
        os.write(self._fd, text.encode())

    def enter(self, line: str) -> None:
        """Type a line, and wait until the terminal shows it."""
        self.send(f"{line}\n")
        self.wait(f"{line}\r\n")

    def code(self, key: str = "") -> int:
        """The exit status, once it has ended; ``key`` is pressed every ten seconds until then, since one that comes
        between an answer and the reading of the next line is lost."""
        begun = pressed = time.monotonic()
        while self._read(1):
            now = time.monotonic()
            assert now < begun + 120, self.shown
            if now > pressed + 10:
                pressed = now
                with contextlib.suppress(OSError):  # it has just ended
                    self.send(key)
        os.close(self._fd)
        pid, self.pid = self.pid, 0
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def end(self) -> None:
        """Kill it if it has not ended."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            self.code()

    def _read(self, seconds: float) -> bool:
        if not select.select([self._fd], [], [], seconds)[0]:
            return True
        try:
            raw = os.read(self._fd, 1 << 16)
        except OSError:  # the other end is closed
            return False
        new = self._decode(raw)
        self.shown += new
        self._fresh += new
        return bool(raw)


@pytest.fixture
def opened(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Terminal]]:
    """Opens terminals, and ends what is left of them."""
    terminals: list[Terminal] = []
    monkeypatch.chdir(here)

    def open_(columns: int, *words: str) -> Terminal:
        terminals.append(Terminal(columns, *words))
        return terminals[-1]

    yield open_
    for terminal in terminals:
        terminal.end()


@needs_fork
def test_a_session_in_a_terminal(opened: Callable[..., Terminal]) -> None:
    terminal = opened(80, "chat", "expert", "anti", "--max-new-tokens", "4")
    begun = terminal.wait("ext-sub α 1 > ")
    assert "base with expert and anti, asked with --prompt extsub\r\n/help lists what can be typed" in begun
    terminal.enter("Who?")
    answer = terminal.wait("ext-sub α 1 > ").split("\r\n")
    assert answer[0]
    assert answer[-2] == "  note: the answer reached --max-new-tokens 4 and stopped there"
    terminal.enter("/alpha 1.5")
    terminal.wait("ext-sub α 1.5 > ")
    terminal.enter("/alpha 1,5")
    assert terminal.wait("ext-sub α 1.5 > ").startswith("/alpha 1,5: expected a number")
    terminal.enter("/quit")
    assert terminal.code() == 0


@needs_fork
@pytest.mark.parametrize(("columns", "is_beside"), [(120, True), (80, False)])
def test_two_answers_stand_beside_one_another_where_there_is_room(
    opened: Callable[..., Terminal], columns: int, is_beside: bool
) -> None:
    terminal = opened(columns, "chat", "expert", "anti", "--max-new-tokens", "4", "-q")
    terminal.wait("ext-sub α 1 > ")
    terminal.enter("/compare")
    terminal.wait("ext-sub α 1 > ")
    terminal.enter("Who?")
    terminal.wait("\x1b[?25h")  # both are there, and the cursor is shown again
    shown = terminal.wait("ext-sub α 1 > ")
    first = next(row for row in shown.split("\r\n") if "expert" in row)
    assert ("ext-sub α 1" in first) == is_beside
    assert "\x1b[4m" in shown  # some word differs
    terminal.send(CTRL_D)
    assert terminal.code() == 0


@needs_fork
def test_ctrl_c_stops_an_answer_and_at_the_prompt_the_chat(
    opened: Callable[..., Terminal], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Finite.__call__
    monkeypatch.setattr(Finite, "__call__", lambda *them: (time.sleep(0.05), asked(*them))[1])
    terminal = opened(80, "chat", "expert", "anti", "--max-new-tokens", "400", "-q")
    terminal.wait("ext-sub α 1 > ")
    terminal.enter("Who wrote the book?")
    time.sleep(0.5)
    terminal.send(CTRL_C)
    assert terminal.wait("ext-sub α 1 > ").endswith("\r\nstopped\r\n")
    terminal.send(CTRL_C)
    assert terminal.code(CTRL_C) == 0
