"""The pictures of the report as inline SVG: the frontier, drops over time, losses and the learning rate.

Every function takes figures and returns markup; an empty string means that there is nothing to draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from temper.report import svg
from temper.report.retention import Bounded
from temper.report.words import drop_percent, is_trained, percent, position, tolerance_percent
from temper.stats import Interval

Points = Sequence[tuple[float, float]]
COLOURS = 8
WIDE, HALF, SMALL = (760.0, 430.0), (540.0, 260.0), (262.0, 150.0)
MOST_POINTS = 240
"""A line keeps this many points; a report of a long run stays small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One model on the frontier."""

    label: str
    """Id of the checkpoint."""
    stage: str
    step: int
    alpha: float
    drop: float
    ucb95: float
    domain: float
    ci95: Interval | None
    confirmed: bool
    eligible: bool
    reason: str
    split: str
    is_base: bool = False
    is_chosen: bool = False
    is_on_front: bool = False
    """Whether no other candidate of its run is better on both axes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A line, with an optional band of bounds around it."""

    name: str
    points: Points
    low: Points = ()
    high: Points = ()
    colour: int = 0


def frontier(runs: Mapping[str, Sequence[Mark]], *, tolerance: float, score: str = "domain score") -> Markup:
    """Domain score over general drop, one colour per run; left of the tolerance line is where one may stand.

    Args:
        runs: Candidates by run.
        tolerance: The largest general drop that is accepted.
        score: What the domain score is, in words.
    """
    marks = [m for run in runs.values() for m in run]
    if not marks:
        return Markup("")
    drops = [x for m in marks for x in (m.drop, m.ucb95) if math.isfinite(x)]
    left, right = svg.padded([*drops, 0.0, tolerance * 1.6], least=tolerance or 0.01)
    knee = tolerance if tolerance > 0 and right > 12 * tolerance else 0.0
    if knee:
        left, right = min(-tolerance, *drops) * 1.2, right * 1.15
    scores = [v for m in marks for v in (m.domain, *((m.ci95.low, m.ci95.high) if m.ci95 else ()))]
    low, high = svg.padded([v for v in scores if math.isfinite(v)], least=0.1, margin=0.08)
    low, high = (max(-0.015, low), min(1.02, high)) if min(scores) >= 0 and max(scores) <= 1 else (low, high)
    frame = svg.frame(WIDE, (left, right), (low, high), knee=knee)
    layers = [_safe_side(frame, tolerance)]
    layers.append(
        frame.axes(
            x_label="general drop" + (" (logarithmic beyond the tolerance)" if knee else ""),
            y_label=score,
            x_format=tolerance_percent,
            y_format=percent,
        )
    )
    layers.append(_tolerance_line(frame, tolerance))
    layers += [_paths(frame, run, colour) for colour, run in enumerate(runs.values())]
    layers += [_front(frame, run, colour) for colour, run in enumerate(runs.values())]
    layers += [_whiskers(frame, m, colour) for colour, run in enumerate(runs.values()) for m in run]
    several = len(runs) > 1
    drawn = [(m, colour, name) for colour, (name, run) in enumerate(runs.items()) for m in _shown(runs, run)]
    drawn.sort(key=lambda row: (row[0].is_chosen, row[0].is_base))
    layers += [_dot(frame, m, colour, name if several and not m.is_base else "") for m, colour, name in drawn]
    layers.append(_labels(frame, [m for m, _, _ in drawn]))
    return frame.svg(*layers, label="Domain score over general drop of every candidate")


def _shown(runs: Mapping[str, Sequence[Mark]], run: Sequence[Mark]) -> list[Mark]:
    """The marks of a run without a base that an earlier run has drawn at the same place."""
    earlier = list(runs.values())[: next(i for i, r in enumerate(runs.values()) if r is run)]
    bases = {m.domain for r in earlier for m in r if m.is_base}
    return [m for m in run if not (m.is_base and m.domain in bases and not m.is_chosen)]


def _safe_side(frame: svg.Frame, tolerance: float) -> Markup:
    x, y = frame.x.start, frame.y.end
    return svg.element("rect", x=x, y=y, width=frame.x(tolerance) - x, height=frame.y.start - y, class_="safe")


def _tolerance_line(frame: svg.Frame, tolerance: float) -> Markup:
    x = frame.x(tolerance)
    return svg.group(
        svg.line(x, frame.y.start, x, frame.y.end, class_="tolerance"),
        svg.text(x + 6, frame.y.end + 12, f"tolerance {tolerance_percent(tolerance)}", class_="tolerance-label"),
    )


def _paths(frame: svg.Frame, run: Sequence[Mark], colour: int) -> Markup:
    """Faint lines: from step to step, and from the trained weights of a step back to where they started."""
    steps = sorted((m for m in run if m.is_base or is_trained(m.label)), key=lambda m: (not m.is_base, m.stage, m.step))
    lines = [svg.polyline([_at(frame, m) for m in steps], class_="trail")]
    for stage, step in sorted({(m.stage, m.step) for m in run if m.alpha not in (0.0, 1.0)}):
        same = sorted((m for m in run if (m.stage, m.step) == (stage, step) and m.alpha > 0), key=lambda m: m.alpha)
        lines.append(svg.polyline([_at(frame, m) for m in same], class_="blend"))
    return svg.group(*lines, class_=f"c{colour % COLOURS}")


def _front(frame: svg.Frame, run: Sequence[Mark], colour: int) -> Markup:
    """The edge of what the run reached: steps through the candidates that no other beats on both axes."""
    places = sorted(_at(frame, m) for m in run if m.is_on_front)
    if len(places) < 2:
        return Markup("")
    corners = [corner for (_, y), (x, v) in pairwise(places) for corner in ((x, y), (x, v))]
    return svg.polyline([*places[:1], *corners], class_=f"front c{colour % COLOURS}")


def _whiskers(frame: svg.Frame, mark: Mark, colour: int) -> Markup:
    x, y = _at(frame, mark)
    lines = []
    if not mark.is_base and math.isfinite(mark.ucb95):
        end = frame.x(mark.ucb95)
        lines += [svg.line(x, y, end, y), svg.line(end, y - 4, end, y + 4)]
    if mark.ci95:
        low, high = frame.y(mark.ci95.low), frame.y(mark.ci95.high)
        lines += [svg.line(x, low, x, high), *(svg.line(x - 4, v, x + 4, v) for v in (low, high))]
    strength = "" if mark.confirmed else " faint"
    return svg.group(*lines, class_=f"whisker c{colour % COLOURS}{strength}")


def _dot(frame: svg.Frame, mark: Mark, colour: int, run: str) -> Markup:
    x, y = _at(frame, mark)
    kind = "solid" if mark.confirmed else "hollow"
    if mark.is_base:
        shape = [svg.element("path", d=f"M{x:.1f} {y - 7:.1f}l7 7l-7 7l-7 -7z", class_="base-mark")]
    else:
        shape = [svg.element("circle", cx=x, cy=y, r=5.5, class_=kind)]
    if mark.is_chosen:
        shape.insert(0, svg.element("circle", cx=x, cy=y, r=11, class_="halo"))
    return svg.group(*shape, tip=_tip(mark, run), class_=f"point c{colour % COLOURS}")


def _tip(mark: Mark, run: str) -> str:
    interval = f" ({percent(mark.ci95.low)} to {percent(mark.ci95.high)})" if mark.ci95 else ""
    lines = [
        f"{run}: {mark.label}" if run else mark.label,
        "" if mark.is_base else position(mark.stage, mark.step, mark.alpha, mark.label),
        f"domain {percent(mark.domain)}{interval}",
        "general drop 0: what the others are compared with"
        if mark.is_base
        else f"general drop {drop_percent(mark.drop)}, at most {drop_percent(mark.ucb95)}",
        "" if mark.is_base else f"{'confirmed' if mark.confirmed else 'screened'} on the {mark.split} split",
        "no other candidate is better on both axes" if mark.is_on_front else "",
        f"{'chosen: ' if mark.is_chosen else ''}{mark.reason}",
    ]
    return "\n".join(text for text in lines if text)


def _labels(frame: svg.Frame, marks: Sequence[Mark]) -> Markup:
    """Names what is free to be named: chosen and base first, then steps where the label hits nothing."""
    taken = [(_at(frame, m)[0] - 8, _at(frame, m)[0] + 8, _at(frame, m)[1]) for m in marks]
    words = []
    for mark in sorted(marks, key=lambda m: (not m.is_chosen, not m.is_base, not m.confirmed, -m.step)):
        label = "base" if mark.is_base else position("", mark.step, mark.alpha, mark.label).removeprefix("step ")
        label = f"chosen: {label}" if mark.is_chosen else label
        x, y = _at(frame, mark)
        width = 7.2 * len(label)
        spots = [
            (x + 13, y - 9),
            (x - 13 - width, y - 9),
            (x + 13, y + 17),
            (x - 13 - width, y + 17),
            (x - width / 2, y - 17),
        ]
        for left, base in spots:
            box = (left, left + width, base - 4)
            inside = left >= frame.x.start and left + width <= frame.x.end and base < frame.y.start - 3
            if inside and not any(box[0] < b and a < box[1] and abs(box[2] - v) < 13 for a, b, v in taken):
                words.append(svg.text(left, base, label, class_="strong-label" if mark.is_chosen else "mark-label"))
                taken.append(box)
                break
    return svg.group(*words)


def _at(frame: svg.Frame, mark: Mark) -> tuple[float, float]:
    drop = mark.drop if math.isfinite(mark.drop) else frame.x.high
    return frame.x(drop), frame.y(mark.domain)


def over_time(
    series: Sequence[Series], *, label: str, y_format: str = "percent", stages: Mapping[str, int] | None = None,
    tolerance: float | None = None, size: tuple[float, float] = HALF, floor: float | None = None,
) -> Markup:  # fmt: skip
    """Lines over optimiser steps, with bounds where there are any and the tolerance as a line."""
    series = [s for s in (_thinned(s) for s in series) if s.points]
    if not series:
        return Markup("")
    xs = [x for s in series for x, _ in s.points]
    ys = [y for s in series for part in (s.points, s.low, s.high) for _, y in part]
    low, high = svg.padded([*ys, *([tolerance * 1.3, 0.0] if tolerance else [])], least=1e-9, margin=0.08)
    low = floor if floor is not None and min(ys) >= floor else low
    small = size == SMALL
    titles = ("" if small else "x") + ("y" if label else "")
    frame = svg.frame(size, (min(0.0, *xs), max(1.0, *xs)), (low, high if high > low else low + 1.0), titles=titles)
    write = drop_percent if y_format == "drop" else percent if y_format == "percent" else _plain
    layers = [
        frame.axes(
            x_label="" if small else "optimiser step",
            y_label=label,
            x_format=_plain,
            y_format=tolerance_percent if y_format == "drop" else write,
            counts=(3, 3) if small else (6, 4),
        )
    ]
    for stage, offset in (stages or {}).items():
        if offset and not small:
            x = frame.x(offset)
            layers.append(svg.line(x, frame.y.start, x, frame.y.end, class_="stage-line"))
            layers.append(svg.text(x + 4, frame.y.end + 10, stage, class_="tick-label"))
    if tolerance is not None:
        y = frame.y(tolerance)
        layers.append(svg.line(frame.x.start, y, frame.x.end, y, class_="tolerance"))
    layers += [_line(frame, s) for s in series]
    layers.append(_hover(frame, series, write))
    return frame.svg(*layers, label=f"{label} over steps", class_="chart small" if small else "chart")


def _line(frame: svg.Frame, series: Series) -> Markup:
    def place(points: Points) -> Points:
        return [(frame.x(x), frame.y(y)) for x, y in points if math.isfinite(y)]

    parts = [svg.band(place(series.low), place(series.high), class_="band")] if series.low and series.high else []
    parts.append(svg.polyline(place(series.points), class_="series"))
    if len(series.points) <= 30:
        parts += [svg.element("circle", cx=x, cy=y, r=2.6, class_="knot") for x, y in place(series.points)]
    return svg.group(*parts, class_=f"c{series.colour % COLOURS}")


def _hover(frame: svg.Frame, series: Sequence[Series], write: Callable[[float], str]) -> Markup:
    """Invisible columns, one per step that has a point, which name every value there."""
    values: dict[float, list[str]] = {}
    for one in series:
        bounds = {x: (low, high) for (x, low), (_, high) in zip(one.low, one.high, strict=False)}
        for x, y in one.points:
            between = f" ({write(bounds[x][0])} to {write(bounds[x][1])})" if x in bounds else ""
            values.setdefault(x, []).append(f"{one.name}: {write(y)}{between}")
    xs = sorted(values)
    edges = [frame.x.start, *((frame.x(a) + frame.x(b)) / 2 for a, b in pairwise(xs)), frame.x.end]
    columns = [
        svg.element(
            "rect",
            svg.element("title", "\n".join([f"step {x:g}", *values[x]])),
            x=edges[i],
            y=frame.y.end,
            width=max(0.5, edges[i + 1] - edges[i]),
            height=frame.y.start - frame.y.end,
            class_="hit",
        )
        for i, x in enumerate(xs)
    ]
    return svg.group(*columns)


def gauge(general: Bounded, *, tolerance: float) -> Markup:
    """The general drop as a dot with its bound, against the tolerance."""
    values = [0.0, tolerance * 1.5, general.drop, general.ucb95]
    low, high = svg.padded([v for v in values if math.isfinite(v)], least=1e-6, margin=0.05)
    x = svg.Scale(low=low, high=high, start=6, end=234)
    y, edge = 15.0, x(tolerance)
    parts = [
        svg.element("rect", x=6.0, y=y - 4, width=228.0, height=8.0, rx=4, class_="gauge-over"),
        svg.element("rect", x=6.0, y=y - 4, width=max(0.0, edge - 6), height=8.0, rx=4, class_="gauge-safe"),
        svg.line(x(general.drop), y, x(general.ucb95), y, class_="gauge-whisker"),
        svg.element("circle", cx=x(general.drop), cy=y, r=5.0, class_="gauge-dot"),
        svg.line(edge, y - 10, edge, y + 10, class_="tolerance"),
    ]
    label = f"general drop {drop_percent(general.drop)}, at most {drop_percent(general.ucb95)}"
    return svg.element("svg", svg.group(*parts, tip=label), viewBox="0 0 240 30", class_="gauge")


def smoothed(points: Points, *, weight: float = 0.8) -> Points:
    """Exponential moving average, corrected for its start, so that it begins at the first value."""
    out, mean, mass = [], 0.0, 0.0
    for x, y in points:
        if math.isfinite(y):
            mean, mass = weight * mean + (1 - weight) * y, weight * mass + (1 - weight)
        out.append((x, mean / mass if mass else y))
    return out


def _thinned(series: Series) -> Series:
    every = math.ceil(len(series.points) / MOST_POINTS)
    finite = [p for p in series.points if math.isfinite(p[1])]
    if every <= 1:
        return Series(name=series.name, points=finite, low=series.low, high=series.high, colour=series.colour)
    return Series(name=series.name, points=[*finite[:-1:every], finite[-1]] if finite else (), colour=series.colour)


def _plain(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
