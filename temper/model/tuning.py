"""Tuning: how many threads torch gets and how products are computed, found out on this machine by timing products.

More threads than free cores make a training step several times slower than one thread, and no tool says so: threads
wait for each other at the end of every product. And a CPU with matrix units multiplies bfloat16 several times faster
than float32: the factors of every product are then rounded to it, while sums, weights, and everything between the
products stay float32 (`torch.set_float32_matmul_precision`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, TypeVar

import torch

from temper.model import kernels, load
from temper.model.protocol import Precision, Tuning

SHAPE = (512, 576, 1536)
"""Tokens, inputs and outputs of the product that is timed: a layer of a small model."""
ROUNDS = 5
GAIN = 1.05
"""More threads are taken when they are faster by this factor at least."""
ROUNDED_GAIN = 1.5
"""Factors are rounded when that makes products faster by this factor at least."""
STRICT = "ONEDNN_DEFAULT_FPMATH_MODE"
"""The environment variable by which oneDNN itself is told how to multiply; `STRICT` holds here too."""
NAMES: Mapping[Precision, Literal["highest", "medium"]] = {"float32": "highest", "bfloat16": "medium"}
"""What torch calls them."""
CAPACITY = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
"""Compiled products that oneDNN keeps: a step needs some fifty, and the next one has other shapes. 26 steps of one
adapter ended at 2.4 GiB with 64, at 2.7 GiB with its own default of 1024, and were not slower."""
T = TypeVar("T")


def tune(threads: int | None = None, precision: Precision | None = None) -> Tuning:
    """Sets torch's number of threads and the precision of products, to those asked for or else to the fastest.

    Where the environment names a number (OMP_NUM_THREADS) or exact products, that holds.
    """
    device = load.best_device()
    os.environ.setdefault(*CAPACITY)  # read when the first product is computed
    number, why = _threads(threads)
    kind, why_kind = _precision(precision) if device.type == "cpu" else ("float32", "a GPU has weights in bfloat16")
    torch.set_float32_matmul_precision(NAMES[kind])
    return Tuning(
        threads=number, reason=why, precision=kind, why_precision=why_kind,
        can_compile=kernels.can_compile(device),
    )  # fmt: skip


@contextmanager
def exact() -> Iterator[None]:
    """Inside, products are computed in float32, whatever was chosen."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)  # pyright: ignore[reportArgumentType] - what torch said itself


def measure(numbers: Sequence[int]) -> Mapping[int, float]:
    """Floating-point operations per second of a layer's product by number of threads."""
    before = torch.get_num_threads()
    rates = _rates(numbers, torch.set_num_threads)
    torch.set_num_threads(before)
    return rates


def measure_precisions() -> Mapping[Precision, float]:
    """The same by precision."""
    with exact():
        return _rates(tuple(NAMES), lambda name: torch.set_float32_matmul_precision(NAMES[name]))


def fastest(rates: Mapping[int, float]) -> int:
    """The fewest threads that no larger number beats by `GAIN`."""
    best = min(rates)
    for number in sorted(rates):
        if rates[number] > GAIN * rates[best]:
            best = number
    return best


def rounds(rates: Mapping[Precision, float]) -> bool:
    """Whether factors are rounded to bfloat16."""
    return rates["bfloat16"] >= ROUNDED_GAIN * rates["float32"]


def _threads(asked: int | None) -> tuple[int, str]:
    """Number, and who or what decided."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    if asked is None and named.isdigit() and int(named) > 0:
        return torch.get_num_threads(), "OMP_NUM_THREADS"
    if asked is not None:
        torch.set_num_threads(asked)
        return asked, "the recipe"
    rates = measure(_numbers(os.cpu_count() or 1))
    number = fastest(rates)
    torch.set_num_threads(number)
    told = ", ".join(f"{n}: {rate / 1e9:.0f}" for n, rate in sorted(rates.items()))
    return number, f"products timed here, GFLOP/s by threads: {told}"


def _precision(asked: Precision | None) -> tuple[Precision, str]:
    """Precision, and who or what decided."""
    if asked is not None:
        return asked, "the recipe"
    if os.environ.get(STRICT, "").upper() == "STRICT":
        return "float32", STRICT
    rates = measure_precisions()
    told = ", ".join(f"{name}: {rate / 1e9:.0f}" for name, rate in rates.items())
    return "bfloat16" if rounds(rates) else "float32", f"products timed here, GFLOP/s: {told}"


def _rates(values: Sequence[T], use: Callable[[T], None]) -> dict[T, float]:
    """Operations per second of a layer's product by what is used, the best of some rounds.

    The values take turns, so that another process that comes or goes meets all of them.
    """
    tokens, inputs, outputs = SHAPE
    x, y, weight = torch.randn(tokens, inputs), torch.empty(tokens, inputs), torch.randn(outputs, inputs)
    rates = dict.fromkeys(values, 0.0)
    for turn in range(ROUNDS + 1):
        for value in values:
            use(value)
            started = time.perf_counter()
            for _ in range(4):
                torch.mm(torch.nn.functional.silu(x @ weight.T), weight, out=y)
            seconds = time.perf_counter() - started
            if turn:  # the first starts the threads
                rates[value] = max(rates[value], 4 * 4.0 * tokens * inputs * outputs / seconds)
    return rates


def _numbers(cores: int) -> list[int]:
    """1, 2, 4, ... and all cores."""
    found = [1]
    while found[-1] * 2 < cores:
        found.append(found[-1] * 2)
    return [*found, cores] if cores > 1 else found
