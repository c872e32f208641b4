"""A kill before every single change of the disk: what random kills find now and then, these find always."""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from extsub.evaluation.store import Store

CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link", "os.symlink")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
MOST = 400

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def killed_before(change: int, work: Callable[[], object]) -> bool:
    """Do the work in a forked child, and kill it (SIGKILL) right before so many changes of the disk are done.

    Returns:
        whether it came so far; False where it was done before
    """
    return _killed(lambda: die_before(change), work)


def killed_after(rows: int, work: Callable[[], object]) -> bool:
    """The same, right after so many rows are saved in a store."""
    return _killed(lambda: _die_after(rows), work)


def _killed(prepare: Callable[[], object], work: Callable[[], object]) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 on threads of others, which the child does not need
        pid = os.fork()
    if not pid:
        try:
            prepare()
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


def die_before(change: int) -> None:
    """This process dies right before that change of the disk, the first being 0."""
    left = change

    def look() -> None:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    before_changes(look)


def _die_after(rows: int) -> None:
    add, left = Store.add, rows

    def dying(self: Store, identity: dict[str, Any], row: dict[str, Any]) -> None:
        nonlocal left
        add(self, identity, row)
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    Store.add = dying  # type: ignore[method-assign]  in a child that dies of it


def before_changes(look: Callable[[], None]) -> None:
    """Call it before every change of the disk that Python makes in this process, from here on."""

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event not in CHANGES or (event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITES)):
            return
        look()

    sys.addaudithook(hook)


def at_every_change(work: Callable[[], object], prepare: Callable[[], object], check: Callable[[], object]) -> int:
    """Prepare, kill the work before the first change, check; then before the second, and so on. Returns how many."""
    for change in range(MOST):
        prepare()
        if not killed_before(change, work):
            return change
        check()
    raise AssertionError("it never ends")
