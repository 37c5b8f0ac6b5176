"""The Pareto set: what no other point beats on two axes at once. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Numbers of the points that no other one beats, from the smallest loss to the largest.

    A point is beaten by one that is as good on one axis and better on the other; of twins the first stays. NaN beats
    nothing and is left out.

    Args:
        points: (gain, loss) each: more gain is better, less loss is better.

    Example:
        >>> pareto([(0.8, 0.02), (0.5, 0.0), (0.5, 0.01)])
        [1, 0]
    """
    known = [n for n, (gain, loss) in enumerate(points) if gain == gain and loss == loss]
    front: list[int] = []
    for number in sorted(known, key=lambda n: (points[n][1], -points[n][0])):
        if not front or points[number][0] > points[front[-1]][0]:
            front.append(number)
    return front
