"""A crew of processes keeps the order, bounds what is in flight, and never hangs."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from temper.data.crew import AHEAD, cores, ordered_map
from temper.errors import MachineError, MissingExtra


def slow_evens() -> Callable[[int], int]:
    """Squares; even numbers take longer, so that results come out of order."""
    return square


def square(number: int) -> int:
    time.sleep(0.03 if number % 2 == 0 else 0.0)
    return number * number


def trouble(kind: str) -> Callable[[int], int]:
    return partial(fails_at_three, kind)


def fails_at_three(kind: str, number: int) -> int:
    if number == 3:
        if kind == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "user":
            raise MissingExtra("pypdf", "pdf")
        raise ValueError("a fault of our own")
    return number


def nobody_is_left() -> bool:
    return not [p for p in multiprocessing.active_children() if p.name == "temper-data"]


@pytest.mark.slow
def test_results_come_in_order_with_few_items_drawn_ahead() -> None:
    drawn = 0

    def items() -> Iterator[int]:
        nonlocal drawn
        for number in range(30):
            drawn += 1
            yield number

    found = []
    for result in ordered_map(slow_evens, items(), workers=2):
        found.append(result)
        assert drawn <= len(found) + AHEAD * 2
    assert found == [n * n for n in range(30)]
    assert nobody_is_left()


def test_nothing_to_do_is_no_result() -> None:
    assert list(ordered_map(slow_evens, [], workers=1)) == []


def test_a_killed_worker_is_an_error_and_no_hang() -> None:
    with pytest.raises(MachineError, match=r"ended by SIGKILL.*memory"):
        list(ordered_map(partial(trouble, "killed"), range(10), workers=2))
    assert nobody_is_left()


def test_a_users_fault_in_a_worker_is_the_same_fault_here() -> None:
    """MissingExtra takes two arguments and keeps one sentence, so pickling it fails."""
    with pytest.raises(MissingExtra, match=r"pypdf is not installed; run: pip install 'temper-llm\[pdf\]'"):
        list(ordered_map(partial(trouble, "user"), range(10), workers=2))
    assert nobody_is_left()


def test_a_fault_of_our_own_in_a_worker_ends_the_run_with_its_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="exit code 1"):
        list(ordered_map(partial(trouble, "own"), range(10), workers=1))
    assert "a fault of our own" in capfd.readouterr().err


def test_closing_ends_all_workers() -> None:
    results = ordered_map(slow_evens, range(1000), workers=2)
    assert next(iter(results)) == 0
    assert not nobody_is_left()
    results.close()  # pyright: ignore[reportAttributeAccessIssue] - it is a generator
    assert nobody_is_left()


def test_an_interrupt_of_the_parent_ends_all_workers() -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(ordered_map(slow_evens, items(), workers=2))
    assert nobody_is_left()


def test_there_is_a_core() -> None:
    assert cores() >= 1
