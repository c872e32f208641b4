"""Where questions come from: lines typed in a terminal, or what a pipe brings."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from extsub.errors import ExtSubError
from extsub.escaping import line
from extsub.printing import say, write


def in_terminal() -> bool:
    """Whether somebody types and reads, and neither is a pipe or a file."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout))


def typed(prompt: Callable[[], str]) -> Iterator[str]:
    """Lines until Ctrl-D or Ctrl-C, with line editing where Python has readline.

    Args:
        prompt: what stands before a line, asked anew for each.
    """
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  input() edits with it from now on
    while True:
        try:
            content = input(line(prompt()))
        except (EOFError, KeyboardInterrupt):
            write("\n")
            return
        except UnicodeDecodeError:
            say("that is not text in this terminal's encoding", error=True)
        else:
            yield content


def piped() -> Iterator[str]:
    """Lines of standard input.

    Raises:
        ExtSubError: there is none, it cannot be read, or it is not UTF-8.
    """
    if sys.stdin is None:
        raise ExtSubError("there is no standard input to read questions from")
    try:
        for number, content in enumerate(sys.stdin.buffer, start=1):
            try:
                yield content.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise ExtSubError(f"standard input, line {number}: not UTF-8, so no question") from error
    except OSError as error:
        raise ExtSubError(f"standard input cannot be read: {error.strerror}") from error


def one_question(given: str | None) -> str:
    """A question as it was given; for ``-``, and for none where there is a pipe, all of standard input.

    Raises:
        ExtSubError: it is empty, or standard input cannot be read or is a terminal where somebody waits in vain.
    """
    if given is None and sys.stdin is not None and sys.stdin.isatty():
        raise ExtSubError("nothing is asked: give a question, - to type or pipe one, or --prompts and --output")
    question = "\n".join(piped()) if given in (None, "-") else given
    if not question.strip():
        raise ExtSubError("the question is empty: give one, or --prompts and --output for a file of them")
    return question
