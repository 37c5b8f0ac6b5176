from __future__ import annotations

import io

import pytest
from rich.console import Console

from temper.cli.watch import PlainWatcher, State, picture
from temper.events import DataUsed, Noticed, RunStarted, StageStarted, Step, Verdict


def step(number: int, *, loss: float = 1.0, steps: int = 100, at: float = 0.0) -> Step:
    losses = {"tickets": loss, "own-reasoning": 2.0, "safety": 4.0}
    shares = {"tickets": 0.5, "own-reasoning": 0.25, "safety": 0.25}
    return Step(
        stage="01-sft", step=number, steps=steps, lr=1e-3, tokens=500, supervised=50, loss=loss, losses=losses,
        shares=shares, grad_norm=1.0, seconds=0.5, at=at,
    )  # fmt: skip


def source(name: str, role: str) -> DataUsed:
    return DataUsed(
        stage="01-sft", source=name, role="general" if role == "general" else "domain", category="", origin="",
        licence="", rows=1, tokens=1, supervised=1, share=0.5, fingerprint="",
    )  # fmt: skip


def test_general_sources_are_one_figure_weighted_by_their_shares() -> None:
    state = State()
    for event in (source("tickets", "domain"), source("own-reasoning", "general"), source("safety", "general")):
        state.take(event)
    state.take(step(1))
    assert state.losses == {"domain": 1.0, "general": 3.0}  # (0.25 x 2 + 0.25 x 4) / 0.5
    assert state.speed == 1000.0  # 500 tokens in half a second
    state.take(step(2, loss=2.0))
    assert state.losses["domain"] == pytest.approx(1.1)  # 0.9 x 1 + 0.1 x 2


def test_the_time_left_counts_everything_between_steps() -> None:
    state = State()
    state.take(step(40, at=100.0))
    assert state.seconds_left is None
    state.take(step(50, at=130.0))
    # 10 steps took 30 seconds, looks included; 50 are left.
    assert state.seconds_left == 150.0


def test_a_pipe_gets_the_first_and_the_last_step_and_not_each() -> None:
    out = io.StringIO()
    watcher = PlainWatcher(Console(file=out, width=200))
    watcher.listen(StageStarted(stage="01-sft", technique="sft", parent="base", key="k", steps=100))
    for number in range(1, 101):
        watcher.listen(step(number))
    lines = [line for line in out.getvalue().splitlines() if " step " in line]
    assert [line.split("  ")[0] for line in lines] == ["01-sft step 1/100", "01-sft step 100/100"]


def test_text_of_the_user_is_never_read_as_markup() -> None:
    out = io.StringIO()
    PlainWatcher(Console(file=out, width=200)).listen(Noticed(where="data", text="[T001] rows [/red] twice"))
    assert out.getvalue() == "note data: [T001] rows [/red] twice\n"


def test_the_picture_holds_step_losses_and_the_last_look() -> None:
    state = State()
    state.take(
        RunStarted(base="m", lineage={}, recipe="", settings=(), tolerance=0.01, version="0", seed=0, machine="box")
    )
    state.take(step(10, at=0.0))
    state.take(step(20, at=10.0))
    state.take(
        Verdict(stage="01-sft", step=20, level="warn", drop=0.012, lcb95=0.004, ucb95=0.02, axes={}, reason="drop")
    )
    out = io.StringIO()
    Console(file=out, width=160).print(picture(state))
    seen = out.getvalue().replace("\N{NO-BREAK SPACE}", " ")
    # 10 steps in 10 seconds: 80 steps are 80 seconds.
    for part in (
        "training 01-sft",
        "20/100",
        "1 min 20 s left",
        "guard at step 20: general drop 1.20 %",
        "tolerance 1 %",
    ):
        assert part in seen
