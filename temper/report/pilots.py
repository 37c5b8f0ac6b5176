"""What the report shows of pilots: the short runs before a stage, and the rate and share of replay they led to."""

from __future__ import annotations

import math
from collections.abc import Iterable

from markupsafe import Markup

from temper.events import Event
from temper.events.search import Calibrated, Pilot
from temper.report import svg
from temper.report.words import drop_percent, duration, percent

PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
HEADS = ("rate", "replay", "steps", "held-out loss", "general drop", "time", "")


def section(events: Iterable[Event]) -> Markup:
    """A table per stage that had pilots, and the sentence they led to; empty for a run without."""
    found = list(events)
    pilots = [e for e in found if isinstance(e, Pilot)]
    if not pilots:
        return Markup("")
    parts: list[Markup] = []
    for stage in dict.fromkeys(p.stage for p in pilots):
        parts.append(_table(stage, [p for p in pilots if p.stage == stage]))
        parts += [_conclusion(e) for e in found if isinstance(e, Calibrated) and e.stage == stage]
    return svg.element("section", svg.element("h2", "Pilots"), *parts, id="pilots")


def _table(stage: str, pilots: list[Pilot]) -> Markup:
    head = svg.element("tr", *(svg.element("th", text, scope="col") for text in HEADS))
    rows = [svg.element("tr", *(svg.element("td", cell) for cell in _cells(p))) for p in pilots]
    title = svg.element("caption", f"Short runs before {stage}")
    table = svg.element("table", title, svg.element("thead", head), svg.element("tbody", *rows))
    return svg.element("div", table, class_="scroll")


def _cells(pilot: Pilot) -> tuple[str, ...]:
    loss, drop = "came apart", ""
    if math.isfinite(pilot.loss):
        loss = f"{pilot.loss:.3f} {PLUS_MINUS} {pilot.loss_error:.3f}"
    if math.isfinite(pilot.drift):
        drop = f"{drop_percent(pilot.drift)} {PLUS_MINUS} {percent(pilot.drift_error)}"
    return (
        f"{pilot.lr:.2g}", percent(pilot.share), f"{pilot.steps} of {pilot.of}", loss, drop, duration(pilot.seconds),
        pilot.stopped,
    )  # fmt: skip


def _conclusion(found: Calibrated) -> Markup:
    between = f"rate {found.lr:.2g}, between {found.low:.2g} and {found.high:.2g} with 95 % probability"
    share = f"replay {percent(found.share)}: {found.share_reason}"
    cost = f"The pilots took {percent(found.cost)} of the tokens of the run."
    return svg.element("p", f"{found.reason} ({between}); {share}. {cost}")
