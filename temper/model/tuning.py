"""Tuning: how many threads torch gets and how products are computed, by what this CPU can or by timing products on it.

More threads than free cores make a training step several times slower than one thread, and no tool says so: threads
wait for each other at the end of every product. And some CPUs multiply bfloat16 two to five times faster than float32:
linear layers then compute in it (`products`), while everything between the products stays float32. With matrix units
the factors of all other products are rounded as well (`torch.set_float32_matmul_precision`). The same setting leaves a
CPU without such units in float32 there, and hands its products from torch's own BLAS to oneDNN, which is the faster
one on some machines.

And glibc, the allocator, gives every large block back to the system as soon as it is free, so that each product writes
into pages that have to be made first; it is told to keep them.
"""

from __future__ import annotations

import ctypes
import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Literal, TypeVar

import torch
from torch.nn.functional import silu

from temper.model import kernels, load
from temper.model.products import product
from temper.model.protocol import Precision, Tuning

SHAPE = (512, 576, 1536)
"""Tokens, inputs and outputs of the product that is timed: a layer of a small model."""
ROUNDS = 5
GAIN = 1.05
"""More threads are taken when they are faster by this factor at least."""
ROUNDED_GAIN = 1.5
"""Products are computed in bfloat16 when that makes them faster by this factor at least."""
LIBRARY_GAIN = 1.1
"""oneDNN multiplies in float32 when it is faster than torch's BLAS by this factor at least."""
FEW_ROWS = 4
"""Products of fewer rows than this are no task for oneDNN: one row took it 1.7 times as long (docs/log.md)."""
STRICT = "ONEDNN_DEFAULT_FPMATH_MODE"
"""The environment variable by which oneDNN itself is told how to multiply; `STRICT` holds here too."""
NAMES: Mapping[Precision, Literal["highest", "medium"]] = {
    "float32": "highest", "float32-onednn": "medium", "bfloat16": "medium",
}  # fmt: skip
"""What torch calls them. `medium` rounds factors where there are matrix units and asks oneDNN where there are none;
linear layers in bfloat16 come on top of it (`products`)."""
CAPACITY = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
"""Compiled products that oneDNN keeps: a step needs some fifty, and the next one has other shapes. 26 steps of one
adapter ended at 2.4 GiB with 64, at 2.7 GiB with its own default of 1024, and were not slower."""
KEPT: Mapping[int, int] = {-3: 1 << 25, -1: 1 << 30}
"""What glibc is told (mallopt(3)): blocks of up to 32 MiB, the most it takes, come from the heap (M_MMAP_THRESHOLD),
and the heap gives back what is free beyond 1 GiB (M_TRIM_THRESHOLD)."""
INSTRUCTIONS = ("avx512_bf16", "amx_bf16")
"""With one of these a CPU multiplies bfloat16 at twice the rate of float32 or more; nothing needs to be timed."""
T = TypeVar("T")


def tune(threads: int | None = None, precision: Precision | None = None) -> Tuning:
    """Sets torch's number of threads and the precision of products, to those asked for or else to the fastest.

    Where the environment names a number (OMP_NUM_THREADS) or exact products, that holds.
    """
    device = load.best_device()
    _keep_freed()
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


@functools.cache
def has_units() -> bool:
    """Whether the setting for fast products rounds their factors here."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    sums = torch.full((64, 64), 1.0 + 2.0**-12) @ torch.ones(64, 64)  # bfloat16 has eight bits
    torch.set_float32_matmul_precision(before)  # pyright: ignore[reportArgumentType] - what torch said itself
    return bool((sums == 64.0).any())


@contextmanager
def by_blas() -> Iterator[None]:
    """Inside, a CPU without matrix units leaves its products to torch's BLAS; one that has them goes on as it was."""
    if has_units():
        yield
        return
    with exact():
        yield


@contextmanager
def for_rows(rows: int) -> Iterator[None]:
    """Inside, products of so few rows are computed by what is fast for them.

    Rounding weights that lie in float32 costs more than a product of few rows gains, so those are exact in any case.
    """
    if rows >= FEW_ROWS and not has_units():
        yield
        return
    with exact():
        yield


def measure(numbers: Sequence[int]) -> Mapping[int, float]:
    """Floating-point operations per second of a layer's product by number of threads."""
    before = torch.get_num_threads()
    rates = _rates(numbers, torch.set_num_threads)
    torch.set_num_threads(before)
    return rates


def measure_precisions() -> Mapping[Precision, float]:
    """The same by precision, of those that there are here."""
    there: list[Precision] = ["float32"]
    if not has_units():
        there.append("float32-onednn")
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        there.append("bfloat16")
    with exact():
        return _rates(
            there, lambda name: torch.set_float32_matmul_precision(NAMES[name]),
            dtype=lambda name: torch.bfloat16 if name == "bfloat16" else torch.float32,
        )  # fmt: skip


def fastest(rates: Mapping[int, float]) -> int:
    """The fewest threads that no larger number beats by `GAIN`."""
    best = min(rates)
    for number in sorted(rates):
        if rates[number] > GAIN * rates[best]:
            best = number
    return best


def best_precision(rates: Mapping[Precision, float]) -> Precision:
    """float32 as torch has it, unless another way is clearly faster: rounding has to gain more than another library."""
    gains: Mapping[Precision, float] = {"bfloat16": ROUNDED_GAIN, "float32-onednn": LIBRARY_GAIN}
    faster: list[Precision] = [n for n, least in gains.items() if rates.get(n, 0.0) >= least * rates["float32"]]
    return faster[0] if faster else "float32"


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
    known = _capabilities()
    able = [name for name in INSTRUCTIONS if known.get(name)]
    if able:
        return "bfloat16", f"the CPU has {' and '.join(able)}"
    rates = measure_precisions()
    told = ", ".join(f"{name}: {rate / 1e9:.0f}" for name, rate in rates.items())
    return best_precision(rates), f"products timed here, GFLOP/s: {told}"


def _capabilities() -> Mapping[str, object]:
    """What torch knows of this CPU; nothing where torch is older than the question."""
    ask: Callable[[], Mapping[str, object]] = getattr(torch.cpu, "get_capabilities", dict)
    return ask()


def _keep_freed() -> None:
    """Has glibc keep what is freed; another allocator stays as it is, and so does one that the environment sets up."""
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    with suppress(OSError, AttributeError, TypeError):  # no glibc here
        set_option = ctypes.CDLL(None).mallopt
        for option, value in KEPT.items():
            set_option(option, value)


def _rates(
    values: Sequence[T], use: Callable[[T], None], *, dtype: Callable[[T], torch.dtype] = lambda _: torch.float32
) -> dict[T, float]:
    """Operations per second of a layer's product by what is used, the best of some rounds.

    The values take turns, so that another process that comes or goes meets all of them.

    Args:
        values: What is compared.
        use: Puts one of them into effect.
        dtype: What the weights lie in under it.
    """
    tokens, inputs, outputs = SHAPE
    x, weight = torch.randn(tokens, inputs), torch.randn(outputs, inputs)
    weights = {value: weight.to(dtype(value)) for value in values}
    rates = dict.fromkeys(values, 0.0)
    for turn in range(ROUNDS + 1):
        for value in values:
            use(value)
            started = time.perf_counter()
            for _ in range(4):
                product(silu(product(x, weights[value])), weights[value].T)
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
