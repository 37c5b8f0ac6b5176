"""One offline HTML file from an event log: style, pictures and a little script inside, nothing fetched, ever.

A content security policy in the page forbids every request, so that a report opened next year on a train looks and
works as it does today. What comes from data is escaped by the template engine.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from markupsafe import Markup

from temper.report import candidates, chain, chain_picture, charts, pilots, sections, words
from temper.report import rollouts as reinforcement
from temper.report.runlog import BASE, RunLog, sort_log
from temper.report.summary import Summary, caution, sentence, summary_of

if TYPE_CHECKING:
    from temper.events import Event, Rollout

TITLES: Mapping[str, str] = {
    "improved": "Improved",
    "unconfirmed": "Not confirmed",
    "kept-base": "Base kept",
    "stopped": "Stopped",
    "unfinished": "Unfinished",
}
SHOWN_ANSWERS = 12
"""Answers of a probe that are open from the start; the rest is one click away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A chart with the words around it."""

    title: str
    svg: Markup
    note: str = ""
    legend: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One run of the comparison."""

    name: str
    colour: int
    summary: Summary


FILTERS: Mapping[str, Callable[..., str]] = {
    "percent": words.percent,
    "drop": words.drop_percent,
    "count": words.count,
    "duration": words.duration,
    "tolerance": words.tolerance_percent,
}
"""How the page writes figures."""


def render_report(
    events: Sequence[Event], *, others: Mapping[str, Sequence[Event]] | None = None, name: str = "run",
    rollouts: Sequence[Rollout] = (),
) -> str:  # fmt: skip
    """The whole page.

    Args:
        events: Of the run.
        others: Further runs to draw on the same frontier, by name.
        name: Of the run's folder.
        rollouts: Graded replies of its stages of reinforcement, to browse.
    """
    from jinja2 import Environment, StrictUndefined

    log = sort_log(events)
    logs = {name: log} | {_other_name(key, name): sort_log(value) for key, value in (others or {}).items()}
    summaries = {key: summary_of(one) for key, one in logs.items()}
    summary = summaries[name]
    lead, _, rest = sentence(summary, log).partition(":")
    folder = resources.files("temper.report")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters |= FILTERS
    page = environment.from_string(folder.joinpath("page.html.j2").read_text(encoding="utf-8"))
    style = folder.joinpath("page.css").read_text(encoding="utf-8")
    script = folder.joinpath("page.js").read_text(encoding="utf-8")
    return page.render(
        name=name,
        style=Markup(style),
        script=Markup(script),
        script_hash=_hash(script),
        log=log,
        summary=summary,
        words=words,
        base_id=BASE,
        status=TITLES[summary.tone],
        lead=lead,
        rest=rest,
        caution=caution(summary),
        best_missed=_best_missed(summary),
        kept_base=log.chosen == BASE,
        facts=_facts(log),
        compared=sections.comparison(log, summary),
        gauge=charts.gauge(summary.general, tolerance=summary.tolerance) if summary.general else "",
        frontier=_frontier(logs, log),
        candidates=candidates.table(log),
        runs=[RunRow(name=key, colour=i, summary=s) for i, (key, s) in enumerate(summaries.items())],
        other_bases=sorted({s.base for s in summaries.values()} - {summary.base}),
        course=_course(log),
        axes=_axes(log),
        training=_training(log),
        pilots=pilots.section(events),
        reinforcement=reinforcement.section(events, rollouts),
        exchanges=sections.exchanges(log),
        shown_answers=SHOWN_ANSWERS,
        sources=sections.sources(log),
        chain=chain_picture.draw(chain.chain(log, summary)),
        lineage=sections.lineage(log),
        cost_parts=sections.cost_parts(summary),
    )


def _frontier(logs: Mapping[str, RunLog], log: RunLog) -> Markup:
    """All runs in one picture, whose tolerance and score are those of the first."""
    marks = {key: sections.marks(one) for key, one in logs.items()}
    return charts.frontier(marks, tolerance=log.tolerance, score=candidates.score_name(log))


