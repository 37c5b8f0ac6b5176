"""Rows of numbers on disk: found by key, whole or not at all, by any number of processes, within a bound."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from temper.data.states import KEY, States

WIDTH = 3
RECORD = 16 + 24 + 2 * 2 * WIDTH
"""Bytes of a record of one row of two targets: head, entry, numbers of two bytes."""


def key(number: int) -> bytes:
    return number.to_bytes(KEY, "big")


def numbers(seed: int, targets: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**16, (targets, WIDTH), np.uint16)


def filled(folder: Path, count: int, *, at_once: int = 1) -> States:
    states = States(folder, width=WIDTH)
    for start in range(0, count, at_once):
        states.put({key(n): numbers(n) for n in range(start, start + at_once)})
    return states


def segment_of(folder: Path) -> Path:
    (found,) = folder.glob("*.states")
    return found


def test_rows_come_back_bit_by_bit_now_and_from_a_new_reader(tmp_path: Path) -> None:
    rows = {key(n): numbers(n, targets=n) for n in range(4)}  # one without targets
    first = States(tmp_path / "s", width=WIDTH)
    first.put(rows)
    for states in (first, States(tmp_path / "s", width=WIDTH)):
        assert len(states) == 4
        for name, row in rows.items():
            found = states.get(name)
            assert found is not None and found.shape == row.shape and np.array_equal(found, row)
    assert first.get(key(9)) is None


def test_reading_leaves_no_trace_on_the_disk(tmp_path: Path) -> None:
    assert States(tmp_path / "s", width=WIDTH).get(key(1)) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", [1, 12, 13, RECORD - 16, RECORD - 1])
def test_a_record_that_was_cut_off_is_not_read_and_those_before_it_are(tmp_path: Path, cut: int) -> None:
    filled(tmp_path / "s", 3)
    segment = segment_of(tmp_path / "s")
    assert segment.stat().st_size == 3 * RECORD
    os.truncate(segment, 3 * RECORD - cut)
    again = States(tmp_path / "s", width=WIDTH)
    assert [again.get(key(n)) is not None for n in range(3)] == [True, True, False]
    again.put({key(2): numbers(2)})  # into a segment of its own, not behind the broken record
    third = States(tmp_path / "s", width=WIDTH)
    assert all(np.array_equal(third.get(key(n)), numbers(n)) for n in range(3))  # pyright: ignore


def test_rows_that_were_put_together_are_lost_together(tmp_path: Path) -> None:
    filled(tmp_path / "s", 4, at_once=2)
    segment = segment_of(tmp_path / "s")
    os.truncate(segment, segment.stat().st_size - 1)
    again = States(tmp_path / "s", width=WIDTH)
    assert [again.get(key(n)) is not None for n in range(4)] == [True, True, False, False]


def test_numbers_that_changed_on_the_disk_are_not_returned(tmp_path: Path) -> None:
    """A machine that loses power may leave a file of its full length with zeros in place of the last pages."""
    states = filled(tmp_path / "s", 2)
    with segment_of(tmp_path / "s").open("r+b") as file:
        file.seek(2 * RECORD - 5)
        file.write(b"\0\0\0\0\0")
    again = States(tmp_path / "s", width=WIDTH)
    for found in (states, again):
        assert np.array_equal(found.get(key(0)), numbers(0))  # pyright: ignore
        assert found.get(key(1)) is None


def test_a_file_of_something_else_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "odd.states").write_bytes(b"no record of ours, and long enough for a head")
    assert len(States(tmp_path / "s", width=WIDTH)) == 0


WRITER = """
import sys
from pathlib import Path
from tests.unit.data.test_states import filled
filled(Path(sys.argv[1]), 40, at_once=4)
"""


def test_processes_write_into_one_folder_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "s")]
    writers = [subprocess.Popen(command) for _ in range(2)]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert len(list((tmp_path / "s").glob("*.states"))) == 2
    found = States(tmp_path / "s", width=WIDTH)
    assert len(found) == 40  # both wrote the same rows, which count once
    assert all(np.array_equal(found.get(key(n)), numbers(n)) for n in range(40))  # pyright: ignore


def test_nothing_is_written_beyond_the_bound_and_what_is_there_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPER_CACHE_GB", str(2.5 * RECORD / 1e9))
    filled(tmp_path / "starts" / "a", 1)
    second = filled(tmp_path / "starts" / "b", 5)  # a was used just now, so it stays
    # a holds one record; b gets a second and, since two are within the bound, the third that passes it
    assert [second.get(key(n)) is not None for n in range(5)] == [True, True, False, False, False]
    assert sum(f.stat().st_size for f in (tmp_path / "starts").glob("*/*")) == 3 * RECORD


def test_what_another_process_writes_meanwhile_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # a sixteenth of 32 records is two: after every second one the sizes are looked at
    monkeypatch.setenv("TEMPER_CACHE_GB", str(32 * RECORD / 1e9))
    one, other = (States(tmp_path / "starts" / name, width=WIDTH) for name in "ab")
    for n in range(40):
        for states in (one, other):
            states.put({key(n): numbers(n)})
    written = sum(f.stat().st_size for f in (tmp_path / "starts").glob("*/*"))
    # with 32 there the first looks again and is allowed two more; the second looks after one of them and stops
    assert written == 34 * RECORD


def test_a_folder_that_was_not_used_for_long_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path / "starts" / "old", 3)
    os.utime(tmp_path / "starts" / "old", (0, 0))
    monkeypatch.setenv("TEMPER_CACHE_GB", str(3 * RECORD / 1e9))
    new = filled(tmp_path / "starts" / "new", 3)
    assert not (tmp_path / "starts" / "old").exists()
    assert len(new) == 3


def test_rows_of_a_folder_that_was_removed_are_missing(tmp_path: Path) -> None:
    states = filled(tmp_path / "s", 2)
    segment_of(tmp_path / "s").unlink()
    assert states.get(key(0)) is None and states.get(key(0)) is None


def test_a_cache_that_cannot_be_written_keeps_nothing(tmp_path: Path) -> None:
    (tmp_path / "starts").write_text("a file where the folder should be")
    states = filled(tmp_path / "starts" / "s", 2)
    assert len(states) == 0 and states.get(key(0)) is None
