"""The cache of the base's likeliest tokens: exact values, resume after a kill, broken files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from temper.data import topk
from temper.data.datum import Datum
from temper.errors import CheckpointError, DataError


def rows(count: int) -> list[Datum]:
    """Row n: tokens n, n + 1, n + 2, n + 3; its last two of three targets carry weight, in one term each."""
    weights = {"ce": (0.0, 1.0, 0.0), "kl": (0.0, 0.0, 0.5)}
    return [Datum(tokens=(n, n + 1, n + 2, n + 3), weights=weights, row=f"r:{n}") for n in range(count)]


class Counter:
    """Candidate j at target t of row n is token 100 n + 10 t + j with log-probability -(j + 1) / 4 - t."""

    def __init__(self, die_at: int = -1) -> None:
        self.asked: list[int] = []
        self.die_at = die_at

    def __call__(self, datums: Sequence[Datum], k: int) -> list[tuple[np.ndarray, np.ndarray]]:
        found = []
        for datum in datums:
            n = datum.tokens[0]
            if n == self.die_at:
                raise KeyboardInterrupt
            self.asked.append(n)
            place, rank = np.meshgrid(np.arange(3), np.arange(k), indexing="ij")
            found.append((100 * n + 10 * place + rank, -(rank + 1) / 4 - place))
        return found


def test_candidates_of_weighted_targets_come_back_exactly(tmp_path: Path) -> None:
    datums = rows(3)
    cache = topk.write(Counter(), datums, k=2, to=tmp_path / "a")
    assert (len(cache), cache.k) == (3, 2)
    # row 2, targets 1 and 2: ids 200 + 10 t + j; log-probabilities -t - 1/4 and -t - 2/4, exact in half precision
    assert cache[2].ids.tolist() == [[210, 211], [220, 221]]
    assert cache[2].logp.tolist() == [[-1.25, -1.5], [-2.25, -2.5]]
    assert (cache[2].ids.dtype, cache[2].logp.dtype) == (np.int32, np.float16)
    assert cache[-1].ids.tolist() == cache[2].ids.tolist()
    assert [found.ids[0, 0] for found in cache] == [10, 110, 210]
    with pytest.raises(IndexError):
        cache[3]


def test_the_size_is_known_before_and_is_what_the_files_take(tmp_path: Path) -> None:
    datums = rows(5)
    assert topk.size(datums, 4) == 5 * 2 * 4 * 6  # rows x weighted targets x k x (4 + 2) bytes
    topk.write(Counter(), datums, k=4, to=tmp_path / "a")
    header = 128  # of a .npy file
    assert sum((tmp_path / "a" / f"{n}.npy").stat().st_size - header for n in ("ids", "logp")) == 240


def test_a_killed_call_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Seven rows in batches of two: the third batch dies at its second row, so rows 0 to 3 are kept."""
    whole = topk.write(Counter(), rows(7), k=3, to=tmp_path / "whole", batch=2)
    to = tmp_path / "again"
    with pytest.raises(KeyboardInterrupt):
        topk.write(Counter(die_at=5), rows(7), k=3, to=to, batch=2)
    assert not to.exists()
    seen: list[tuple[int, int]] = []
    second = Counter()
    cache = topk.write(second, rows(7), k=3, to=to, batch=2, progress=lambda done, of: seen.append((done, of)))
    assert second.asked == [4, 5, 6]
    assert seen == [(6, 7), (7, 7)]
    assert np.array_equal(cache.ids, whole.ids)
    assert np.array_equal(cache.logp, whole.logp)
    third = Counter()
    topk.write(third, rows(7), k=3, to=to)
    assert third.asked == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "whole"]


def test_what_an_interrupted_call_left_is_made_anew_when_it_is_damaged(tmp_path: Path) -> None:
    to = tmp_path / "a"
    with pytest.raises(KeyboardInterrupt):
        topk.write(Counter(die_at=3), rows(4), k=2, to=to, batch=1)
    part = tmp_path / "a.part" / "ids.npy"
    part.write_bytes(part.read_bytes()[:-8])
    again = Counter()
    topk.write(again, rows(4), k=2, to=to)
    assert again.asked == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["ids.npy", "logp.npy", "offsets.npy", "done.json"])
def test_a_truncated_file_is_refused_by_name_of_the_folder(tmp_path: Path, name: str) -> None:
    to = tmp_path / "a"
    topk.write(Counter(), rows(4), k=2, to=to)
    (to / name).write_bytes((to / name).read_bytes()[:-9])
    with pytest.raises(DataError, match=r"a: not a whole cache of candidates .*delete the folder"):
        topk.read(to)


def test_a_cache_of_other_rows_does_not_pass(tmp_path: Path) -> None:
    to = tmp_path / "a"
    topk.write(Counter(), rows(4), k=2, to=to)
    (to / "done.json").write_text(json.dumps({"rows": 3}))
    with pytest.raises(DataError, match="not a whole cache"):
        topk.read(to)


def test_what_half_precision_cannot_hold_becomes_its_lowest_value_and_nan_is_refused(tmp_path: Path) -> None:
    def odd(value: float) -> topk.Top:
        def top(datums: Sequence[Datum], k: int) -> list[tuple[np.ndarray, np.ndarray]]:
            return [(np.zeros((3, k), int), np.full((3, k), value)) for _ in datums]

        return top

    assert topk.write(odd(-np.inf), rows(1), k=1, to=tmp_path / "a")[0].logp.tolist() == [[-65504.0], [-65504.0]]
    assert topk.write(odd(1e-7), rows(1), k=1, to=tmp_path / "b")[0].logp.tolist() == [[0.0], [0.0]]
    with pytest.raises(CheckpointError, match="r:0: the model gives no number"):
        topk.write(odd(np.nan), rows(1), k=1, to=tmp_path / "c")


def test_rows_without_weight_are_refused(tmp_path: Path) -> None:
    silent = [Datum(tokens=(1, 2), weights={"ce": (0.0,)})]
    with pytest.raises(DataError, match="no target carries weight in 1 rows"):
        topk.write(Counter(), silent, k=2, to=tmp_path / "a")


def test_the_path_depends_on_model_tokens_weights_order_and_k(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path))
    a, b = rows(2)
    light = Datum(tokens=a.tokens, weights={"ce": (0.0, 1.0, 0.0)})
    heavier = Datum(tokens=a.tokens, weights={"ce": (0.0, 2.0, 3.0)})
    paths = {
        topk.path_for(base, datums, k=k)
        for base, datums, k in [("aa", [a, b], 2), ("bb", [a, b], 2), ("aa", [b, a], 2), ("aa", [light, b], 2),
                                ("aa", [a, b], 3), ("aa", [a], 2)]
    }  # fmt: skip
    assert len(paths) == 6
    assert {path.parent for path in paths} == {tmp_path / "topk"}
    # how much a target weighs does not change what the model says there
    assert topk.path_for("aa", [heavier, b], k=2) == topk.path_for("aa", [a, b], k=2)
