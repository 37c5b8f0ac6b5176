"""The candidates of a run: which of them no other beats on both axes, and the table of all. Pure: a sorted log in."""

from __future__ import annotations

import math
from dataclasses import replace

from markupsafe import Markup, escape

from temper.events import Candidate, Split
from temper.report import words
from temper.report.runlog import BASE, RunLog
from temper.report.svg import element
from temper.stats.pareto import pareto

HEADS = ("candidate", "domain", "general drop", "at most", "measured on", "standing", "what was said of it")
CHOOSING: tuple[Split, ...] = ("selection", "quick")
"""The splits that candidates are compared on, the more telling one first."""


def base_level(log: RunLog) -> tuple[Split, float] | None:
    """Domain score of the base on the split that chooses, and which split that was; of text it has saved no bits."""
    for candidate in log.alike():
        if candidate.checkpoint == BASE:
            return candidate.split, candidate.domain
    for split in CHOOSING:
        asked = [m for m in log.of(BASE, split, "domain") if not log.exams or m.probe in log.exams]
        values = [0.0 if m.method == "loss" else m.value for m in asked if m.method != "loss" or log.exams]
        if values:
            return split, sum(values) / len(values)
    return None


def score_name(log: RunLog) -> str:
    """What the domain score of the compared candidates is."""
    return "bits saved on held-out text" if log.is_text(log.exams) else "domain score"


def on_front(log: RunLog) -> frozenset[str]:
    """Ids of the candidates that no other one beats on both domain score and general drop; the base is one of them.

    Confirmed ones are compared with each other, since screening asked fewer items; where nothing that was trained is
    confirmed, all of them. Candidates that other exams judged are not compared with these.
    """
    trained = [c for c in log.alike() if c.checkpoint != BASE and math.isfinite(c.domain) and math.isfinite(c.drop)]
    confirmed = [c for c in trained if c.split != "quick"]
    level = base_level(log)
    base = [(BASE, level[1], 0.0)] if level else []
    points = [*base, *((c.checkpoint, c.domain, c.drop) for c in confirmed or trained)]
    return frozenset(points[n][0] for n in pareto([(domain, drop) for _, domain, drop in points]))


def table(log: RunLog) -> Markup:
    """Every candidate with its figures, the best domain score first; empty where none was measured.

    Where stages were judged by different exams, those of what is handed over come first, and each score says of what.
    """
    found = log.frontier()
    if not found:
        return Markup("")
    front = on_front(log)
    heads = element("thead", element("tr", *(element("th", head) for head in HEADS)))
    order = sorted(found, key=lambda c: (c.exams != log.exams, c.split == "quick", -c.domain))
    level = base_level(log)
    if level and not any(c.checkpoint == BASE for c in found):
        order.insert(len(log.alike()), _base(found[0], level))
    several = len({c.exams for c in found}) > 1
    rows = [
        _row(
            c, is_chosen=c.checkpoint == log.chosen, is_on_front=c.checkpoint in front,
            of=f" ({', '.join(c.exams)})" if several else "",
        )
        for c in order
    ]  # fmt: skip
    return element("div", element("table", heads, element("tbody", *rows)), class_="scroll")


def _base(like: Candidate, level: tuple[Split, float]) -> Candidate:
    """The base as a candidate, which it always is."""
    return replace(
        like, stage="", step=0, alpha=0.0, checkpoint=BASE, domain=level[1], drop=0.0, lcb95=0.0, ucb95=0.0,
        split=level[0], reason="doing nothing is always a candidate",
    )  # fmt: skip


def _row(c: Candidate, *, is_chosen: bool, is_on_front: bool, of: str) -> Markup:
    place = "base" if c.checkpoint == BASE else words.position(c.stage, c.step, c.alpha, c.checkpoint)
    standing = ", ".join(text for text, holds in (("chosen", is_chosen), ("unbeaten", is_on_front)) if holds)
    cells = (
        place, words.percent(c.domain) + of, words.drop_percent(c.drop), words.drop_percent(c.ucb95), c.split, standing,
    )  # fmt: skip
    return element(
        "tr", *(element("td", escape(cell)) for cell in cells), element("td", escape(c.reason), class_="said")
    )
