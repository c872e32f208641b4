"""Commands of extsub in forked children of one warm parent: what is imported already costs a child nothing."""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from extsub.__main__ import main


class Child:
    """A command in a process of its own, whose imports are done."""

    def __init__(self, words: Sequence[str], folder: Path, said: Path, setup: Callable[[], None] | None = None) -> None:
        """Start it.

        Args:
            words: the command and its arguments.
            folder: where it runs.
            said: gets its two streams.
            setup: is called first, in the child.
        """
        said.unlink(missing_ok=True)
        said.touch()
        sys.stdout.flush()
        self.said, self.code = said, None
        ready, beginning = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            _become(words, folder, said, beginning, setup)
        os.close(beginning)
        os.read(ready, 1)
        os.close(ready)
        self.begun = time.perf_counter()

    @property
    def text(self) -> str:
        """what it said so far"""
        return self.said.read_text(encoding="utf-8", errors="replace")

    def send(self, number: signal.Signals, after: float) -> bool:
        """A signal after so many seconds since the beginning. Returns whether it still ran."""
        while self.poll() is None and (left := self.begun + after - time.perf_counter()) > 0:
            time.sleep(min(left, 0.01))
        if self.poll() is None:
            os.kill(self.pid, number)
            return True
        return False

    def poll(self, options: int = os.WNOHANG) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, options)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self) -> int:
        """Until it ends."""
        code = self.poll(0)
        assert code is not None
        return code


def run(words: Sequence[str], folder: Path, said: Path, setup: Callable[[], None] | None = None) -> Child:
    """A command from its beginning to its end."""
    child = Child(words, folder, said, setup)
    child.wait()
    return child


def warm(words: Sequence[str], folder: Path, said: Path) -> None:
    """Import what a command imports, as a child that runs it once has found out."""
    names = said.with_suffix(".json")
    child = run(words, folder, said, lambda: atexit.register(lambda: names.write_text(json.dumps(list(sys.modules)))))
    if child.code != 0:
        raise SystemExit(f"{words}: {child.text}")
    for name in json.loads(names.read_text()):
        with contextlib.suppress(Exception):  # some exist only where they were made
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what children share stays shared


def _become(words: Sequence[str], folder: Path, said: Path, beginning: int, setup: Callable[[], None] | None) -> None:
    code = 1
    try:
        # Whoever started the parent may ignore them.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        stream = os.open(said, os.O_WRONLY)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, closefd=False) for number in (1, 2))
        os.chdir(folder)
        if setup:
            setup()
        os.close(beginning)
        main(list(words))
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()
            sys.stdout.flush()
        os._exit(code)
