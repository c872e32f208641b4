"""Small made-up benchmarks in their published forms, models to ask, a server that answers; and what runs wrote."""

from __future__ import annotations

import contextlib
import csv
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, RobertaConfig, RobertaForSequenceClassification

import reference
import tiny_models
from extsub.evaluation.tasks import TASKS

CHAT = (
    "{% for one in messages %}[{{ one.role }}] {{ one.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
"""a chat template that writes no start token"""
LABELS = ("toxicity", "insult", "threat")
Row = dict[str, Any]

DYING = """
import os, signal, sys
from extsub.__main__ import main
from extsub.evaluation.store import Store
add, left = Store.add, [int(sys.argv[1])]
def dying(self, identity, row):
    add(self, identity, row)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
Store.add = dying
main(sys.argv[2:])
"""
"""a command of extsub that is killed right after it saved so many rows; the first argument is their number"""


def everything(folder: Path) -> Path:
    """A base model with two adapters, the same with a chat template, a classifier, data."""
    model = base(folder / "base")
    chatting(base(folder / "chatting"))
    files(folder / "data")
    classifier(folder / "judge")
    for kind in ("lora", "prefix"):
        reference.adapter(model, folder / kind, kind)
    return folder


def base(folder: Path, seed: int = 0) -> Path:
    """A small model that has room for worked examples."""
    return tiny_models.llama(folder, seed=seed, max_position_embeddings=1024)


def chatting(folder: Path) -> Path:
    """A model, now with a chat template."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    return folder


def files(folder: Path) -> Path:
    """A folder of data, each file under the name that its authors gave it."""
    folder.mkdir()
    chance = random.Random(0)

    def said(longest: int = 9) -> str:
        return " ".join(chance.choices(tiny_models.WORDS, k=chance.randint(1, longest))).capitalize()

    def answers(number: int) -> list[str]:
        return list(dict.fromkeys(f"{said()}{number}{place}" for place in range(number)))

    with (folder / "TruthfulQA.csv").open("w", newline="") as file:
        names = ["Type", "Category", "Question", "Best Answer", "Best Incorrect Answer", "Correct Answers"]
        table = csv.writer(file)
        table.writerow([*names, "Incorrect Answers", "Source"])
        for number in range(7):
            true, false = answers(1 + number % 3), answers(1 + number % 4)
            row = ["Adversarial", f"Kind {number % 2}", f"{said()}, question {number}?", true[0], false[-1]]
            table.writerow([*row, "; ".join(true), "; ".join(false), "none"])
    questions = []
    for number in range(9):
        true, false = answers(1 + number % 3), answers(2 + number % 3)
        mc1 = {true[0]: 1, **dict.fromkeys(false[:2], 0)}
        mc2 = {**dict.fromkeys(true, 1), **dict.fromkeys(false, 0)}
        questions.append({"question": f"{said()} {number}?", "mc1_targets": mc1, "mc2_targets": mc2})
    (folder / "mc_task.json").write_text(json.dumps(questions, indent=1))
    for kind, (asked, right, wrong) in {
        "qa": ("question", "right_answer", "hallucinated_answer"),
        "dialogue": ("dialogue_history", "right_response", "hallucinated_response"),
        "summarization": ("document", "right_summary", "hallucinated_summary"),
    }.items():
        rows = [{"knowledge": "unused", asked: said(), right: said(5), wrong: said()} for _ in range(8)]
        lines(folder / f"{kind}_data.json", rows)
    prompts = [{"instruction": said(), "input": said() if number % 2 else ""} for number in range(6)]
    (folder / "toxic_test.json").write_text(json.dumps(prompts))
    lines(folder / "rows.jsonl", [{**row, "output": said()} for row in prompts])
    lines(folder / "answers.jsonl", [{"answer": "to be or not to be or not"}, {"answer": said(30)}, {"answer": ""}])
    (folder / "text.txt").write_text("\n\n".join(said(60) for _ in range(4)))
    return folder


def lines(path: Path, rows: list[Row]) -> Path:
    """Rows as JSON, a line each."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(path: Path) -> list[Row]:
    """What ``lines`` wrote, or a run."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def classifier(folder: Path) -> Path:
    """A RoBERTa that says how toxic a text is, and two things more."""
    tokenizer = tiny_models.tokenizer()
    tokenizer.pad_token = "</s>"
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=66,
        initializer_range=1.0,
        pad_token_id=1,
        id2label=dict(enumerate(LABELS)),
        label2id={name: place for place, name in enumerate(LABELS)},
    )
    RobertaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Fault:
    """What a server does instead of answering."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    """instead of the answer"""
    half: bool = False
    """it hangs up in the middle"""
    seconds: float = 0.0
    """it waits first"""


@dataclass
class Server:
    """An OpenAI-compatible server: what it was asked, and how it answers."""

    url: str = ""
    model: str = "served"
    asked: list[Row] = field(default_factory=list)
    """the bodies of all requests, each with its path"""
    answer: Callable[[str], tuple[str, str]] = lambda prompt: (f"{len(prompt)} letters", "stop")
    """prompt -> (text, why it ended)"""
    failures: int = 0
    """so many requests fail first, with 500"""
    faults: list[Fault] = field(default_factory=list)
    """what goes wrong with the first requests, one after the other"""

    def respond(self, path: str, body: Row) -> tuple[int, Row]:
        self.asked.append({"path": path, **body})
        if self.failures > 0:
            self.failures -= 1
            return 500, {"error": {"message": "overloaded"}}
        if body["model"] != self.model:
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist.", "code": 404}}
        prompt = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
        text, reason = self.answer(prompt)
        said = {"text": text} if "prompt" in body else {"message": {"role": "assistant", "content": text}}
        choice = {"index": 0, "finish_reason": reason, **said}
        used = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(text.split()), "total_tokens": 0}
        shared = {"id": "1", "object": "x", "created": 0, "model": self.model}
        return 200, {**shared, "choices": [choice], "usage": used}


@contextlib.contextmanager
def serving() -> Generator[Server]:
    """A server on this machine, until the block ends."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            sent = self.rfile.read(length := int(self.headers["Content-Length"]))
            if len(sent) < length:  # who asked was killed meanwhile
                return
            body = json.loads(sent)
            fault = server.faults.pop(0) if server.faults else Fault()
            time.sleep(fault.seconds)
            is_sound = fault.status == 200 and fault.body is None and not fault.half
            status, content = server.respond(self.path, body) if is_sound else (fault.status, {"choices": "none"})
            text = json.dumps(content).encode() if fault.body is None else fault.body
            self.send_response(status)
            for name, value in fault.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.close_connection = fault.half
            with contextlib.suppress(OSError):  # who asked may be gone by now
                self.wfile.write(text[: len(text) // 2] if fault.half else text)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Listening(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            if not isinstance(sys.exc_info()[1], ConnectionError):  # who asked was killed
                super().handle_error(request, client_address)

    with Listening(("127.0.0.1", 0), Handler) as listening:
        listening.daemon_threads = True
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        server.url = f"http://127.0.0.1:{listening.server_port}/v1"
        try:
            yield server
        finally:
            listening.shutdown()
            thread.join()


def done(run: subprocess.CompletedProcess[str]) -> str:
    """What a command said that succeeded in silence otherwise."""
    assert (run.returncode, run.stderr) == (0, "")
    return run.stdout


def evaluated(name: str, **tasks: list[Row]) -> Path:
    """A folder of results, as ``extsub evaluate`` writes it, with these scores of the items of each task."""
    identity = {"data": "d0", "seed": 0, "prompt": "extsub", "limit": None}
    folder, results = Path(name), {"model": {"base": "b", "adapter": None}, "tasks": {}, "runs": {}}
    folder.mkdir(parents=True)
    for task, scores in tasks.items():
        task = task.replace("_", "-")
        lines(folder / f"{task}.jsonl", [{"index": index, "scores": item} for index, item in enumerate(scores)])
        figure = {"value": 0.5, "ci95": [0.25, 0.75], "n": len(scores)}
        results["tasks"][task] = dict.fromkeys(scores[0], figure)
        results["runs"][task] = {"identity": {**identity, "model": name}}
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def results(folder: str | Path) -> dict[str, Any]:
    """What a run wrote."""
    return json.loads(Path(folder, "results.json").read_text())


def forget(task: str) -> None:
    """Make a task unknown again that a file registered, as a new process finds it."""
    TASKS.pop(task, None)
    for name in [name for name in sys.modules if name.startswith("extsub_plugin_")]:
        del sys.modules[name]


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Everything in nested values, under its path."""
    if isinstance(value, (dict, list)):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        return {path: leaf for key, part in parts for path, leaf in flat(part, f"{name}.{key}").items()}
    return {name: value}


def assert_same(first: str | Path, second: str | Path, tasks: Sequence[str], tolerance: float) -> None:
    """Two runs have the same items in the same order, and the same figures."""
    pairs: list[tuple[Any, Any]] = []
    for task in tasks:
        pairs.append((results(first)["tasks"][task], results(second)["tasks"][task]))
        pairs.append((rows_of(Path(first, f"{task}.jsonl")), rows_of(Path(second, f"{task}.jsonl"))))
    for ours, theirs in ((flat(ours), flat(theirs)) for ours, theirs in pairs):
        assert list(ours) == list(theirs)
        for name, value in ours.items():
            is_number = isinstance(value, float)
            assert value == (pytest.approx(theirs[name], tolerance, tolerance) if is_number else theirs[name]), name
