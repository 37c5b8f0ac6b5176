from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from temper.data import evict
from temper.errors import MachineError

DAY = 24 * 3600.0


def store(root: Path, name: str, *, megabytes: int, days: float) -> Path:
    """A store of that size that was last used so many days ago."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "tokens").write_bytes(b"\0" * (megabytes * 10**6))
    os.utime(folder, (0, time.time() - days * DAY))
    return folder


def names(root: Path) -> set[str]:
    return {p.name for p in root.iterdir()}


def test_the_stores_that_were_not_used_for_longest_go_until_the_bound_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(evict.VARIABLE, "0.005")  # 5 MB
    for name, days in (("older", 30), ("oldest", 40), ("old", 20)):
        store(tmp_path, name, megabytes=2, days=days)
    new = store(tmp_path, "new", megabytes=2, days=0)
    # 8 MB are there: without the two oldest 4 MB are left.
    assert [p.name for p in evict.make_room(new)] == ["oldest", "older"]
    assert names(tmp_path) == {"old", "new"}


def test_a_store_that_is_opened_again_counts_as_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(evict.VARIABLE, "0.003")
    first = store(tmp_path, "first", megabytes=2, days=40)
    store(tmp_path, "second", megabytes=2, days=30)
    evict.used(first)
    evict.make_room(store(tmp_path, "new", megabytes=1, days=0))
    assert names(tmp_path) == {"first", "new"}


def test_what_is_in_use_stays_whatever_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(evict.VARIABLE, "0")
    store(tmp_path, "yesterday", megabytes=2, days=1)
    store(tmp_path, "long-ago", megabytes=1, days=3)
    part = store(tmp_path, ".half.part", megabytes=1, days=90)  # another process is writing it
    store(tmp_path, ".torn.gone", megabytes=1, days=0)  # another one was killed while it removed this
    new = store(tmp_path, "new", megabytes=2, days=50)  # the clock of its disk is wrong
    evict.make_room(new)
    assert names(tmp_path) == {"yesterday", "new", part.name}


def test_the_bound_is_twenty_gigabytes_unless_somebody_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(evict.VARIABLE, raising=False)
    assert evict.limit() == 20 * 10**9
    monkeypatch.setenv(evict.VARIABLE, "1.5")
    assert evict.limit() == 1_500_000_000
    for wrong in ("much", "-1", "nan"):
        monkeypatch.setenv(evict.VARIABLE, wrong)
        with pytest.raises(MachineError, match="expected a number of gigabytes, 0 or more"):
            evict.limit()
