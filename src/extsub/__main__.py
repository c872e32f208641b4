"""The program: what a command ends with, whatever happens. ``extsub`` and ``python -m extsub`` begin here.

Nothing is imported before the signals are in hand, so that Ctrl-C during the imports is a sentence too.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import signal
import sys
import threading
from typing import NoReturn

from extsub.errors import STOPPED, ExtSubError, PrintError, Terminated

PLAIN = {
    "α": "alpha",
    "β": "beta",
    "−": "-",
    "×": "x",
    "±": "+-",
    "≤": "<=",
    "≥": ">=",
    "→": "->",
    "…": "...",
    "²": "^2",
    "·": "*",
    "√": "sqrt",
    "ê": "e",
}
"""What a terminal without Unicode gets for our own signs."""
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals that tell a process to stop; Windows has no SIGHUP."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command and exit.

    Exit codes: 0 done; 2 something the user can fix, in one sentence, with nothing written; 1 a bug, with its
    traceback; 130 interrupted, 143 terminated (128 + the signal).
    """
    try:
        _receive_signals()
        _print_what_streams_can_hold()
        from extsub.cli import run_command
        from extsub.files.disk import full_disk_explained
        from extsub.files.writing import forget_written

        forget_written()
        with full_disk_explained():
            run_command(sys.argv[1:] if arguments is None else arguments)
    except ExtSubError as error:
        _fail(str(error), 2)
    except KeyboardInterrupt as error:
        _fail(f"interrupted; {_kept(error)}", 130)
    except Terminated as error:
        _fail(f"terminated; {_kept(error)}", 128 + error.signum)
    except SystemExit as error:
        if not isinstance(error.__context__, BrokenPipeError):
            raise
        _silence_stdout()  # rich exits with 1 when the reader of a pipe had enough
    except PrintError as error:
        _silence_stdout()
        if not isinstance(error.reason, BrokenPipeError):
            _fail(f"nothing more can be printed ({error.reason.strerror}); what was written to files is there", 2)
    _receive_no_more()
    sys.exit(0)


def _receive_signals() -> None:
    """Being told to stop is an exception, so that unfinished output is removed. What was ignored stays so (nohup)."""
    for number in SIGNALS:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _terminate)
    if sys.unraisablehook is sys.__unraisablehook__ and hasattr(signal, "pthread_kill"):  # not on Windows
        sys.unraisablehook = _listen_again


def _receive_no_more() -> None:
    """From here on a signal ends the process at once: libraries that put themselves away turn an exception into a
    traceback.
    """
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def _terminate(signum: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt if signum == signal.SIGINT else Terminated(signum)


def _listen_again(lost: sys.UnraisableHookArgs) -> None:
    """A signal that comes while Python destroys an object would be lost, for there an exception counts for nothing."""
    if isinstance(lost.exc_value, STOPPED):
        number = lost.exc_value.signum if isinstance(lost.exc_value, Terminated) else signal.SIGINT
        threading.Timer(0.01, signal.pthread_kill, [threading.main_thread().ident, number]).start()
    else:
        sys.__unraisablehook__(lost)


def _kept(stopped: KeyboardInterrupt | Terminated) -> str:
    """What is left of the work, as whoever did it says."""
    from extsub.files.writing import last_written

    if stopped.args:
        return stopped.args[0]
    return f"{written} is written" if (written := last_written()) else "nothing was written"


def _print_what_streams_can_hold() -> None:
    """A sign that the terminal's encoding lacks is spelled out instead of ending a finished command."""
    codecs.register_error("extsub", _spell_out)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not closed, and not replaced by something simpler
            stream.reconfigure(errors="extsub")


def _spell_out(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(PLAIN.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in signs), error.end


def _silence_stdout() -> None:
    """Python would complain of the same at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str, code: int) -> NoReturn:
    from extsub.printing import say

    _receive_no_more()
    rank = os.environ.get("RANK", "0")
    say("Error: " + ("" if rank == "0" else f"process {rank}: ") + " ".join(message.split()), error=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
