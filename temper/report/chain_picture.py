"""The picture of a chain: a row of boxes, an arrow from each to what was made from it, at its natural size."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from temper.report import svg
from temper.report.chain import Box, Fact

WIDTH, GAP, LINE, HEAD, PAD = 196.0, 24.0, 18.0, 46.0, 12.0
LETTERS = 28
"""Of 12 pixels that fit into a box."""
TITLE_LETTERS = 23
ENTRY = 23.0
"""Where arrows between neighbours meet a box, from its top."""
DETOUR = 20.0
"""From one path below the boxes to the next."""


def draw(boxes: Sequence[Box]) -> Markup:
    """The chain as one SVG; empty where there is nothing to draw."""
    if not boxes:
        return Markup("")
    height = HEAD + LINE * max(len(box.marks) + len(box.facts) for box in boxes) + PAD / 2
    far = [(box.parent, n) for n, box in enumerate(boxes) if 0 <= box.parent < n - 1]
    near = [(box.parent, n) for n, box in enumerate(boxes) if box.parent >= 0 and box.parent == n - 1]
    marks = [_neighbours(n, faint=not boxes[n].lives_on) for _, n in near]
    marks += [
        _around(start, end, height=height, depth=depth, faint=not boxes[end].lives_on)
        for depth, (start, end) in enumerate(far, start=1)
    ]
    marks += [_box(box, _left(n), height) for n, box in enumerate(boxes)]
    width, whole = _left(len(boxes)) - GAP + 2, height + 2 + DETOUR * len(far) + (6 if far else 0)
    return svg.element(
        "svg", *marks, viewBox=f"0 0 {width:g} {whole:g}", width=f"{width:g}", height=f"{whole:g}", role="group",
        aria_label="The chain from the base to the chosen checkpoint",
    )  # fmt: skip


def _left(number: int) -> float:
    return 1 + number * (WIDTH + GAP)


def _neighbours(number: int, *, faint: bool) -> Markup:
    end = _left(number)
    style = " faint" if faint else ""
    return svg.group(
        svg.line(end - GAP, ENTRY, end - 6, ENTRY, class_=f"link{style}"),
        svg.element("polygon", points=f"{end - 8},{ENTRY - 4.5} {end - 1},{ENTRY} {end - 8},{ENTRY + 4.5}",
                    class_=f"arrow{style}"),
    )  # fmt: skip


def _around(start: int, end: int, *, height: float, depth: int, faint: bool) -> Markup:
    """A path below the boxes that lie between the two."""
    out, into, low = _left(start) + WIDTH / 2 + 8 * depth, _left(end) + WIDTH / 2 - 8 * depth, height + DETOUR * depth
    style = " faint" if faint else ""
    return svg.group(
        svg.polyline([(out, height), (out, low), (into, low), (into, height + 8)], class_=f"link{style}"),
        svg.element("polygon", points=f"{into - 4.5},{height + 9} {into},{height + 2} {into + 4.5},{height + 9}",
                    class_=f"arrow{style}"),
    )  # fmt: skip


def _box(box: Box, left: float, height: float) -> Markup:
    lines = [*box.marks, *box.facts]
    tip = "\n".join([f"{box.kind} {box.title}", *(f"{f.label} {f.value}".strip() for f in lines), *box.detail])
    return svg.group(
        svg.element("rect", x=left, y=1.0, width=WIDTH, height=height - 1, rx=9),
        svg.text(left + PAD, 19, box.kind, class_="box-kind"),
        svg.text(left + PAD, 37, _title(box), class_="box-title"),
        *(_fact(fact, left + PAD, 37 + LINE * (n + 1)) for n, fact in enumerate(lines)),
        tip=tip, class_=" ".join(("box", box.kind, *(() if box.lives_on else ("faint",)))),
    )  # fmt: skip


def _title(box: Box) -> str:
    """What fits: of a folder's path the end, of a checkpoint's place the step, which the hover text has in full."""
    if len(box.title) <= TITLE_LETTERS or box.kind == "base":
        return _end_of(box.title, TITLE_LETTERS)
    return _cut(box.title.partition(", ")[2] or box.title, TITLE_LETTERS)


def _fact(fact: Fact, x: float, y: float) -> Markup:
    """The label in small print, the value behind it; what does not fit is in the hover text."""
    tone = "fact-value" if fact.tone == "plain" else f"tone-{fact.tone}"
    label = _cut(fact.label, LETTERS // 2)
    value = svg.element("tspan", _cut(fact.value, LETTERS - len(label) - bool(label)), class_=tone)
    return svg.element("text", f"{label} " if label else "", value, x=x, y=y)


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"{text[: letters - 3]}..."


def _end_of(text: str, letters: int) -> str:
    """Of a folder's path the end is its name, which tells it from others."""
    return text if len(text) <= letters else f"...{text[3 - letters :]}"
