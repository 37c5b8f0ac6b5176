"""Proposals: weights that may be better than the trained checkpoints that they are made of, before they are made.

The mean of the last checkpoints is proposed for every stage: it takes out the noise of the last steps, which short runs
have most of. Where a checkpoint breaks the tolerance, points between it and the start are: on the line (for an adapter
that is its scale), with less change in the early layers (LiNeS, 2410.17146), and with the weakest singular directions
of the change cut off (2605.20296), the last two with as large a change as the middle point of the line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from temper.decide.frontier import Aim, Point
from temper.decide.promise import Line
from temper.model.protocol import Blend, Checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """Weights that could be made."""

    source: Point
    """The trained checkpoint it is named after: the last of its parts."""
    tag: str
    """In the name of its folder, e.g. `alpha-0.81`."""
    parts: tuple[Point, ...]
    alpha: float = 1.0
    first_layer: float = 1.0
    energy: float = 1.0
    made: str = ""
    """How, for a sentence; empty for a point on the line, which is told by its alpha."""

    def blend(self, checkpoint: Callable[[Point], Checkpoint]) -> Blend:
        """What the backend needs to make it."""
        parts = tuple(checkpoint(part) for part in self.parts)
        return Blend(parts=parts, alpha=self.alpha, first_layer=self.first_layer, energy=self.energy)


def mean_of_last(trained: Sequence[Point], aim: Aim) -> Proposal | None:
    """The mean of the last half of the checkpoints, two at least; None where it could not be handed on."""
    count = max(2, len(trained) // 2)
    window = sorted(trained, key=lambda p: p.step)[-count:]
    hopeful = any(p.domain > aim.base_domain and p.drop and p.drop.lcb95 <= aim.tolerance for p in window)
    if len(window) < 2 or not hopeful:
        return None
    return Proposal(source=window[-1], tag=f"mean-{count}", parts=tuple(window), made=f"mean of the last {count}")


def ways_back(line: Line, *, only_line: bool) -> list[list[Proposal]]:
    """The places of a line; beside the middle one the two other ways to shrink the change as much, unless `only_line`.

    Each inner list holds ways of one size.
    """
    end, middle = line.point, line.alphas[len(line.alphas) // 2]
    places = [[Proposal(source=end, tag=f"alpha-{alpha:.2f}", parts=(end,), alpha=alpha)] for alpha in line.alphas]
    if only_line:
        return places
    first = max(0.0, round(2 * middle - 1, 2))
    depth = Proposal(
        source=end, tag=f"depth-{first:.2f}", parts=(end,), alpha=min(1.0, 2 * middle), first_layer=first,
        made=f"first layer scaled to {first:g} of the last",
    )  # fmt: skip
    share = round(middle**2, 2)
    cut = Proposal(
        source=end, tag=f"cut-{share:.2f}", parts=(end,), energy=share,
        made=f"{100 * share:.0f} % of the change kept, in its strongest directions",
    )  # fmt: skip
    places[len(places) // 2] += [depth, cut]
    return places
