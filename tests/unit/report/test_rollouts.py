"""The section about reinforcement, from events and rollouts alone."""

from __future__ import annotations

import re
from importlib.resources import files

from temper.events import Event, GateReport, Health, Rollout, RolloutStep, Step
from temper.report.rollouts import panels, section, to_read

STAGE = "01-rft"


def rollout(step: int, number: int, reward: float | None, reply: str = "r") -> Rollout:
    return Rollout(
        stage=STAGE, step=step, number=number, task="t", prompt="<b>2 + 2?</b>", reply=reply, reward=reward,
        outcome="errored" if reward is None else "graded", length=3, parts={"digits": 0.5},
    )  # fmt: skip


def step(number: int) -> RolloutStep:
    looked = number in (1, 3)
    return RolloutStep(
        stage=STAGE, step=number, groups=("a", "b"), means=(0.5, 1.0), graded=(4, 4), useful=(True, False), reward=0.75,
        parts={"digits": 0.5}, length=7.0, entropy=1.2, heldout={"x": 0.2, "y": 0.6} if looked else {},
    )  # fmt: skip


def update(number: int) -> Step:
    return Step(
        stage=STAGE, step=number, lr=1e-4, tokens=9, supervised=4, loss=0.1, losses={}, grad_norm=1.0, seconds=1.0,
        figures={"clipped": 0.1, "start_kl": 0.02},
    )  # fmt: skip


GATE = GateReport(
    stage=STAGE, verdict="GO", reasons=("most groups would hold different rewards",), remarks=("few tasks",), tasks=36,
    total=100, tries=8, group_size=8, reward=0.4, reward_95=(0.3, 0.5), pass_1=0.3, pass_1_95=(0.2, 0.4), pass_k=0.9,
    pass_k_95=(0.8, 1.0), useful=0.7, useful_95=(0.6, 0.8), gain=0.42, histogram=(1, 2), spread={}, outcomes={},
    capped=0.01, length=5.0, forced=True,
)  # fmt: skip
LOG: list[Event] = [GATE, *(e for n in (1, 2, 3) for e in (step(n), update(n)))]


def test_a_run_without_reinforcement_has_no_such_section() -> None:
    assert section([update(1)], []) == ""


def test_the_page_has_a_style_for_what_the_section_is_made_of() -> None:
    """Pictures without one were as wide as the page, with letters four times as high."""
    page = str(section(LOG, [rollout(1, n, 0.1 * n) for n in range(4)]))
    css = files("temper.report").joinpath("page.css").read_text(encoding="utf-8")
    used = {name for found in re.findall('class="([^"]+)"', page) for name in found.split()}
    assert {"panel", "grid", "scroll", "legend"} <= used
    assert used - {"rollouts", "tick-label"} <= set(re.findall(r"[.]([a-z][a-z0-9-]*)", css))


def test_every_figure_of_health_is_drawn() -> None:
    found = {p.title: {s.name: list(s.points) for s in p.series} for p in panels(LOG, STAGE)}
    assert found["Reward"] == {
        "training": [(1, 0.75), (2, 0.75), (3, 0.75)],
        # The mean of 0.2 and 0.6, where it was looked at.
        "held out": [(1, 0.4), (3, 0.4)],
    }
    assert found["Groups without spread"] == {"share": [(1, 0.5), (2, 0.5), (3, 0.5)]}
    assert found["Divergence"] == {"start kl": [(1, 0.02), (2, 0.02), (3, 0.02)]}
    assert set(found["Limits"]) == {"replies at the token limit", "clipped", "rewards that failed"}
    assert {"Entropy", "Length", "Parts of the reward"} <= set(found)


def test_best_median_and_worst_of_a_step_are_there_to_read() -> None:
    rewards = [0.5, None, 0.1, 0.9, 0.4]
    found = to_read([rollout(1, n, r) for n, r in enumerate(rewards)])
    assert [(s.kind, s.rollout.reward) for s in found] == [("best", 0.9), ("median", 0.4), ("worst", 0.1)]


def test_a_step_that_was_taken_again_shows_what_was_taken_last() -> None:
    lines = [rollout(1, 0, 0.0, "lost"), rollout(1, 1, 1.0, "lost"), rollout(1, 0, 0.5, "kept")]
    assert {s.rollout.reply for s in to_read(lines)} == {"kept"}


def test_a_long_stage_shows_steps_from_all_of_it() -> None:
    found = to_read([rollout(n, 0, 0.5) for n in range(101)])
    steps = sorted({s.step for s in found})
    assert len(steps) == 12 and (steps[0], steps[-1]) == (0, 100)


def test_the_page_escapes_what_models_write_and_names_the_gate() -> None:
    health = Health(stage=STAGE, step=3, level="warn", rule="entropy", value=0.1, limit=0.3, reason="the entropy fell")
    page = section([*LOG, health], [rollout(0, 0, 0.5, "<script>alert(1)</script>")])
    assert "<script>" not in page and "&lt;script&gt;" in page and "&lt;b&gt;2 + 2?" in page
    for text in ("Gate: GO (the run went on against it)", "36 of 100, 8 times each", "the entropy fell", "<svg"):
        assert text in page
