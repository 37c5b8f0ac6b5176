"""Inline SVG by hand: elements that escape what they hold, scales with round ticks, a plot frame.

A plotting library would put megabytes of script into every report; these marks weigh some kilobytes, follow the page's
colours in dark and light, print, and carry their hover text as `<title>`, which works without any script. Imports
nothing of temper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

Ticks = Sequence[float]


def element(name: str, *children: str, **attributes: object) -> Markup:
    """One element; `class_` means class, `_` in other names means `-`, None leaves the attribute out."""
    pairs = [(key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None]
    text = Markup("").join(Markup(' {}="{}"').format(Markup(key), _number(value)) for key, value in pairs)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), text, Markup("").join(escape(c) for c in children))


def group(*children: str, tip: str = "", **attributes: object) -> Markup:
    """A `<g>`; with `tip` it names itself on hover and to a screen reader."""
    if not tip:
        return element("g", *children, **attributes)
    label = tip.replace("\n", "; ")
    return element("g", element("title", tip), *children, tabindex=0, role="img", aria_label=label, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, **attributes: object) -> Markup:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, **attributes)


def text(x: float, y: float, content: str, **attributes: object) -> Markup:
    """Text at a point."""
    return element("text", content, x=x, y=y, **attributes)


def polyline(points: Sequence[tuple[float, float]], **attributes: object) -> Markup:
    """An open path through the points."""
    return element("polyline", points=_points(points), fill="none", **attributes)


def band(low: Sequence[tuple[float, float]], high: Sequence[tuple[float, float]], **attributes: object) -> Markup:
    """The area between two lines."""
    return element("polygon", points=_points([*low, *reversed(high)]), **attributes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Maps values to pixels, linearly or, with a `knee`, linearly up to the knee and logarithmically beyond."""

    low: float
    high: float
    start: float
    end: float
    knee: float = 0.0

    def __call__(self, value: float) -> float:
        """The pixel of a value; values outside are drawn at the edge."""
        share = (self._bent(value) - self._bent(self.low)) / (self._bent(self.high) - self._bent(self.low))
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def ticks(self, count: int = 5) -> Ticks:
        """Round values inside the scale, about `count` of them."""
        if not self.knee:
            return round_values(self.low, self.high, count)
        decades = [self.knee * m * 10**k for k in range(8) for m in (1, 3)]
        both = sorted([*(-x for x in decades), 0.0, *decades])
        return [x for x in both if self.low <= x <= self.high]

    def _bent(self, value: float) -> float:
        return math.asinh(value / self.knee * 2) if self.knee else value


def round_values(low: float, high: float, count: int) -> Ticks:
    """Multiples of 1, 2 or 5 times a power of ten from `low` to `high`."""
    raw = (high - low) / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.75)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def padded(values: Sequence[float], *, least: float, margin: float = 0.06) -> tuple[float, float]:
    """A range that holds the finite values with air around them, at least `least` wide."""
    finite = [v for v in values if math.isfinite(v)] or [0.0]
    low, high = min(finite), max(finite)
    air = max((high - low) * margin, (least - (high - low)) / 2, 0.0)
    return low - air, high + air


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A plot area with its two scales, axes, grid and labels."""

    x: Scale
    y: Scale
    width: float
    height: float

    def axes(
        self,
        *,
        x_label: str,
        y_label: str,
        x_format: Callable[[float], str],
        y_format: Callable[[float], str],
        counts: tuple[int, int] = (6, 5),
    ) -> Markup:
        """Grid lines, tick labels and axis titles."""
        bottom, left, right, top = self.y.start, self.x.start, self.x.end, self.y.end
        marks = [line(left, self.y(v), right, self.y(v), class_="grid-line") for v in self.y.ticks(counts[1])]
        marks += [line(self.x(v), bottom, self.x(v), bottom + 4, class_="tick") for v in self.x.ticks(counts[0])]
        marks.append(line(left, bottom, right, bottom, class_="axis"))
        marks += [
            text(left - 7, self.y(v) + 4, y_format(v), text_anchor="end", class_="tick-label")
            for v in self.y.ticks(counts[1])
        ]
        marks += [
            text(self.x(v), bottom + 18, x_format(v), text_anchor="middle", class_="tick-label")
            for v in self.x.ticks(counts[0])
        ]
        if x_label:
            marks.append(text(right, bottom + 36, x_label, text_anchor="end", class_="axis-label"))
        if y_label:
            marks.append(text(0, top - 12, y_label, class_="axis-label"))
        return element("g", *marks)

    def svg(self, *children: str, label: str, class_: str = "chart") -> Markup:
        """The finished picture."""
        return element(
            "svg",
            *children,
            viewBox=f"0 0 {self.width:g} {self.height:g}",
            role="group",
            aria_label=label,
            class_=class_,
        )


def frame(
    size: tuple[float, float], x: tuple[float, float], y: tuple[float, float], *, titles: str = "xy", knee: float = 0.0
) -> Frame:
    """A frame of `size` pixels for the given ranges, with room for tick labels and for the axis `titles` named."""
    width, height = size
    return Frame(
        x=Scale(low=x[0], high=x[1], start=54, end=width - 14, knee=knee),
        y=Scale(low=y[0], high=y[1], start=height - (44 if "x" in titles else 26), end=32 if "y" in titles else 10),
        width=width,
        height=height,
    )


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _number(value: object) -> object:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else value
