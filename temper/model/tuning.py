"""Tuning: how many threads torch gets and whether kernels are compiled, found out on this machine.

More threads than free cores make a training step several times slower than one thread, and no tool says so: threads
wait for each other at the end of every product. So a product of the size that training does is timed with each number.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

import torch

from temper.model import kernels, load
from temper.model.protocol import Tuning

SHAPE = (512, 576, 1536)
"""Tokens, inputs and outputs of the product that is timed: a layer of a small model."""
ROUNDS = 5
GAIN = 1.05
"""More threads are taken when they are faster by this factor at least."""


def tune(threads: int | None = None) -> Tuning:
    """Sets torch's number of threads, to the one asked for or else to the fastest.

    Where the environment names a number (OMP_NUM_THREADS), that one holds.
    """
    device = load.best_device()
    can_compile = kernels.can_compile(device)
    named = os.environ.get("OMP_NUM_THREADS", "")
    if threads is None and named.isdigit() and int(named) > 0:
        return Tuning(threads=torch.get_num_threads(), reason="OMP_NUM_THREADS", can_compile=can_compile)
    if threads is not None:
        torch.set_num_threads(threads)
        return Tuning(threads=threads, reason="the recipe", can_compile=can_compile)
    rates = measure(_numbers(os.cpu_count() or 1))
    best = fastest(rates)
    torch.set_num_threads(best)
    told = ", ".join(f"{n}: {rate / 1e9:.0f}" for n, rate in sorted(rates.items()))
    return Tuning(
        threads=best, reason=f"products timed here, GFLOP/s by threads: {told}", can_compile=can_compile, rates=rates
    )


def measure(numbers: list[int]) -> Mapping[int, float]:
    """Floating-point operations per second of a layer's product by number of threads, the best of some rounds.

    The numbers take turns, so that another process that comes or goes meets all of them.
    """
    tokens, inputs, outputs = SHAPE
    x, y, weight = torch.randn(tokens, inputs), torch.empty(tokens, inputs), torch.randn(outputs, inputs)
    before, rates = torch.get_num_threads(), dict.fromkeys(numbers, 0.0)
    for turn in range(ROUNDS + 1):
        for number in numbers:
            torch.set_num_threads(number)
            started = time.perf_counter()
            for _ in range(4):
                torch.mm(torch.nn.functional.silu(x @ weight.T), weight, out=y)
            seconds = time.perf_counter() - started
            if turn:  # the first starts the threads
                rates[number] = max(rates[number], 4 * 4.0 * tokens * inputs * outputs / seconds)
    torch.set_num_threads(before)
    return rates


def fastest(rates: Mapping[int, float]) -> int:
    """The fewest threads that no larger number beats by `GAIN`."""
    best = min(rates)
    for number in sorted(rates):
        if rates[number] > GAIN * rates[best]:
            best = number
    return best


def _numbers(cores: int) -> list[int]:
    """1, 2, 4, ... and all cores."""
    found = [1]
    while found[-1] * 2 < cores:
        found.append(found[-1] * 2)
    return [*found, cores] if cores > 1 else found
