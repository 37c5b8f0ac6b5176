"""Prefetch: the next item of an iterator is prepared while the caller works on this one. Imports nothing of temper."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def ahead(items: Iterator[T], *, depth: int = 1) -> Generator[T]:
    """The same items in the same order, `depth` of them prepared ahead in one thread.

    An error is raised where its item would have come. When the generator is closed, the thread has ended and `items` is
    closed too.
    """
    end: Any = object()
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="temper-ahead")
    try:
        prepared = deque(thread.submit(next, items, end) for _ in range(depth))
        while (item := prepared.popleft().result()) is not end:
            prepared.append(thread.submit(next, items, end))
            yield item
    finally:
        thread.shutdown(wait=True, cancel_futures=True)
        if close := getattr(items, "close", None):
            close()
