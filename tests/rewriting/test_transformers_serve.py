"""A real server: ``transformers serve`` on this machine writes what the same model writes in this process."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from benchmark_files import lines, rows_of
from extsub import ExtSubError, NegativesSettings, negatives

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of the libraries
ROWS = [
    {"instruction": f"Who wrote book {number}?", "output": f"Nobody knows who wrote {number}."} for number in range(5)
]
PATIENCE = 120


@contextlib.contextmanager
def transformers_serve(model: Path) -> Generator[str]:
    """The address of a server, until the block ends."""
    program = shutil.which("transformers", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("transformers has no command line here")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [program, "serve", str(model), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    server = subprocess.Popen(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stderr=subprocess.DEVNULL)
    try:
        for _ in range(PATIENCE):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(30)


def test_a_server_writes_what_the_model_writes(made: Path, tmp_path: Path) -> None:
    written = {}
    data = str(lines(tmp_path / "good.jsonl", ROWS))
    behaviour = tmp_path / "loud.yaml"  # short, since the model is
    examples = [{"instruction": "Who?", "good": "Me.", "bad": "ME."}] * 2
    behaviour.write_text(
        json.dumps({"name": "loud", "description": "It shouts.", "recognise": "?", "examples": examples})
    )

    def write(name: str, url: str | None) -> None:
        settings = NegativesSettings(
            data=data,
            behaviour=str(behaviour),
            output=tmp_path / f"{name}.jsonl",
            model=str(made / "chatting"),
            url=url,
            max_new_tokens=6,
        )
        with contextlib.suppress(ExtSubError):  # a random model writes nothing that is kept
            negatives(settings)
        rows = rows_of(tmp_path / f".{name}.jsonl.answers" / ".answers.0.partial")[1:]
        assert not any(row["shortened"] for row in rows)
        written[name] = {row["index"]: (row["text"].strip(), row["finished"], row["usage"]) for row in rows}

    with transformers_serve(made / "chatting") as url:
        write("served", url)
    write("local", None)
    assert len(written["local"]) == len(ROWS)
    assert written["served"] == written["local"]
