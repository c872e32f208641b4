"""How far the work is, on standard error: a bar where somebody looks, else a line now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from extsub.adapters.writing import PartProgress
from extsub.printing import bar, console, duration, say, shows_progress

if TYPE_CHECKING:
    from extsub.evaluation.run import Advance

SECONDS = 20
"""Seconds between two lines of progress, where the output is not a terminal."""


def parts(doing: str) -> PartProgress:
    """A bar on standard error with time left; silent where nobody looks."""

    def track(names: Iterable[str]) -> Iterator[str]:
        if not _watched():
            return iter(names)
        from rich.progress import track

        return iter(track(list(names), doing, console=console(stderr=True), transient=True))

    return track


def chunks(doing: str) -> Callable[[Iterable[Any], int], Iterable[Any]]:
    """A bar over so many chunks of work, on standard error."""

    def track(work: Iterable[Any], total: int) -> Iterable[Any]:
        from rich.progress import track

        return track(work, doing, total=total, console=console(stderr=True), transient=True, disable=not _watched())

    return track


@contextmanager
def items(doing: str, total: int, done: int) -> Generator[Advance]:
    """A bar over items with their rate and the time left; where nobody looks, a line now and then."""
    if not shows_progress() or total == done:
        yield lambda _number, _beside="": None
        return
    with bar(doing, total, done) if sys.stderr.isatty() else nullcontext() as shown:
        begun, first = time.perf_counter(), done
        spoken = begun

        def advance(number: int, beside: str = "", /) -> None:
            nonlocal done, spoken
            done, now = min(total, done + number), time.perf_counter()
            rate = (done - first) / (now - begun)
            said = ", ".join(filter(None, (f"{rate:,.1f} a second", beside)))
            if shown:
                shown.update(shown.task_ids[0], completed=done, said=said)
            elif now - spoken >= SECONDS:
                spoken = now
                left = f", {duration((total - done) / rate)} left" if rate else ""  # nothing is done yet
                say(f"{doing}: {done:,} of {total:,}, {said}{left}", error=True)

        yield advance


def _watched() -> bool:
    return sys.stderr.isatty() and shows_progress()


def say_where(line: str) -> None:
    """A line about how far the work is, on standard error."""
    if shows_progress():
        say(line, error=True)


def quieten_hub() -> None:
    """Silence what huggingface_hub says for its own users, and its bars where nobody looks."""
    from huggingface_hub.utils import disable_progress_bars, logging

    logging.set_verbosity_error()
    if not _watched():
        disable_progress_bars()


def quieten_libraries() -> None:
    """Silence what transformers and the like say for their own users; what ours should know, extsub says."""
    import logging
    import warnings

    from transformers.utils import logging as transformers_logging

    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    transformers_logging.set_verbosity_error()
    for name in ("accelerate", "datasets", "torch.distributed", "lm_eval", "httpx", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not _watched():
        transformers_logging.disable_progress_bar()
