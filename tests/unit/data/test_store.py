"""Rows on disk are the rows that were rendered; the second start reads them; nothing half-written is ever read."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from temper.data import fetch, filters, tokenise
from temper.data.datum import Counted, Datum, count_supervised, count_tokens, lengths, supervised_lengths
from temper.data.digests import remembered_digests
from temper.data.documents import open_tables
from temper.data.mixture import MixSource, Mixture
from temper.data.render import Renderer
from temper.data.rows import Row, open_table
from temper.data.store import Meta, StoreWriter, TokenStore, part_of, writing
from temper.data.tokenise import Job
from temper.errors import DataError, MachineError

pytestmark = pytest.mark.usefixtures("cache")

ROWS: Sequence[Mapping[str, str]] = [
    {"prompt": "kitchen light on", "completion": "yes"},
    {"prompt": "What is the capital of France?", "completion": "Paris is the capital of France."},
    {"prompt": "kitchen light on", "completion": "yes"},
    {"prompt": "Answer in one word", "completion": "no"},
]


def write(path: Path, rows: Sequence[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def job(path: Path, folder: Path, **settings: object) -> Job:
    return Job(source=open_table(path), name="home", folder=folder, **settings)  # pyright: ignore[reportArgumentType]


def stored(datums: Sequence[Datum], folder: Path, *, wide: bool = False, parts: int = 1) -> TokenStore:
    """Datums through the arrays and back."""
    with writing(folder) as beside:
        assert beside is not None
        with StoreWriter(beside, path=Path("x"), wide=wide) as writer:
            for piece in np.array_split(np.arange(len(datums)), parts):
                some = [datums[i] for i in piece]
                writer.add(part_of(some, [f"{i:016x}" for i in piece], wide=wide))
            writer.finish(Meta(wide=wide))
    return TokenStore(folder, path=Path("x"), source="s")


def test_rows_as_arrays_by_hand() -> None:
    first = Datum(tokens=(5, 6, 7, 2), weights={"ce": (0.0, 1.0, 1.0)}, source="s", row="a.jsonl:1")
    second = Datum(tokens=(9, 8, 7, 6, 5), weights={"ce": (1.0, 0.0, 0.0, 1.0)}, source="s", row="a.jsonl:12")
    part = part_of([first, second], ["00000000000000ff", "0000000000000001"], wide=False)
    assert part.tokens.tolist() == [5, 6, 7, 2, 9, 8, 7, 6, 5]
    # Targets 1 and 2 of the first row are one span, 0 and 3 of the second are two.
    assert part.spans.tolist() == [[1, 3], [0, 1], [3, 4]]
    assert part.span_counts.tolist() == [1, 2]
    assert part.supervised.tolist() == [2, 2]
    assert (part.names, part.files.tolist(), part.numbers.tolist()) == (("a.jsonl",), [0, 0], [1, 12])
    assert part.ids.tolist() == [255, 1]


ROW = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 65535), min_size=n, max_size=n),
        st.lists(st.sampled_from([0.0, 1.0]), min_size=n - 1, max_size=n - 1),
        st.sampled_from(["x/a.jsonl:7", "x/b.jsonl:1", "elsewhere.txt:3", "no number", "a:b"]),
    )
)


@pytest.mark.slow
@given(rows=st.lists(ROW, max_size=12), parts=st.integers(1, 3), wide=st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_read_is_what_was_written(rows: list, parts: int, wide: bool, tmp_path: Path) -> None:
    datums = [Datum(tokens=tuple(t), weights={"ce": tuple(w)}, source="s", row=row) for t, w, row in rows]
    shutil.rmtree(tmp_path / "store", ignore_errors=True)
    store = stored(datums, tmp_path / "store", wide=wide, parts=parts)
    assert list(store) == datums
    assert store.supervised.tolist() == [d.supervised for d in datums]
    assert store.lengths.tolist() == [len(d.tokens) for d in datums]
    assert store.longest == max((len(d.tokens) for d in datums), default=0)


def test_a_large_vocabulary_takes_four_bytes_and_a_small_one_refuses_it(tmp_path: Path) -> None:
    datum = Datum(tokens=(70000, 1), weights={"ce": (1.0,)}, source="s", row="x:1")
    assert stored([datum], tmp_path / "wide", wide=True)[0].tokens == (70000, 1)
    assert (tmp_path / "wide" / "tokens").stat().st_size == 2 * 4
    with pytest.raises(OverflowError):
        part_of([datum], ["00"], wide=False)


def test_a_store_is_a_sequence_and_travels(tmp_path: Path) -> None:
    datums = [Datum(tokens=(n, n), weights={"ce": (1.0,)}, source="s", row=f"x:{n}") for n in range(5)]
    store = stored(datums, tmp_path / "store")
    assert store[-1] == datums[-1]
    assert store[1:4:2] == datums[1:4:2]
    assert datums[2] in store
    with pytest.raises(IndexError):
        store[5]
    again = pickle.loads(pickle.dumps(store))
    assert list(again) == datums
    assert again.fingerprint == store.fingerprint


def test_sizes_are_known_without_reading_rows(tmp_path: Path) -> None:
    datums = [Datum(tokens=(1,) * n, weights={"ce": (1.0,) * (n - 1)}, source="s", row=f"x:{n}") for n in (3, 5)]
    store = stored(datums, tmp_path / "store")
    (tmp_path / "store" / "tokens").write_bytes(b"")  # whoever reads a row from now on gets none
    store = TokenStore(tmp_path / "store", path=Path("x"), source="s")
    assert isinstance(store, Counted)
    # 3 + 5 tokens, of which all but the first of each row are targets.
    assert (count_tokens(store), count_supervised(store)) == (8, 6)
    assert store.longest == 5
    assert (count_tokens(datums), count_supervised(datums)) == (8, 6)
    assert supervised_lengths(datums).tolist() == supervised_lengths(store).tolist() == [2, 4]
    assert lengths(datums).tolist() == [3, 5]


def test_a_tokenised_file_is_what_the_renderer_makes(tmp_path: Path, folder: Path, renderer: Renderer) -> None:
    path = write(tmp_path / "home.jsonl", ROWS)
    told: list[tuple[str, int, int]] = []
    found = tokenise.tokenise(job(path, folder), renderer, progress=lambda *said: told.append(said))
    expected = [renderer.datum(row, source="home") for row in open_table(path).rows()]
    assert list(found.store) == expected
    assert found.store[1].row == f"{path}:2"
    assert not found.cached
    assert found.facts is None
    assert found.store.meta == Meta(wide=False, names=("\0",))
    assert told == [("tokenising home.jsonl", path.stat().st_size, path.stat().st_size)]


def test_the_second_start_reads_the_cache_until_something_changes(
    tmp_path: Path, folder: Path, renderer: Renderer
) -> None:
    path = write(tmp_path / "home.jsonl", ROWS)
    first = tokenise.tokenise(job(path, folder), renderer)
    told: list[object] = []
    second = tokenise.tokenise(job(path, folder), renderer, progress=lambda *said: told.append(said))
    assert second.cached
    assert not told
    assert list(second.store) == list(first.store)
    assert second.store.fingerprint == first.store.fingerprint
    os.utime(path, (1e9, 1e9))
    assert tokenise.tokenise(job(path, folder), renderer).cached  # another time, the same bytes
    assert not tokenise.tokenise(job(path, folder, train_on="last"), renderer).cached
    assert not tokenise.tokenise(job(path, folder, max_length=100), renderer).cached
    assert not tokenise.tokenise(job(path, folder, filters=filters.parse("dedup")), renderer).cached
    path.write_bytes(path.read_bytes().replace(b"yes", b"Yes", 1))
    changed = tokenise.tokenise(job(path, folder), renderer)
    assert not changed.cached
    assert changed.store[0] != first.store[0]
    assert changed.store.fingerprint != first.store.fingerprint


def test_a_file_that_was_moved_finds_its_tokens_under_its_new_name(
    tmp_path: Path, folder: Path, renderer: Renderer
) -> None:
    path = write(tmp_path / "home.jsonl", [*ROWS, {"prompt": "x"}])
    tokenise.tokenise(job(path, folder), renderer)
    moved = path.rename(tmp_path / "moved.jsonl")
    found = tokenise.tokenise(job(moved, folder), renderer)
    assert found.cached
    assert found.store[0].row == f"{moved}:1"
    assert found.store.faults()[0].startswith(f"{moved}:5: ")


def test_rows_that_cannot_be_used_are_counted_and_the_first_named(
    tmp_path: Path, folder: Path, renderer: Renderer
) -> None:
    bad = [{"prompt": "a", "completion": ""}, {"prompt": "only"}]
    path = write(tmp_path / "home.jsonl", [ROWS[0], *bad, *bad, *bad, ROWS[1]])
    found = tokenise.tokenise(job(path, folder), renderer).store
    assert [d.row for d in found] == [f"{path}:1", f"{path}:8"]
    assert found.meta.faults == 6
    assert [fault.split(": ")[0] for fault in found.faults()] == [f"{path}:{row}" for row in range(2, 7)]
    longest = max(found.lengths)
    short = tokenise.tokenise(job(path, folder, max_length=int(longest) - 1), renderer).store
    assert (len(short), short.meta.faults) == (1, 7)  # a row that does not fit is a fault too


def test_a_source_without_a_usable_row_is_empty(tmp_path: Path, folder: Path, renderer: Renderer) -> None:
    path = write(tmp_path / "home.jsonl", [{"prompt": "a", "completion": ""}])
    found = tokenise.tokenise(job(path, folder), renderer).store
    assert (len(found), found.longest, count_supervised(found), found.meta.faults) == (0, 0, 0, 1)


def see(row: Row, datum: Datum | None) -> str:
    assert datum is not None
    return f"{row.origin} {len(datum.tokens)}"


def test_filters_leave_out_rows_by_name_and_facts_follow(tmp_path: Path, folder: Path, renderer: Renderer) -> None:
    path = write(tmp_path / "home.jsonl", [*ROWS, {"prompt": "short", "completion": "a b c d e f g h i j k l m"}])
    wanted = filters.parse(["dedup", {"name": "length", "max_words": 12}])
    for cached in (False, True):
        found = tokenise.tokenise(job(path, folder, filters=wanted, inspect=see), renderer)
        assert found.cached is cached
        # Row 3 repeats row 1, row 5 has 14 words.
        assert [d.row for d in found.store] == [f"{path}:{n}" for n in (1, 2, 4)]
        assert found.facts is not None
        assert list(found.facts) == [f"{d.row} {len(d.tokens)}" for d in found.store]
        assert list(found.facts) == list(found.facts)
        assert {name: sum(why.values()) for name, why in found.store.meta.dropped.items()} == {"dedup": 1, "length": 1}
        listed = {row["origin"]: (row["filter"], row["of"]) for row in found.store.dropped()}
        assert listed == {f"{path}:5": ("length", ""), f"{path}:3": ("dedup", f"{path}:1")}


def test_a_folder_of_documents_is_one_store(tmp_path: Path, folder: Path, renderer: Renderer) -> None:
    papers = tmp_path / "papers"
    papers.mkdir()
    for name, text in (("a.txt", "the light is on"), ("b.md", "the light is off, the lamp is on")):
        (papers / name).write_text(text, encoding="utf-8")
    (source,) = open_tables(papers)
    found = tokenise.tokenise(Job(source=source, name="papers", folder=folder), renderer)
    assert [d.row.rpartition(":")[0] for d in found.store] == [str(papers / "a.txt"), str(papers / "b.md")]
    assert all(d.supervised == len(d.tokens) - 1 for d in found.store)
    assert found.store.meta.names == ("\0/a.txt", "\0/b.md")


def test_a_mixture_of_rows_on_disk_is_that_of_rows_in_memory(tmp_path: Path, folder: Path, renderer: Renderer) -> None:
    path = write(tmp_path / "home.jsonl", ROWS)
    on_disk = tokenise.tokenise(job(path, folder), renderer).store

    def mixed(datums: Sequence[Datum]) -> list[list[Datum]]:
        source = MixSource(name="home", role="domain", category="domain", datums=datums, share=1.0)
        mixture = Mixture(sources=(source,), seed=3)
        return [mixture.step(index, 40) for index in range(10)]

    assert mixed(on_disk) == mixed(list(on_disk))


def test_what_a_kill_left_is_written_anew_and_an_error_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "tokens" / "key"
    beside = folder.with_name(".key.part")
    beside.mkdir(parents=True)
    (beside / "tokens").write_bytes(b"half")
    with pytest.raises(DataError), writing(folder) as empty:
        assert empty is not None
        assert empty == beside
        assert not list(empty.iterdir())
        (empty / "tokens").write_bytes(b"other half")
        raise DataError("the source ends")
    assert not list(folder.parent.iterdir())
    with writing(folder) as empty:
        assert empty is not None
        (empty / "tokens").write_bytes(b"whole")
    assert (folder / "tokens").read_bytes() == b"whole"


def test_two_at_once_write_once(tmp_path: Path) -> None:
    folder = tmp_path / "key"
    wrote: list[int] = []
    inside = threading.Barrier(1)

    def run(number: int) -> None:
        with writing(folder) as beside:
            if beside is not None:
                inside.wait()
                time.sleep(0.2)
                (beside / "tokens").write_text(str(number))
                wrote.append(number)
        assert (folder / "tokens").read_text() == str(wrote[0])

    threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrote) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["key"]


def test_one_who_waited_for_a_failure_writes_himself(tmp_path: Path) -> None:
    folder = tmp_path / "key"
    started = threading.Event()

    def fail() -> None:
        with pytest.raises(DataError), writing(folder):
            started.set()
            time.sleep(0.2)
            raise DataError("the source ends")

    thread = threading.Thread(target=fail)
    thread.start()
    assert started.wait(10)
    with writing(folder) as beside:
        assert beside is not None
        (beside / "tokens").write_text("mine")
    thread.join()
    assert (folder / "tokens").read_text() == "mine"


def test_too_little_room_is_said_before_the_first_row(
    tmp_path: Path, folder: Path, renderer: Renderer, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "home.jsonl", ROWS)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))  # pyright: ignore
    told: list[object] = []
    with pytest.raises(MachineError, match="0 MB free on this disk"):
        tokenise.tokenise(job(path, folder), renderer, progress=lambda *said: told.append(said))
    assert not told
    assert not list((cache / "tokens").iterdir())


def test_a_digest_is_computed_once_and_not_trusted_for_a_file_just_written(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "a"
    path.write_text("text")
    assert remembered_digests([path]) == [fetch.digest(path)]
    assert not (cache / "hashes.json").exists()
    os.utime(path, (1e9, 1e9))
    assert remembered_digests([path, path]) == [fetch.digest(path)] * 2
    (key,) = json.loads((cache / "hashes.json").read_text())
    (cache / "hashes.json").write_text(json.dumps({key: "as remembered"}))
    assert remembered_digests([path]) == ["as remembered"]
    (cache / "hashes.json").write_text("{cut o")
    assert remembered_digests([path]) == [fetch.digest(path)]


@pytest.mark.slow
def test_workers_give_what_one_process_gives(
    tmp_path: Path, folder: Path, renderer: Renderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"prompt": f"light {n} on", "completion": "yes" * (n % 7)} for n in range(2000)]
    path = write(tmp_path / "home.jsonl", rows)
    wanted = filters.parse("dedup")
    alone = tokenise.tokenise(job(path, folder, filters=wanted, inspect=see), renderer, workers=1)
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(tokenise, "SMALL", 0)
    shared = tokenise.tokenise(job(path, folder, filters=wanted, inspect=see), renderer, workers=2)
    assert not shared.cached
    assert shared.store.meta == alone.store.meta
    assert list(shared.store) == list(alone.store)
    assert list(shared.facts or ()) == list(alone.facts or ())
    assert shared.store.fingerprint == alone.store.fingerprint
