"""Evict: the bound of a cache of stores: what was not used for longest goes when a new store is written.

A store can always be made again from its file, so nothing is lost but the time. Stores used of late stay whatever their
size: a run may be reading them. Imports errors.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import time
from pathlib import Path

from temper.errors import MachineError

VARIABLE = "TEMPER_CACHE_GB"
"""Environment variable that sets the bound."""
DEFAULT_GB = 20.0
LATELY = 2 * 24 * 3600.0
"""Seconds within which a used store is never removed: longer than most runs, and every resumed run uses it anew."""
GONE = ".gone"


def used(store: Path) -> None:
    """Notes that a store is in use now."""
    with contextlib.suppress(OSError):  # a cache that others own is read all the same
        os.utime(store)


def make_room(store: Path) -> tuple[Path, ...]:
    """Removes the stores beside a new one that were not used for longest, until the bound of the cache holds.

    Args:
        store: The new one, which stays.

    Returns:
        The stores removed.
    """
    bound = limit()
    for left in store.parent.glob(f".*{GONE}"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    sizes = {folder: _size(folder) for folder in store.parent.iterdir() if _is_store(folder)}
    excess = sum(sizes.values()) - bound
    removed: list[Path] = []
    for folder in sorted(sizes, key=_last_used):
        if excess <= 0 or time.time() - _last_used(folder) < LATELY:
            break
        if folder != store and _remove(folder):
            excess -= sizes[folder]
            removed.append(folder)
    return tuple(removed)


def limit() -> int:
    """Bytes that all token stores together may take."""
    written = os.environ.get(VARIABLE, "")
    try:
        gigabytes = float(written) if written else DEFAULT_GB
    except ValueError:
        gigabytes = math.nan
    if not gigabytes >= 0:
        raise MachineError(
            f"{VARIABLE}: found {written!r}; expected a number of gigabytes, 0 or more; write it like 20"
        )
    return round(min(gigabytes, 1e9) * 1e9)


def _is_store(folder: Path) -> bool:
    return folder.is_dir() and not folder.name.startswith(".")


def _last_used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:  # another process was quicker
        return math.inf


def _size(folder: Path) -> int:
    with contextlib.suppress(OSError):
        return sum(file.stat().st_size for file in folder.iterdir())
    return 0


def _remove(folder: Path) -> bool:
    """Takes a store away as a whole, so that nobody meets half of it."""
    aside = folder.with_name(f".{folder.name}{GONE}")
    try:
        folder.rename(aside)
    except OSError:
        return False
    shutil.rmtree(aside, ignore_errors=True)
    return True
