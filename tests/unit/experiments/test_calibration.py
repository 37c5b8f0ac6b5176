"""The grid's cells and the replay of strategies, on a made table whose best cell is known."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.calibration.grid import Plan, missing, plans, recipe_of
from experiments.calibration.replay import STRATEGIES, foretold, measure
from experiments.calibration.table import Cell, Seen, cell_of, read, write
from temper.recipe.load import load
from tests.fakes.world import World, held, stage

RATES = [1e-4 * 2**i for i in range(7)]
SHARES = (0.0, 0.1, 0.25, 0.5)
PLACES = (0.1, 0.25, 0.4, 0.6, 0.8, 1.0)


def made(lr: float, share: float, seed: int = 0) -> Cell:
    """The score rises with rate x progress; the drop with rate^1.5, and replay divides it by 1 + 12 x share."""

    def score(part: float) -> float:
        return 0.9 * (1 - math.exp(-3000 * lr * part * (1 - share))) - 0.01 * seed

    def drop(part: float) -> float:
        return 0.02 * (lr / 4e-4) ** 1.5 * math.sqrt(part) / (1 + 12 * share)

    looks = tuple(
        Seen(
            done=p, domain=score(p), drop=drop(p), lcb95=drop(p) - 0.002, ucb95=drop(p) + 0.002, loss=1 - score(p)
        )
        for p in PLACES
    )  # fmt: skip
    keeps = looks[-1].ucb95 <= 0.01
    risk = 1 / (1 + (0.01 / looks[0].drop) ** 2)
    return Cell(
        task="made sft lora", lr=lr, share=share, seed=seed, looks=looks, base=0.0, improved=keeps,
        domain=score(1.0) if keeps else 0.0, last_domain=score(1.0), last_drop=drop(1.0), tokens=1000, risk=risk,
        killed=looks[0].lcb95 > 0.03,
    )  # fmt: skip


TABLE = [made(lr, share, seed) for lr in RATES for share in SHARES for seed in (0, 1)]


def test_a_table_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write(tmp_path / "table.jsonl", TABLE)
    assert read(tmp_path / "table.jsonl") == TABLE


def test_a_cell_that_has_a_line_is_not_run_again() -> None:
    plan = Plan(recipe=Path("made/recipe.yaml"), technique="sft", adapter="lora", lr=2e-5, share=0.1, seed=0)
    done = replace(TABLE[0], task="made sft lora", lr=2.0000000001e-5, share=0.1, seed=0)
    others = [replace(plan, seed=1), replace(plan, share=0.0), replace(plan, lr=2.1e-5), replace(plan, adapter="full")]
    assert missing([plan, *others], [done]) == others


def test_trying_everything_finds_the_best_and_costs_everything() -> None:
    for name in ("grid", "random"):
        found = measure(TABLE, name, tolerance=0.01, draws=20)
        assert found.regret == 0.0
        assert found.cost == 28.0  # 7 rates x 4 shares
        assert found.arrived == 1.0


def test_halving_arrives_at_a_part_of_the_cost() -> None:
    alone, halved = (measure(TABLE, name, tolerance=0.01, draws=40) for name in ("random", "asha"))
    assert halved.arrival < 0.8 * alone.arrival
    assert halved.cost < 28.0


def test_pilots_and_one_run_cost_less_than_two_runs_and_end_near_the_best() -> None:
    found = measure(TABLE, "5+1", tolerance=0.01, draws=20)
    assert found.cost == pytest.approx(6 * 0.125 + 1)
    assert found.regret < 0.25


def test_the_estimator_is_replayed_too() -> None:
    pytest.importorskip("optuna")
    found = measure(TABLE, "tpe", tolerance=0.01, draws=1)
    assert 0 <= found.regret < 0.1
    assert set(STRATEGIES) == {"grid", "random", "tpe", "asha", "5+1"}


def test_the_prediction_is_judged_on_runs_that_fail_and_on_winners() -> None:
    found = foretold(TABLE)
    assert found.runs == len(TABLE)
    assert found.failed == sum(c.last_drop > 0.05 or c.last_domain < 0.1 for c in TABLE) > 0
    assert found.auc > 0.9  # the risk was made from the drop
    assert found.killed_winners == 0.0
    assert foretold([replace(c, risk=-c.risk) for c in TABLE]).auc < 0.1


def test_every_prefix_of_the_grid_covers_it(tmp_path: Path) -> None:
    for name in ("exam", "rows"):
        (tmp_path / f"{name}.jsonl").write_text('{"prompt": "a", "completion": "b"}\n', encoding="utf-8")
    recipe = tmp_path / "temper.yaml"
    recipe.write_text(
        "base: m/m\nprobes: {domain: [exam.jsonl]}\nstages: [{technique: sft, data: rows.jsonl}]\n", encoding="utf-8"
    )
    cells = plans([recipe], adapters=["lora", "full"], seeds=[0, 1], rates=7, shares=SHARES)
    assert len(cells) == 2 * 2 * 7 * 4 == len({c.folder for c in cells})
    first = cells[: len(cells) // 4]
    assert {c.adapter for c in first} == {"lora", "full"} and {c.seed for c in first} == {0, 1}
    assert len({c.share for c in first}) == 4
    assert "stages.0.replay=null" in next(c for c in cells if c.share == 0).settings


def test_a_domain_by_name_becomes_a_recipe_with_its_rows(tmp_path: Path) -> None:
    recipe = recipe_of("icd10", tmp_path)
    assert load(recipe).stages[0].epochs == 1.0
    assert len((tmp_path / "icd10" / "train.jsonl").read_text(encoding="utf-8").splitlines()) == 500
    assert plans([recipe], adapters=["lora"], seeds=[0], rates=2, shares=(0.0,))[0].task == "icd10 sft lora"
    assert recipe_of("runs/mine.yaml", tmp_path) == Path("runs/mine.yaml")


@pytest.mark.slow
def test_a_finished_run_becomes_a_line_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    world = World.make(tmp_path)
    result = world.run(world.recipe(stage(checkpoints=3)))
    log = held(result)
    cell = cell_of(log, task="t", lr=1e-3, share=0.0, seed=0, tolerance=0.1)
    assert cell is not None
    assert [look.done for look in cell.looks] == [pytest.approx(n / 12) for n in (4, 8, 12)]
    assert cell.improved and cell.domain == 1.0 and cell.base < 1.0
    assert not cell.failed()
    assert cell_of(log[:-1], task="t", lr=1e-3, share=0.0, seed=0, tolerance=0.1) is None
