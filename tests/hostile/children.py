"""Commands of extsub in forked children of one warm parent: what is imported already costs a child nothing."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from extsub import cli


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
        self.said, self.code, self.begun = said, None, time.perf_counter()
        said.unlink(missing_ok=True)
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            _become(words, folder, said, setup)

    @property
    def text(self) -> str:
        """what it said so far"""
        return self.said.read_text(encoding="utf-8", errors="replace")

    def send(self, number: signal.Signals) -> None:
        """A signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

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


def warm(commands: Sequence[tuple[Sequence[str], Path]], said: Path) -> None:
    """Import what these commands import, by looking at children that run them once."""
    names = said.with_suffix(".json")
    for words, folder in commands:

        def report() -> None:
            atexit.register(lambda: names.write_text(json.dumps(list(sys.modules))))

        child = run(words, folder, said, report)
        assert child.code == 0, f"{words}: {child.text}"
        for name in json.loads(names.read_text()):
            with contextlib.suppress(Exception):  # some exist only where they were made
                importlib.import_module(name)


def _become(words: Sequence[str], folder: Path, said: Path, setup: Callable[[], None] | None) -> None:
    code = 1
    try:
        stream = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        sys.stdout = os.fdopen(1, "w", 1, closefd=False)
        sys.stderr = os.fdopen(2, "w", 1, closefd=False)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the parent may ignore it
        os.chdir(folder)
        if setup:
            setup()
        cli.main([str(one) for one in words])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
