"""Prefetching changes when an item is made, and nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from temper.data.prefetch import ahead


def threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("temper-ahead")]


@pytest.mark.parametrize("depth", [1, 3])
def test_order_and_items_are_the_same(depth: int) -> None:
    assert list(ahead(iter(range(20)), depth=depth)) == list(range(20))
    assert list(ahead(iter([]), depth=depth)) == []
    assert list(ahead(iter([None, 0, None]), depth=depth)) == [None, 0, None]
    assert not threads()


def test_the_next_item_is_made_while_the_caller_works() -> None:
    made: list[int] = []
    second = threading.Event()

    def items() -> Iterator[int]:
        for number in range(5):
            made.append(number)
            if number == 1:
                second.set()
            yield number

    batches = ahead(items())
    assert next(batches) == 0
    assert second.wait(10)  # without another call to next
    time.sleep(0.05)
    assert made == [0, 1]  # and not further than that
    batches.close()  # pyright: ignore[reportAttributeAccessIssue] - it is a generator


def test_an_error_comes_where_its_item_would_have_come() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("torn")

    found: list[int] = []
    with pytest.raises(ValueError, match="torn"):
        for item in ahead(items(), depth=2):
            found.append(item)
    assert found == [1, 2]
    assert not threads()


def test_closing_ends_the_thread_and_closes_the_source() -> None:
    closed = False

    def items() -> Iterator[int]:
        nonlocal closed
        try:
            yield from range(1000)
        finally:
            closed = True

    batches = ahead(items(), depth=4)
    assert next(batches) == 0
    batches.close()  # pyright: ignore[reportAttributeAccessIssue] - it is a generator
    assert closed
    assert not threads()
