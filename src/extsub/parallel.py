"""One function over many modules, a few at a time, results in order. Knows nothing of adapters.

A module's matrices are small: the threads of a matrix product wait for one another more than they work (and fight with
whoever writes). Several modules at once, each on one thread, finish sooner.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_limits

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_THREADS = 8
"""The most threads: each holds modules in memory."""


def in_order(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """``map(function, items)`` by threads; at most two results for each of them wait in memory."""
    threads = _threads()
    waiting: deque[Future[Result]] = deque()
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _threads() -> int:
    """As many as there are cores for this process, or as ``OMP_NUM_THREADS`` says."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(int(given) if given.isdigit() else cores, MOST_THREADS))
