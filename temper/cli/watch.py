"""Watch: a run as seen by the person who waits, drawn from its events alone.

A moving picture on a terminal, lines in a pipe.
"""

from __future__ import annotations

import math
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from temper.cli.console import Work, plain_progress
from temper.events import (
    Candidate,
    Choice,
    DataUsed,
    Event,
    GateReport,
    Health,
    Measurement,
    Noticed,
    Resumed,
    Reused,
    RolloutStep,
    RunFinished,
    RunStarted,
    StageStarted,
    Step,
    Verdict,
)
from temper.events.search import Calibrated, Pilot
from temper.report.words import SPACE, drop_percent, duration, percent, position, score, tolerance_percent

MEMORY = 0.9
"""Of the moving averages of loss and speed."""
LINE_SECONDS = 15.0
LINE_PART = 0.1
"""In a pipe a step is told when both are over: this time, and this part of the stage."""
BAR, NARROW_BAR, NARROW = 30, 14, 100
"""Columns of the bar, the same on a narrow terminal, and what is narrow."""
COLOURS: Mapping[str, str] = {"ok": "green", "warn": "yellow", "stop": "red"}


class Watcher(Protocol):
    """Told what a run does."""

    def listen(self, event: Event) -> None:
        """Takes an event of the log."""
        ...

    def progress(self, what: str, done: int, of: int) -> None:
        """Takes what is being done."""
        ...


@dataclass(slots=True, kw_only=True)
class State:
    """What is known of a run at work."""

    work: Work = field(default_factory=Work)
    step: Step | None = None
    training: bool = False
    """Whether the last thing heard of was a step."""
    losses: dict[str, float] = field(default_factory=dict)
    """Moving average by `domain` and `general`; what the model itself said is no row, and not among them."""
    moved: float | None = None
    """Nats per token between the general rows that are held and the stage's start, moving average."""
    speed: float = 0.0
    """Tokens per second while training, moving average."""
    rollouts: RolloutStep | None = None
    verdict: Verdict | None = None
    tolerance: float = 0.0
    roles: dict[str, str] = field(default_factory=dict)
    """Source of rows -> `domain` or `general`."""
    first: Step | None = None
    """The first step of this sitting and stage: the time since then tells how long the rest will take."""

    def take(self, event: Event) -> None:
        """Remembers what the event says."""
        match event:
            case RunStarted():
                self.tolerance = event.tolerance
            case DataUsed():
                self.roles[event.source] = event.role
            case StageStarted() | Resumed():
                self.first = self.step = self.verdict = self.rollouts = None
                self.moved = None
                self.losses.clear()
            case Step():
                self._take_step(event)
            case RolloutStep():
                self.rollouts = event
            case Verdict():
                self.verdict = event
            case RunFinished() | Choice():
                self.step, self.training = None, False
            case _:
                pass

    def _take_step(self, event: Step) -> None:
        self.first = self.first or event
        self.step, self.training = event, True
        for side in ("domain", "general"):
            names = [n for n in event.losses if self.roles.get(n) == side]
            weights = [event.shares.get(n, 0.0) or 1e-9 for n in names]
            if names:
                now = sum(w * event.losses[n] for w, n in zip(weights, names, strict=True)) / sum(weights)
                self.losses[side] = _averaged(self.losses.get(side), now)
        if (moved := event.figures.get("held_kl")) is not None:
            self.moved = _averaged(self.moved, moved)
        self.speed = _averaged(self.speed or None, event.tokens / max(event.seconds, 1e-9))

    def do(self, what: str, done: int, of: int, *, now: float) -> None:
        """Remembers what is being done beside steps."""
        self.training = False
        self.work.tell(what, done, of, now=now)

    @property
    def seconds_left(self) -> float | None:
        """Until the last step of the stage, looks included; None before two steps are done, and after the last."""
        if self.step is None or self.first is None or not self.first.step < self.step.step < self.step.steps:
            return None
        spent = self.step.at - self.first.at
        return spent / (self.step.step - self.first.step) * (self.step.steps - self.step.step)

    def figures(self) -> str:
        """How training goes: losses, rewards, speed, rate."""
        assert self.step is not None
        parts = list[str]()
        # Rows that are held are not learnt: what they cost says less than how far they have moved.
        shown = {side: value for side, value in self.losses.items() if side == "domain" or self.moved is None}
        if shown:
            parts.append(f"loss {', '.join(f'{side} {value:.3f}' for side, value in shown.items())}")
        if self.moved is not None:
            parts.append(f"general {self.moved:.3f} nats from the start")
        if (away := self.step.figures.get("teacher_kl")) is not None:
            parts.append(f"{away:.3f} nats from the teacher")
        if self.rollouts is not None:
            parts.append(f"reward {self.rollouts.reward:.3f}, {self.rollouts.length:.0f} tokens a reply")
        return "  ".join((*parts, f"{self.speed:,.0f} tokens/s", f"lr {self.step.lr:.2e}"))

    def step_line(self) -> str:
        """Where training is, in one line."""
        assert self.step is not None
        left = "" if self.seconds_left is None else f", {duration(self.seconds_left)} left"
        return f"{self.step.stage} step {self.step.step}/{self.step.steps}  {self.figures()}{left}"


