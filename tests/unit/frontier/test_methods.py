"""The study's own methods: weights by hand, gradients against the loss they stand for, and whole runs with the fake."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from experiments.frontier.cells import PLUGINS
from experiments.frontier.methods import weights
from experiments.frontier.methods.stages import Follows
from temper.data.datum import Datum
from temper.events import Event, Role, Step, read
from temper.model.fake import FakeLearner
from temper.recipe.load import load
from temper.recipe.resolve import ResolvedStage
from temper.techniques.inventory import Inventory, Rows
from tests.fakes.world import World, live, stage


def test_flow_gives_the_median_row_less_than_an_easy_one_and_a_mean_of_one() -> None:
    found = weights.flow([1.0, 2.0, 4.0])

    # exp(-1/2), exp(-1), exp(-2) before they are divided by their mean.
    assert found[1] / found[0] == pytest.approx(math.exp(-0.5))
    assert found[2] / found[1] == pytest.approx(math.exp(-1.0))
    assert sum(found) == pytest.approx(3.0)


def test_talr_weighs_by_the_mean_loss_of_the_batch_and_keeps_a_hundredth() -> None:
    found = weights.talr([(-1.0, -2.0), (-0.0, -97.0)])

    # The mean loss is 25: exp(-1/25), exp(-2/25), 1, and exp(-97/25) = 0.0206.
    assert [v for row in found for v in row] == pytest.approx(
        [math.exp(-0.04), math.exp(-0.08), 1.0, math.exp(-97 / 25)]
    )
    assert weights.talr([(-0.01, -1.0, -0.01, -0.01, -0.01)])[0][1] == pytest.approx(0.01)  # exp(-4.8) is 0.008


def test_eaft_is_one_where_all_of_the_likeliest_are_alike_and_nothing_where_one_is_sure() -> None:
    assert weights.eaft([math.log(20), 0.0, math.log(20) / 2]) == pytest.approx([1.0, 0.0, 0.5])


def test_masked_kl_has_the_gradient_of_the_divergence_over_the_other_tokens() -> None:
    rng = np.random.default_rng(3)
    start, logits, right, scale = rng.normal(size=6), rng.normal(size=6), 2, 0.7

    def log_softmax(x: np.ndarray) -> np.ndarray:
        return x - np.log(np.exp(x).sum())

    def wanted(x: np.ndarray) -> float:
        """Cross-entropy plus scale x (1 - q) x KL over the tokens but the right one, both renormalised."""
        q, p = np.exp(log_softmax(start)), np.exp(log_softmax(x))
        others = np.arange(6) != right
        rest_q, rest_p = q[others] / (1 - q[right]), p[others] / (1 - p[right])
        return -log_softmax(x)[right] + scale * (1 - q[right]) * float((rest_q * np.log(rest_q / rest_p)).sum())

    numeric = np.array([(wanted(logits + d) - wanted(logits - d)) / 2e-6 for d in np.eye(6) * 1e-6])
    q, p = np.exp(log_softmax(start)), np.exp(log_softmax(logits))
    weight = weights.masked_kl([math.log(p[right])], [math.log(q[right])], scale=scale)[0]
    onehot = np.eye(6)[right]

    # Weighted cross-entropy has the gradient weight x (p - onehot), KL(start || model) has p - q.
    assert weight * (p - onehot) + scale * (p - q) == pytest.approx(numeric, abs=1e-7)


def test_masked_kl_stays_finite_where_both_are_sure() -> None:
    assert all(map(math.isfinite, weights.masked_kl([0.0, -30.0], [0.0, 0.0], scale=1.0)))


def test_the_hold_follows_how_far_the_general_rows_have_moved_within_limits() -> None:
    assert weights.following([]) == 1.0
    assert weights.following([0.15]) == pytest.approx(1.2)  # (0.9 x 0.05 + 0.1 x 0.15) / 0.05
    assert (weights.following([0.0] * 50), weights.following([9.0] * 50)) == (0.2, 3.0)


def test_held_rows_are_weighed_by_how_far_the_steps_of_their_stage_had_moved(tmp_path: Path) -> None:
    settled = ResolvedStage(
        id="02-follows", technique="follows", data=(), replay_share=0.5, replay_from={"code": 1.0}, keep="kl",
        keep_scale=3.0, adapter="full", rank=None, alpha=None, lr=1e-3, schedule="constant", warmup_steps=0, steps=3,
        epochs=1.0, batch_tokens=2, weight_decay=0.0, clip=1.0, betas=(0.9, 0.95), max_length=64, guard="off",
        choose="last", checkpoints=1,
    )  # fmt: skip
    inventory = Inventory(domain=(_one_row("domain"),), general=(_one_row("general"),))
    past: list[Event] = [_moved("01-sft", 9.0)]
    there = replace(live(FakeLearner.__new__(FakeLearner), tmp_path), past=past)
    feed = Follows.model_construct(strength=2.0).plan(settled, inventory, seed=0).feed(0, there)

    assert {d.source: d.weights for d in next(feed)} == {"domain": {"ce": (1.0,)}, "general": {"kl": (2.0,)}}
    past.append(_moved("02-follows", 0.15))
    assert {d.source: d.weights for d in next(feed)}["general"]["kl"] == pytest.approx((2.4,))  # 2 x 1.2


def _one_row(role: Role) -> Rows:
    datum = Datum(tokens=(1, 2), weights={"ce": (1.0,)}, source=role)
    return Rows(
        name=role, role=role, category="code", origin="here", licence="ours", datums=(datum,), fingerprint=role,
        is_own=False,
    )  # fmt: skip


def _moved(stage_id: str, nats: float) -> Step:
    return Step(
        stage=stage_id, step=1, lr=1e-3, tokens=2, supervised=2, loss=1.0, losses={}, grad_norm=1.0, seconds=1.0,
        figures={"held_kl": nats},
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Flow", "Talr", "MaskedKL", "Follows"])
def test_a_reweighed_stage_learns_its_rows(tmp_path: Path, name: str) -> None:
    world = World.make(tmp_path)
    document = {
        "base": "base", "probes": {"domain": ["safe-exam.jsonl"], "general": ["suite.toml"]}, "tolerance": "10%",
        "stages": [stage(technique=f"{PLUGINS}:{name}", guard="off")],
    }  # fmt: skip
    path = tmp_path / "plugin.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(document))), encoding="utf-8")

    world.run(load(path), "plugged")

    steps: list[Any] = [event for event in read(tmp_path / "plugged" / "events.jsonl") if isinstance(event, Step)]
    losses = [sum(step.losses.values()) for step in steps]
    assert len(steps) == 12
    assert losses[-1] < losses[0] / 2


@pytest.mark.slow
def test_pull_goes_part_of_the_way_back() -> None:
    import torch

    from experiments.frontier.methods import tensors

    moved = {"w": torch.tensor([1.0, 3.0])}

    tensors.pull(moved, {"w": torch.tensor([1.0, 1.0])}, 0.25)

    assert moved["w"].tolist() == [1.0, 2.5]  # 3 - 0.25 x (3 - 1)


def test_only_the_entries_with_the_largest_momentum_change() -> None:
    import torch

    from experiments.frontier.methods import tensors

    moved, before = {"w": torch.tensor([1.0, 2.0, 3.0, 4.0])}, {"w": torch.zeros(4)}

    tensors.keep_largest(moved, before, {"w": torch.tensor([0.1, -0.9, 0.2, 0.5])}, 0.5)

    assert moved["w"].tolist() == [0.0, 2.0, 0.0, 4.0]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "extra"), [("L2SP", {"pull": 1000.0}), ("MoFO", {"momentum": 0.5}), ("Eaft", {})])
def test_a_stage_that_reaches_into_the_torch_learner_runs(tmp_path: Path, name: str, extra: dict[str, float]) -> None:
    from safetensors.torch import load_file

    from temper.model.torch_backend import TorchBackend
    from temper.run.fold import run
    from tests.tiny import tiny_model

    World.make(tmp_path)  # for its rows and its suite
    folder = tiny_model(tmp_path / "tiny")
    trained = dict(stage(technique=f"{PLUGINS}:{name}", guard="off", steps=4, checkpoints=1, choose="last"))
    document = {
        "base": str(folder), "probes": {"domain": ["safe-exam.jsonl"], "general": ["suite.toml"]}, "tolerance": "10%",
        "stages": [trained | extra],
    }  # fmt: skip
    path = tmp_path / "plugin.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")

    result = run(load(path), tmp_path / "plugged", TorchBackend(), listen=lambda _: None, progress=lambda *_: None)

    before, after = (
        load_file(found) for place in (folder, result.folder.root / result.choice.path) for found in place.glob("*.s*")
    )
    moved = max(float((after[key] - before[key]).abs().max()) for key in before)
    assert moved > 0
    if name == "L2SP":
        # All the way back after each step but the last, so one step of Adam is left: at most about its rate, 1e-3.
        assert moved < 1.5e-3