def _course(log: RunLog) -> tuple[Picture, ...]:
    """How both axes moved while the stages trained."""
    overall, _ = sections.general_over_time(log)
    domain = sections.domain_over_time(log)
    pictures = (
        Picture(
            title="General drop",
            svg=charts.over_time(
                [overall] if overall else [],
                label="",
                y_format="drop",
                stages=log.offsets(),
                tolerance=log.tolerance,
            ),
            note="All axes together on the quick suite; the band holds the one-sided 95 % bounds.",
        ),
        Picture(
            title="Domain score",
            svg=charts.over_time(domain, label="", stages=log.offsets(), floor=0.0),
            note="The band is the two-sided 95 % interval.",
            legend=tuple((s.colour, s.name) for s in domain),
        ),
    )
    return tuple(p for p in pictures if p.svg)


def _axes(log: RunLog) -> tuple[Picture, ...]:
    """One small picture per general axis, all on one scale."""
    _, axes = sections.general_over_time(log)
    return tuple(
        Picture(
            title=axis.name,
            svg=charts.over_time([axis], label="", y_format="drop", tolerance=log.tolerance, size=charts.SMALL),
        )
        for axis in axes
    )


def _training(log: RunLog) -> tuple[Picture, ...]:
    """Loss by source, divergence from the start and from a teacher, and learning rate."""
    by_source, rate = sections.losses(log), sections.learning_rate(log)
    moved, away = (sections.divergence(log, figure) for figure in ("held_kl", "teacher_kl"))
    pictures = (
        Picture(
            title="Loss by source",
            svg=charts.over_time(by_source, label="nats per token", y_format="plain", stages=log.offsets(), floor=0.0),
            note="Mean negative log-likelihood per supervised token, smoothed over about five steps.",
            legend=tuple((s.colour, s.name) for s in by_source),
        ),
        Picture(
            title="Divergence from the start",
            svg=charts.over_time([moved], label="nats per token", y_format="plain", stages=log.offsets(), floor=0.0),
            note="On the general rows that are held, over the whole vocabulary, smoothed over about five steps.",
        ),
        Picture(
            title="Divergence from the teacher",
            svg=charts.over_time([away], label="nats per token", y_format="plain", stages=log.offsets(), floor=0.0),
            note="On the model's own replies, over the whole vocabulary, smoothed over about five steps.",
        ),
        Picture(
            title="Learning rate",
            svg=charts.over_time([rate], label="", y_format="plain", stages=log.offsets(), floor=0.0),
        ),
    )
    return tuple(p for p in pictures if p.svg)


def _best_missed(summary: Summary) -> str:
    """When the base is kept: what the best candidate would have cost."""
    best = sections.best_trained(summary)
    if best is None or summary.choice is None or summary.choice.checkpoint != BASE:
        return ""
    where = words.position(best.stage, best.step, best.alpha, best.checkpoint)
    return (
        f"The best candidate on the domain, {where}, reached "
        f"{words.percent(best.domain)} with a general drop of {words.drop_percent(best.drop)} "
        f"(at most {words.drop_percent(best.ucb95)}): {best.reason.rstrip('.')}."
    )


def _facts(log: RunLog) -> tuple[tuple[str, str], ...]:
    """The small print under the verdict."""
    started = log.started
    if started is None:
        return ()
    facts = [("base", started.base), ("seed", str(started.seed)), ("machine", started.machine)]
    if started.at:
        moment = dt.datetime.fromtimestamp(started.at, tz=dt.UTC)
        facts.append(("started", f"{moment:%Y-%m-%d %H:%M} UTC"))
    if log.resumed:
        facts.append(("continued", f"{len(log.resumed)} times" if len(log.resumed) > 1 else "once"))
    return (*facts, ("temper", started.version))


def _other_name(key: str, name: str) -> str:
    return key if key != name else f"{key} (other)"


def _hash(script: str) -> str:
    return b64encode(hashlib.sha256(script.encode()).digest()).decode()