def _averaged(before: float | None, now: float) -> float:
    return now if before is None or not math.isfinite(before) else MEMORY * before + (1 - MEMORY) * now


def describe(event: Event) -> str:
    """An event that matters to the person who waits, in one line; empty for the others."""
    match event:
        case RunStarted():
            return f"base {event.base}, tolerance {tolerance_percent(event.tolerance)}, {event.machine}"
        case Noticed():
            return f"note {event.where}: {event.text}"
        case StageStarted():
            return f"{event.stage}: {event.technique}, {event.steps} steps from {event.parent}"
        case DataUsed():
            kind = event.role if event.category == event.role else f"{event.role}, {event.category}"
            return f"{event.stage}: {percent(event.share)} from {event.source} ({kind}, {event.rows} rows)"
        case Resumed():
            return f"{event.stage}: continues after step {event.step}"
        case Reused():
            return f"{event.stage}: taken over from {event.run}, which has done the same"
        case Pilot():
            found = event.stopped or f"held-out loss {event.loss:.3f}, general drop {percent(event.drift)}"
            return f"{event.stage}: pilot at {event.lr:.2g}, replay {percent(event.share)}: {found}"
        case Calibrated():
            return f"{event.stage}: pilots say {event.lr:.2g} and {percent(event.share)} replay; {event.reason}"
        case Measurement() if event.role == "domain":
            value = score(event.value, event.method)
            return f"{event.checkpoint}: {event.probe} {event.metric} {value} ({event.split} split)"
        case Verdict():
            return f"{event.stage} step {event.step}: guard says {event.level}, {event.reason}"
        case GateReport():
            return f"{event.stage}: gate says {event.verdict}, {'; '.join(event.reasons)}"
        case Health() if event.level != "ok":
            return f"{event.stage} step {event.step}: {event.rule} says {event.level}, {event.reason}"
        case Candidate() if event.split == "selection":
            able = "eligible" if event.eligible else "not eligible"
            return f"{event.stage}: {position('', event.step, event.alpha, event.checkpoint)} is {able}, {event.reason}"
        case Choice():
            return f"{event.stage}: chosen {event.checkpoint}, {event.reason}"
        case RunFinished():
            return f"finished: {event.verdict}, {event.tokens:,} tokens, {duration(event.seconds)}"
        case _:
            return ""


