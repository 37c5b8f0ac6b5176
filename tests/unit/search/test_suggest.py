"""What is tried next, and which knob mattered."""

from __future__ import annotations

import itertools
import json
import math
import sys
from pathlib import Path

import pytest

from temper.errors import MissingExtra
from temper.search.space import Space, read_space
from temper.search.suggest import STARTUP, Told, importance, spread, suggest

RATE, SHARE = "stages.0.lr", "stages.0.replay.share"


@pytest.fixture(name="space")
def _space(tmp_path: Path) -> Space:
    for name in ("exam", "rows"):
        (tmp_path / f"{name}.jsonl").write_text('{"prompt": "a", "completion": "b"}\n', encoding="utf-8")
    recipe = {
        "base": "somewhere/model", "probes": {"domain": ["exam.jsonl"]},
        "stages": [{"technique": "sft", "data": "rows.jsonl", "lr": "1e-5..1e-3", "replay": {"share": "0..0.5"}}],
    }  # fmt: skip
    (tmp_path / "temper.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    return read_space(tmp_path / "temper.yaml")


def told(lr: float, share: float) -> Told:
    """Best at 1e-4; above it the drop passes a tolerance of 1 %; the share changes nothing."""
    x = math.log10(lr) + 4
    drop = 0.01 * 10**x
    return Told(
        values={RATE: lr, SHARE: share}, domain=0.8 - 0.3 * x * x, drop=max(drop, 0.005), cost=1e5, excess=drop - 0.01
    )


def study(space: Space, size: int) -> list[Told]:
    made: list[Told] = []
    for number in range(1, size + 1):
        values = spread(space.knobs, number=number, seed=0)
        made.append(told(float(values[RATE]), float(values[SHARE])))
    return made


def test_the_first_trials_cover_the_space(space: Space) -> None:
    """Five points of the unit square lie a quarter of its side apart at least."""
    points = [
        ((math.log10(float(values[RATE])) + 5) / 2, 2 * float(values[SHARE]))
        for values in (spread(space.knobs, number=n, seed=0) for n in range(1, 6))
    ]
    assert min(math.dist(a, b) for a, b in itertools.combinations(points, 2)) > 0.25
    assert suggest(space.knobs, [], number=2, seed=0) == spread(space.knobs, number=2, seed=0)


def test_the_same_trial_of_the_same_study_gets_the_same_values(space: Space) -> None:
    pytest.importorskip("optuna")
    known = study(space, STARTUP + 3)
    assert suggest(space.knobs, known, number=9, seed=0) == suggest(space.knobs, known, number=9, seed=0)
    assert suggest(space.knobs, known, number=9, seed=0) != suggest(space.knobs, known, number=10, seed=0)


def test_the_estimator_goes_where_the_domain_is_high_and_the_tolerance_kept(space: Space) -> None:
    pytest.importorskip("optuna")
    known = study(space, 16)
    rates = [float(suggest(space.knobs, known, number=n, seed=0)[RATE]) for n in range(17, 29)]
    near = [r for r in rates if 3e-5 < r < 2e-4]
    assert len(near) > 0.5 * len(rates)  # by chance 41 %


def test_values_are_those_that_will_be_written(space: Space) -> None:
    pytest.importorskip("optuna")
    values = suggest(space.knobs, study(space, 6), number=7, seed=0)
    assert [float(s.split("=")[1]) for s in space.settings(values)] == [values[RATE], values[SHARE]]
    assert 1e-5 <= float(values[RATE]) <= 1e-3 and 0 <= float(values[SHARE]) <= 0.5


@pytest.mark.slow
def test_the_knob_that_matters_is_named(space: Space) -> None:
    pytest.importorskip("optuna")
    shares = importance(space.knobs, study(space, 20))
    assert shares[RATE] > 0.7
    assert sum(shares.values()) == pytest.approx(1.0)


def test_few_trials_say_nothing_about_the_knobs(space: Space) -> None:
    assert importance(space.knobs, study(space, STARTUP - 1)) == {RATE: 0.0, SHARE: 0.0}
    same = [Told(values={RATE: 1e-4, SHARE: 0.1 * n}, domain=0.5, drop=0, cost=1, excess=-1) for n in range(5)]
    assert importance(space.knobs, same) == {RATE: 0.0, SHARE: 0.0}


def test_without_optuna_the_command_that_installs_it_is_named(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtra, match=r"pip install 'temper-llm\[search\]'"):
        suggest(space.knobs, study(space, 6), number=7, seed=0)
