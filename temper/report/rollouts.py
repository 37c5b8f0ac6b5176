"""What the report shows of reinforcement: the gate, how healthy the rollouts were, and rollouts to read.

Functions of the log and of the lines of `rollouts.jsonl`, which `events.read` reads; an empty string where a run has no
such stage. Every step shows its best, its median and its worst reply: reward hacking is seen by reading.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from temper.events import Event, GateReport, Health, Rollout, RolloutStep, Step
from temper.report import charts, svg
from temper.report.charts import Series
from temper.report.words import percent

MOST_STEPS = 12
"""Steps whose rollouts are shown, spread over the stage; the first and the last among them."""
MOST_TEXT = 1200
"""Characters of a prompt or a reply that are shown."""
PLAIN = "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One picture of a stage."""

    title: str
    series: tuple[Series, ...]
    note: str
    y_format: str = "percent"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A rollout worth reading."""

    step: int
    kind: str
    """best, median or worst."""
    rollout: Rollout


def section(events: Iterable[Event], rollouts: Iterable[Rollout] = ()) -> Markup:
    """The part of the page about reinforcement; empty for a run without it."""
    found, lines = list(events), list(rollouts)
    stages = dict.fromkeys(e.stage for e in found if isinstance(e, GateReport | RolloutStep))
    parts = [_stage(stage, found, [r for r in lines if r.stage == stage]) for stage in stages]
    if not parts:
        return Markup("")
    return svg.element("section", svg.element("h2", "Reinforcement"), *parts, id="reinforcement")


def panels(events: Iterable[Event], stage: str) -> tuple[Panel, ...]:
    """Reward, groups without spread, entropy, divergence, length and cut-off over the steps of a stage."""
    mine = [e for e in events if getattr(e, "stage", None) == stage]
    rolled = [e for e in mine if isinstance(e, RolloutStep)]
    updates = [e for e in mine if isinstance(e, Step)]

    def over(name: str, value: Callable[[RolloutStep], float | None], colour: int = 0) -> Series:
        points = tuple((s.step, v) for s in rolled if (v := value(s)) is not None)
        return Series(name=name, points=points, colour=colour)

    def of_loss(name: str, colour: int = 0) -> Series:
        points = tuple(
            (s.step, value) for s in updates for key, value in s.figures.items() if key.rpartition("/")[2] == name
        )
        return Series(name=name.replace("_", " "), points=points, colour=colour)

    parts = dict.fromkeys(name for s in rolled for name in s.parts)
    shown = (
        Panel(
            title="Reward",
            series=(
                over("training", lambda s: s.reward), over("held out", lambda s: _mean(s.heldout), 1),
                over("independent grader, held out", lambda s: _mean(s.audit), 2),
            ),
            note="0 is the least that the reward gives, 1 full marks. Prompts near one half are sought on purpose, so"
            " the training line says little; held out are greedy replies to tasks that are never trained on.",
        ),
        Panel(
            title="Parts of the reward", y_format=PLAIN,
            series=tuple(over(name, lambda s, n=name: s.parts.get(n), i) for i, name in enumerate(parts)),
            note="Each on its own scale; one that never moves teaches nothing.",
        ),
        Panel(
            title="Groups without spread", series=(over("share", lambda s: s.dead),),
            note="Rewards all alike: rolled out for nothing. Healthy: below 70 %.",
        ),
        Panel(
            title="Entropy", series=(over("nats per token", lambda s: s.entropy),), y_format=PLAIN,
            note="A gentle fall is normal; near zero nothing new is tried.",
        ),
        Panel(
            title="Divergence", series=(of_loss("start_kl"), of_loss("policy_kl", 1)), y_format=PLAIN,
            note="Nats per token: from the start of the stage where it is measured, and from the weights that sampled.",
        ),
        Panel(
            title="Length", series=(over("tokens per reply", lambda s: s.length),), y_format=PLAIN,
            note="A sudden rise is a loop, or length is paid for.",
        ),
        Panel(
            title="Limits",
            series=(
                over("replies at the token limit", lambda s: s.capped), of_loss("clipped", 1),
                over("rewards that failed", lambda s: s.errors, 2),
            ),
            note="Healthy: below 10 %, 20 % and 1 %.",
        ),
    )  # fmt: skip
    kept = (Panel(title=p.title, series=_drawn(p.series), note=p.note, y_format=p.y_format) for p in shown)
    return tuple(panel for panel in kept if panel.series)


def to_read(rollouts: Sequence[Rollout]) -> tuple[Shown, ...]:
    """Best, median and worst graded reply of some steps of a stage; of a step taken again what was taken last."""
    by_step: dict[int, list[Rollout]] = {}
    for r in rollouts:
        if r.number == 0:
            by_step[r.step] = []
        by_step.setdefault(r.step, []).append(r)
    found: list[Shown] = []
    for step in _spread(sorted(by_step)):
        graded = sorted((r for r in by_step[step] if r.reward is not None), key=lambda r: (r.reward or 0.0, r.number))
        if graded:
            chosen = (("best", graded[-1]), ("median", graded[(len(graded) - 1) // 2]), ("worst", graded[0]))
            found += [Shown(step=step, kind=kind, rollout=r) for kind, r in chosen]
    return tuple(found)


def _stage(stage: str, events: Sequence[Event], rollouts: Sequence[Rollout]) -> Markup:
    gates = [e for e in events if isinstance(e, GateReport) and e.stage == stage]
    health = [e for e in events if isinstance(e, Health) and e.stage == stage]
    return svg.element(
        "div",
        svg.element("h3", stage),
        *(_gate(report) for report in gates[-1:]),
        _pictures(panels(events, stage)),
        _health(health),
        _reading(to_read(rollouts)),
    )


def _gate(report: GateReport) -> Markup:
    forced = " (the run went on against it)" if report.forced else ""
    facts = (
        ("tasks tried", f"{report.tasks} of {report.total}, {report.tries} times each"),
        ("mean reward", _bounded(report.reward, report.reward_95)),
        ("pass@1", _bounded(report.pass_1, report.pass_1_95)),
        (f"pass@{report.tries}", _bounded(report.pass_k, report.pass_k_95)),
        (f"useful groups of {report.group_size}", _bounded(report.useful, report.useful_95)),
        ("predicted gain", percent(report.gain)),
        ("replies at the token limit", percent(report.capped)),
    )
    if report.agreement is not None and report.agreement_95 is not None:
        facts = (*facts, (f"agrees with {report.exam}", _bounded(report.agreement, report.agreement_95)))
    if report.hollow is not None:
        facts = (*facts, (f"rewarded, failed by {report.exam}", f"{report.hollow} replies"))
    said = [*report.reasons, *([report.remedy] if report.remedy else []), *report.remarks]
    return svg.element(
        "div",
        svg.element("p", svg.element("strong", f"Gate: {report.verdict}{forced}")),
        svg.element("ul", *(svg.element("li", text) for text in said), class_="notices"),
        _table(("figure", "start of the stage"), facts),
    )


def _pictures(found: Sequence[Panel]) -> Markup:
    figures = [
        svg.element(
            "figure",
            svg.element(
                "figcaption", svg.element("h3", panel.title), svg.element("p", panel.note), _legend(panel.series)
            ),
            charts.over_time(panel.series, label="", y_format=panel.y_format),
            class_="panel",
        )
        for panel in found
    ]
    return svg.element("div", *figures, class_="grid spaced") if figures else Markup("")


def _legend(series: Sequence[Series]) -> Markup:
    if len(series) < 2:
        return Markup("")
    swatches = [(svg.element("i", class_=f"swatch c{s.colour % 8}"), s.name) for s in series]
    return svg.element("ul", *(svg.element("li", *parts) for parts in swatches), class_="legend")


def _health(health: Sequence[Health]) -> Markup:
    if not health:
        return Markup("")
    rows = [(str(h.step), h.level, h.rule, h.reason) for h in health]
    return _table(("step", "level", "rule", "what was found, and what to do first"), rows)


def _reading(shown: Sequence[Shown]) -> Markup:
    if not shown:
        return Markup("")
    by_step: dict[int, list[Shown]] = defaultdict(list)
    for each in shown:
        by_step[each.step].append(each)
    parts = [
        svg.element(
            "details",
            svg.element("summary", "rollouts of the gate" if step == 0 else f"rollouts of step {step}"),
            _table(("", "reward", "outcome", "prompt", "reply"), [_reply(s) for s in found]),
        )
        for step, found in by_step.items()
    ]
    return svg.element("div", *parts, class_="rollouts")


def _reply(shown: Shown) -> tuple[str, ...]:
    r = shown.rollout
    parts = "".join(f"\n{name} {value:.3g}" for name, value in r.parts.items())
    return shown.kind, f"{r.reward:.3g}{parts}", r.outcome, _cut(r.prompt), _cut(r.reply)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    top = svg.element("thead", svg.element("tr", *(svg.element("th", name) for name in head)))
    body = [svg.element("tr", *(svg.element("td", cell, class_="pre") for cell in row)) for row in rows]
    return svg.element("div", svg.element("table", top, svg.element("tbody", *body)), class_="scroll")


def _bounded(value: float, bounds: Sequence[float]) -> str:
    return f"{percent(value)} ({percent(bounds[0])} to {percent(bounds[1])})"


def _drawn(series: Sequence[Series]) -> tuple[Series, ...]:
    return tuple(s for s in series if s.points)


def _mean(values: Mapping[str, float]) -> float | None:
    return sum(values.values()) / len(values) if values else None


def _spread(steps: Sequence[int]) -> list[int]:
    """At most `MOST_STEPS` of them, evenly, the ends included."""
    if len(steps) <= MOST_STEPS:
        return list(steps)
    last = len(steps) - 1
    return [steps[round(i * last / (MOST_STEPS - 1))] for i in range(MOST_STEPS)]


def _cut(text: str) -> str:
    return text if len(text) <= MOST_TEXT else text[:MOST_TEXT] + " ..."