class PlainWatcher:
    """Lines for a pipe or a log file."""

    def __init__(self, to: Console) -> None:
        self._to = to
        self._state = State()
        self._told = plain_progress(to)
        self._line_at = -math.inf
        self._line_step = 0

    def listen(self, event: Event) -> None:
        """Prints what matters, and a step now and then."""
        self._state.take(event)
        if isinstance(event, StageStarted | Resumed):
            self._line_at, self._line_step = -math.inf, 0
        text = describe(event)
        if isinstance(event, Step) and self._due(event):
            text = self._state.step_line()
        if text:
            self._to.print(Text(text.replace(SPACE, " ")), soft_wrap=True)  # logs are searched

    def progress(self, what: str, done: int, of: int) -> None:
        """Prints what is being done when nothing was said for a while."""
        self._told(what, done, of)

    def _due(self, step: Step) -> bool:
        """The first step of a sitting, the last of a stage, and in between as both limits allow."""
        waited = time.monotonic() - self._line_at >= LINE_SECONDS
        walked = step.step - self._line_step >= LINE_PART * step.steps
        due = self._line_at == -math.inf or (waited and walked) or step.step == step.steps
        if due:
            self._line_at, self._line_step = time.monotonic(), step.step
        return due


class LiveWatcher:
    """A moving picture at the foot of the terminal, what happened above it."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._state = State()

    def listen(self, event: Event) -> None:
        """Prints what matters above the picture and redraws it."""
        self._state.take(event)
        text = describe(event)
        if text:
            style = COLOURS.get(event.level, "") if isinstance(event, Verdict | Health) else ""
            to = self._live.console
            to.print(Text(folded(text, to.width), style=style), soft_wrap=True)
        self._draw()

    def progress(self, what: str, done: int, of: int) -> None:
        """Redraws the picture."""
        self._state.do(what, done, of, now=time.monotonic())
        self._draw()

    def _draw(self) -> None:
        self._live.update(picture(self._state, self._live.console.width, now=time.monotonic()))


def folded(text: str, width: int) -> str:
    """A long line broken between words, the further ones set in."""
    whole = text.replace(" %", f"{SPACE}%")
    return textwrap.fill(whole, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def picture(state: State, width: int, *, now: float) -> Group:
    """The moving part: how far the stage is, how it goes, what is being done, and the last look.

    A line is cut at the edge, so that the picture keeps its height and does not jump.
    """
    lines: list[Text | Table] = []
    step, work = state.step, state.work
    if step is not None:
        left = state.seconds_left
        lines += [_bar(step.stage, step.step, step.steps, left, width), _line(state.figures())]
    if step is None:
        lines.append(_bar(work.what, work.done, work.of, work.seconds_left(now), width))
    else:
        what = "training" if state.training else work.line(now).removeprefix(f"{step.stage}/")
        lines.append(_line(f"now: {what}"))
    if state.verdict is not None:
        v = state.verdict
        text = (
            f"guard at step {v.step}: general drop {drop_percent(v.drop)}, at most {drop_percent(v.ucb95)} "
            f"(tolerance {tolerance_percent(state.tolerance)})"
        )
        lines.append(_line(text, style=COLOURS[v.level]))
    return Group(*lines)


def _bar(what: str, done: int, of: int, left: float | None, width: int) -> Table:
    """A name, a bar, a count and the time left, in one line."""
    row = Table.grid(padding=(0, 2))
    for least in (8, None, None, None):
        row.add_column(no_wrap=True, overflow="ellipsis", min_width=least)
    bar = ProgressBar(total=max(of, 1), completed=done, width=NARROW_BAR if width < NARROW else BAR)
    count = f"{done}/{of}" if of > 1 else ""
    row.add_row(Text(what, style="bold"), bar, Text(count), Text("" if left is None else f"{duration(left)} left"))
    return row


def _line(text: str, *, style: str = "") -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


@contextmanager
def watching(to: Console) -> Iterator[Watcher]:
    """The watcher that fits where the output goes."""
    if not to.is_terminal:
        yield PlainWatcher(to)
        return
    first = picture(State(), to.width, now=time.monotonic())
    with Live(first, console=to, refresh_per_second=4, transient=True) as live:
        yield LiveWatcher(live)
