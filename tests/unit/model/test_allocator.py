"""Freed memory stays with the process: the next product writes into pages that are there already."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

ROUNDS, BLOCKS, PAGES = 20, 8, 1024
"""Eight blocks of 1,024 pages of 4 KiB, all freed before the next round."""
SCRIPT = f"""
import resource, torch
from temper.model import tuning

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def rounds():
    before = faults()
    for _ in range({ROUNDS}):
        held = [torch.ones({PAGES} * 1024) for _ in range({BLOCKS})]
        del held
    return faults() - before

found = rounds()
tuning.tune(1, "float32")
rounds()
print(found, rounds())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has another allocator")
def test_a_tuned_process_keeps_what_it_frees() -> None:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    before, after = measured(plain)
    assert after < BLOCKS * PAGES, "less than one round's pages in twenty rounds"
    assert after < before / 10


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has another allocator")
def test_an_allocator_that_the_environment_sets_up_stays_so() -> None:
    before, after = measured(dict(os.environ) | {"MALLOC_TRIM_THRESHOLD_": "131072"})
    assert after > before / 2


def measured(environment: dict[str, str]) -> tuple[int, int]:
    """Page faults of twenty rounds before `tune` and after it."""
    ran = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    before, after = map(int, ran.stdout.split())
    return before, after
