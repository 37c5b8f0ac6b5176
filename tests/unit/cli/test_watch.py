from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from temper.cli.console import Work
from temper.cli.watch import PlainWatcher, State, folded, picture
from temper.events import DataUsed, Noticed, RolloutStep, RunStarted, StageStarted, Step, Verdict


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


def test_what_the_model_says_itself_is_no_loss_of_the_domain() -> None:
    """Its surprise at its own replies rises while it learns from a teacher, who is told of instead."""
    state = State()
    state.take(source("tickets", "domain"))
    said = replace(step(1), losses={"tickets": 0.5, "own replies": 4.0}, shares={"tickets": 0.5, "own replies": 0.5})
    state.take(replace(said, figures={"teacher_kl": 1.25}))
    assert state.figures() == "loss domain 0.500  1.250 nats from the teacher  1,000 tokens/s  lr 1.00e-03"
    alone = State()
    alone.take(replace(said, losses={"own replies": 4.0}, figures={"teacher_kl": 1.25}))
    assert alone.figures().startswith("1.250 nats from the teacher")


def test_of_rows_that_are_held_it_is_told_how_far_they_have_moved() -> None:
    state = State()
    for event in (source("tickets", "domain"), source("own-reasoning", "general"), source("safety", "general")):
        state.take(event)
    state.take(replace(step(1), figures={"held_kl": 0.1}))
    state.take(replace(step(2), figures={"held_kl": 0.05}))
    # 0.9 x 0.1 + 0.1 x 0.05
    assert state.figures().startswith("loss domain 1.000  general 0.095 nats from the start  ")


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


def seen(state: State, width: int, *, now: float = 0.0) -> list[str]:
    """The lines of the picture on a terminal of that width."""
    out = io.StringIO()
    Console(file=out, width=width).print(picture(state, width, now=now))
    return [line.rstrip() for line in out.getvalue().replace("\N{NO-BREAK SPACE}", " ").splitlines()]


def at_work() -> State:
    state = State()
    state.take(
        RunStarted(base="m", lineage={}, recipe="", settings=(), tolerance=0.01, version="0", seed=0, machine="box")
    )
    for name in ("tickets", "own-reasoning", "safety"):
        state.take(source(name, "domain"))
    state.take(step(10, at=0.0))
    state.take(step(20, at=10.0))
    state.take(
        Verdict(stage="01-sft", step=20, level="warn", drop=0.012, lcb95=0.004, ucb95=0.02, axes={}, reason="drop")
    )
    return state


def test_the_picture_holds_step_losses_and_the_last_look() -> None:
    bar, figures, now, guard = seen(at_work(), 160)
    # 10 steps in 10 seconds: 80 steps are 80 seconds.
    assert bar.startswith("01-sft")
    assert bar.endswith("20/100  1 min 20 s left")
    assert figures == "loss domain 2.000  1,000 tokens/s  lr 1.00e-03"  # (0.5 x 1 + 0.25 x 2 + 0.25 x 4) / 1
    assert now == "now: training"
    assert guard == "guard at step 20: general drop 1.20 %, at most 2.0 % (tolerance 1 %)"


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_picture_keeps_its_height_on_every_terminal(width: int) -> None:
    state = at_work()
    assert len(seen(state, width)) == 4
    state.do("01-sft/step-000020: selection probe a-probe-with-a-long-name", 3, 12, now=0.0)
    lines = seen(state, width)
    assert len(lines) == 4
    assert max(map(len, lines)) <= width
    assert lines[2].startswith("now: step-000020: selection")  # the bar above names the stage


def test_rewards_stand_beside_the_loss() -> None:
    state = at_work()
    state.take(
        RolloutStep(
            step=20, groups=("t",), means=(0.5,), graded=(4,), useful=(True,), reward=0.5, length=31.6, entropy=1.0
        )
    )
    assert "reward 0.500, 32 tokens a reply" in seen(state, 120)[1]


def test_the_time_of_other_work_is_told_once_it_is_known() -> None:
    work = Work()
    work.tell("base: quick probe piqa", 0, 12, now=100.0)
    assert work.line(102.0) == "base: quick probe piqa (1 of 12)"
    work.tell("base: quick probe arc", 3, 12, now=112.0)  # the same suite under another name
    # Three pieces took 12 seconds, nine are left.
    assert work.line(112.0).replace("\N{NO-BREAK SPACE}", " ") == "base: quick probe arc (4 of 12, 36 s left)"
    work.tell("tokenising rows.jsonl", 50_000, 200_000, now=115.0)  # bytes
    assert work.line(115.0) == "tokenising rows.jsonl (25%)"
    work.tell("reading the rows", 0, 1, now=120.0)
    assert work.line(130.0) == "reading the rows"


def test_long_lines_break_between_words_and_never_before_a_percent_sign() -> None:
    text = "01-sft step 28: guard says ok, dropped by 12 % at most"
    assert folded(text, 44) == "01-sft step 28: guard says ok, dropped by\n    12\N{NO-BREAK SPACE}% at most"


def test_a_log_can_be_searched_for_a_percentage() -> None:
    out = io.StringIO()
    PlainWatcher(Console(file=out, width=200)).listen(source("tickets", "domain"))
    assert "50 % from tickets" in out.getvalue()
