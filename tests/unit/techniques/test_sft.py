"""SFT's plan and the shares of its mixture, on rows made here and on the catalogue's."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temper.data.datum import Datum
from temper.events import Role
from temper.model.fake import FakeLearner
from temper.model.protocol import TrainSpec
from temper.run.prepare import prepare, train_spec
from temper.techniques.base import Plan
from temper.techniques.inventory import Inventory, Rows, shares
from temper.techniques.mixing import mixture
from temper.techniques.sft import SFT, ResolvedSFT
from temper.train import train
from tests.fakes.world import live

if TYPE_CHECKING:
    from tests.fakes.world import World

BATCH = 200


def rows(name: str, role: Role, category: str, lengths: range) -> Rows:
    """Rows of these numbers of supervised tokens, each after a prompt of three."""
    datums = tuple(
        Datum(tokens=(1,) * (n + 3), weights={"ce": (0.0,) * 2 + (1.0,) * n}, source=name, row=f"{name}:{i}")
        for i, n in enumerate(lengths, start=1)
    )
    return Rows(
        name=name, role=role, category=category, origin="here", licence="ours", datums=datums, fingerprint=name,
        is_own=name.startswith("own-"),
    )  # fmt: skip


def inventory() -> Inventory:
    """22 + 390 domain tokens; code from both sources, reasoning from the catalogue, safety from the base alone."""
    return Inventory(
        domain=(rows("short", "domain", "domain", range(4, 8)), rows("long", "domain", "domain", range(10, 30))),
        general=(
            rows("code", "general", "code", range(5, 40)), rows("own-code", "general", "code", range(3, 30)),
            rows("reasoning", "general", "reasoning", range(8, 20)),
            rows("own-safety", "general", "safety", range(3, 9)),
        ),
    )  # fmt: skip


def stage(**fields: object) -> ResolvedSFT:
    settled = {
        "id": "01-sft", "technique": "sft", "data": (), "replay_share": 0.4,
        "replay_from": {"code": 0.5, "reasoning": 0.3, "safety": 0.2},
        "keep": "ce", "keep_scale": 1.0, "adapter": "full", "rank": None, "alpha": None, "lr": 1e-3,
        "schedule": "constant", "warmup_steps": 4, "steps": 40, "epochs": 1.0, "batch_tokens": BATCH,
        "weight_decay": 0.0, "clip": 1.0, "betas": (0.9, 0.95), "max_length": 64, "train_on": "all", "guard": "stop",
        "choose": "best", "checkpoints": 3,
    }  # fmt: skip
    return ResolvedSFT(**{**settled, **fields})  # pyright: ignore[reportArgumentType]


def plan(settled: ResolvedSFT, *, seed: int = 0) -> Plan:
    return SFT.model_construct().plan(settled, inventory(), seed=seed)


def test_shares_are_by_size_in_the_domain_and_own_answers_first_in_replay() -> None:
    # Domain: 4 + 5 + 6 + 7 = 22 and 10 + ... + 29 = 390 of 412 tokens, together 60 %.
    # Code: half of 40 %, three quarters of it own answers; the other two categories have one source each.
    found = shares(inventory(), 0.4, {"code": 0.5, "reasoning": 0.3, "safety": 0.2})
    assert found == pytest.approx(
        {
            "short": 0.6 * 22 / 412, "long": 0.6 * 390 / 412, "own-code": 0.15, "code": 0.05,
            "reasoning": 0.12, "own-safety": 0.08,
        }
    )  # fmt: skip
    assert sum(found.values()) == pytest.approx(1.0)


def test_a_source_of_weight_zero_gives_nothing_and_the_rest_of_its_category_all() -> None:
    found = shares(inventory(), 0.4, {"code": 1.0, "own-code": 0.0})
    assert (found["code"], found["own-code"]) == pytest.approx((0.4, 0.0))


@given(
    st.dictionaries(
        st.sampled_from(["code", "own-code", "reasoning", "safety", "own-safety"]), st.floats(0.1, 9), min_size=1
    ),
    st.floats(0.01, 1),
)
def test_shares_sum_to_one_whatever_is_named(weights: dict[str, float], share: float) -> None:
    """`from: {safety: 1, own-safety: 1}` was refused as shares that do not sum to 1: the category had nothing left."""
    asked = {name: weight / sum(weights.values()) for name, weight in weights.items()}
    found = shares(inventory(), share, asked)
    assert sum(found.values()) == pytest.approx(1.0)
    assert sum(part for name, part in found.items() if name not in ("short", "long")) == pytest.approx(share)


def test_shares_without_replay_are_the_domains() -> None:
    found = shares(inventory(), 0.0, {})
    assert found == pytest.approx({"short": 22 / 412, "long": 390 / 412})
    mixed = mixture(stage(replay_share=0.0, replay_from={}), inventory(), seed=0)
    assert [source.name for source in mixed.sources] == ["short", "long"]


@pytest.mark.parametrize("keep", ["ce", "kl"])
def test_the_shares_that_the_steps_report_are_those_asked_for(world: World, keep: str) -> None:
    """Over the run each source is off by less than one row: at most 39 of 8000 tokens, 0.5 %."""
    settled = stage(keep=keep)
    base = world.backend.locate(str(world.folder / "base")).checkpoint
    learner = FakeLearner(base, TrainSpec(rank=None))
    steps = [taken.step for taken in train(plan(settled), live(learner, world.folder))]
    assert len(steps) == 40
    total = sum(step.supervised for step in steps)
    assert total == pytest.approx(40 * BATCH, rel=0.02)
    for source, share in shares(inventory(), settled.replay_share, settled.replay_from).items():
        realised = sum(step.shares.get(source, 0.0) * step.supervised for step in steps) / total
        assert realised == pytest.approx(share, abs=0.01), source


def test_a_plan_goes_on_in_the_middle_as_it_would_have_gone_on(tmp_path: Path) -> None:
    mixed, nobody = plan(stage(), seed=3), live(FakeLearner.__new__(FakeLearner), tmp_path)
    whole, rest = (mixed.feed(start, nobody) for start in (0, 5))
    for _ in range(5):
        next(whole)
    for _ in range(5):
        assert next(whole) == next(rest)


def test_the_rate_rises_stays_and_what_is_held_pulls_to_the_start() -> None:
    held = plan(stage(keep="kl", keep_scale=2.0))
    # Four steps of warm-up to 1e-3, then constant.
    assert [held.schedule(i) for i in range(6)] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3, 1e-3])
    assert [(term.loss, term.scale) for term in held.objective] == [("ce", 1.0), ("kl", 2.0)]
    terms = {(datum.source in ("short", "long"), *datum.weights) for datum in islice(held.rows(), 60)}
    assert terms == {(True, "ce"), (False, "kl")}


@pytest.mark.network
@pytest.mark.slow
def test_a_run_mixes_the_catalogue_and_what_the_base_itself_says(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake base answers the general prompts once; the answers are found again by the next run."""
    real = Path("~/.cache/temper").expanduser()
    cache = world.folder / "cache"
    cache.mkdir(exist_ok=True)
    for name in ("catalog", "extracted", "packages", "hashes.json"):
        if (real / name).exists():
            (cache / name).symlink_to(real / name)
    told: list[str] = []
    recipe = world.recipe({"replay": {"share": "40%"}, "batch_tokens": 600, "steps": 6, "checkpoints": 1})
    prepared = prepare(recipe, world.backend, lambda what, done, of: told.append(what))
    assert any("its own replay" in what for what in told)
    (found,), settled = prepared.inventories, prepared.resolved.stages[0]
    assert {r.category for r in found.general} == set(settled.replay_from)
    part = shares(found, settled.replay_share, settled.replay_from)
    assert sum(part.values()) == pytest.approx(1.0)
    assert part["safe.jsonl"] == pytest.approx(0.6)
    base = world.backend.open(prepared.base.checkpoint, train_spec(settled, seed=0)).learner
    steps = [taken.step for taken in train(prepared.plan(0), live(base, world.folder))]
    total = sum(step.supervised for step in steps)
    for source, share in part.items():
        longest = max(d.supervised for r in (*found.domain, *found.general) if r.name == source for d in r.datums)
        realised = sum(step.shares.get(source, 0.0) * step.supervised for step in steps)
        assert abs(realised - share * 6 * 600) <= longest, source
    assert total == pytest.approx(6 * 600, rel=0.1)
    again = prepare(recipe, world.backend, lambda what, done, of: told.append(f"again {what}"))
    assert not any("again" in what and "its own replay" in what for what in told)
    assert [r.fingerprint for r in again.inventories[0].general] == [r.fingerprint for r in found.general]
