"""Preference optimisation and distillation on a tiny Llama: the reference, the general rows, the teacher."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from temper.data.datum import Datum
from temper.data.render import Renderer
from temper.data.row import Message, Row
from temper.losses import Term
from temper.model.protocol import Checkpoint, Policy, TrainSpec
from temper.model.torch_backend import TorchBackend
from temper.techniques.base import Live
from temper.techniques.distill import Distill, ResolvedDistill
from temper.techniques.dpo import DPO, ResolvedDPO
from temper.techniques.general import Rows
from temper.techniques.inventory import Inventory
from tests.tiny import tiny_model

WORDS = ("kitchen", "bedroom", "capital", "assistant", "system", "model")
COMMON = {
    "id": "02", "data": (), "replay_from": {}, "keep": "kl", "keep_scale": 2.0, "adapter": "lora", "rank": 4,
    "alpha": 32.0, "lr": 1e-3, "schedule": "constant", "warmup_steps": 0, "steps": 8, "epochs": 1.0,
    "batch_tokens": 120, "weight_decay": 0.0, "clip": 1.0, "betas": (0.9, 0.95), "max_length": 64, "guard": "off",
    "choose": "last", "checkpoints": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tiny"))


def chain(base: Path, to: Path, spec: TrainSpec, rows: list[Datum], *, steps: int = 5) -> Checkpoint:
    """What a stage of SFT hands on: full weights, an adapter merged into them."""
    backend = TorchBackend()
    start = Checkpoint(id="base", path=base, base=base, lineage={"name": str(base)})
    learner = backend.open(start, spec).learner
    learner.load(start)
    for _ in range(steps):
        learner.forward_backward(rows, (Term(loss="ce"),))
        learner.optim_step(5e-3)
    learner.save(to / "trained")
    trained = Checkpoint(id="01/step", path=to / "trained", base=base, adapter=spec.rank is not None)
    backend.whole(trained, to / "whole")
    return Checkpoint(id="01/step", path=to / "whole", base=to / "whole", lineage=start.lineage)


def live(start: Checkpoint, policy: Policy, folder: Path) -> Live:
    return Live(
        policy=policy, start=start, open=TorchBackend().open, renderer=Renderer.load(start.path), folder=folder,
        cache=folder / "cache", log=lambda event: event, progress=lambda *_: None,
    )  # fmt: skip


def inventory(renderer: Renderer) -> Inventory:
    """Pairs as the domain, one general source."""
    words = [(a, b) for a in WORDS for b in WORDS]
    pairs = [
        Row(
            id=f"{n:016x}",
            messages=(Message(role="user", content=f"{a} light {b}"), Message(role="assistant", content="yes yes")),
            rejected=(Message(role="assistant", content="no " * (1 + n % 3)),),
            origin=f"pairs:{n}",
        )
        for n, (a, b) in enumerate(words)
    ]
    datums = tuple(d for n, row in enumerate(pairs) for d in renderer.pair(row, source="pairs", group=n, term="ce"))
    texts = [renderer.text(f"The quick {a} jumps over the lazy {b}.") for a, b in words]
    general = tuple(Datum(tokens=t, weights={"ce": (1.0,) * (len(t) - 1)}, source="prose") for t in texts)
    source = Rows(name="pairs", role="domain", category="domain", origin="", licence="", datums=datums, fingerprint="p")
    prose = replace(source, name="prose", role="general", category="language", datums=general, fingerprint="g")
    return Inventory(
        domain=(source,), general=(prose,), tasks=tuple(pairs), prompts=tuple(renderer.prompt(r.prompt) for r in pairs)
    )  # fmt: skip


@pytest.mark.parametrize("rank", [4, None])
def test_after_a_merged_adapter_the_first_step_costs_log_two(base: Path, tmp_path: Path, rank: int | None) -> None:
    renderer = Renderer.load(base)
    rows = inventory(renderer)
    spec = TrainSpec(rank=rank)
    start = chain(base, tmp_path, TrainSpec(rank=4), list(rows.general[0].datums[:6]))
    policy = TorchBackend().open(start, spec)
    policy.learner.load(start)
    stage = ResolvedDPO(
        **{**COMMON, "adapter": "lora" if rank else "full"}, technique="dpo", replay_share=0.25, loss="dpo", beta=0.1,
        margin=0.0, rpo=0.0,
    )  # fmt: skip
    stage = replace(stage, replay_from={"language": 1.0})
    plan = DPO.model_construct().plan(stage, rows, seed=0)
    batches = list(islice(plan.feed(0, live(start, policy, tmp_path)), 8))
    base_answers = TorchBackend().open(Checkpoint(id="base", path=base, base=base)).learner
    (row,) = [d for d in batches[0] if d.group == 0 and d.weights["dpo"][-1] > 0]
    told = [value for value, w in zip(row.side["ref_logprobs"], row.weights["dpo"], strict=True) if w]
    assert told == pytest.approx(TorchBackend().open(start).learner.logprobs([row])[0], abs=1e-4)
    assert max(abs(a - b) for a, b in zip(told, base_answers.logprobs([row])[0], strict=True)) > 0.01
    losses = []
    for batch in batches:
        metrics = policy.learner.forward_backward(batch, plan.objective)
        policy.learner.optim_step(1e-3)
        losses.append(metrics.loss)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-4)  # the divergence from the start is zero as well
    assert losses[-1] < losses[0] - 0.02


@pytest.mark.slow
def test_a_repair_on_a_real_sampler_lowers_the_divergence_from_the_base(base: Path, tmp_path: Path) -> None:
    renderer = Renderer.load(base)
    rows = inventory(renderer)
    start = chain(base, tmp_path, TrainSpec(rank=None), list(rows.domain[0].datums[:12]), steps=15)
    policy = TorchBackend().open(start, TrainSpec(rank=4, reference=base))
    policy.learner.load(start)
    stage = ResolvedDistill(
        **COMMON, technique="distill", replay_share=0.0, teacher="", prompts=24, max_new_tokens=12, holds=False
    )  # fmt: skip
    plan = Distill.model_construct().plan(stage, rows, seed=0)
    losses = []
    for batch in islice(plan.feed(0, live(start, policy, tmp_path)), 12):
        metrics = policy.learner.forward_backward(batch, plan.objective)
        losses.append(metrics.loss)
        policy.learner.optim_step(2e-3)
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])
