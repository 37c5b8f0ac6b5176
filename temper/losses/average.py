"""What a loss is averaged over, counted on a whole batch. Imports datum; no torch."""

from __future__ import annotations

from collections.abc import Sequence

from temper.data.datum import Datum
from temper.losses import LOSSES


def denominator(datums: Sequence[Datum], term: str) -> int:
    """What the term's sum is divided by: tokens, sequences or groups with a weight, over the whole batch."""
    weighted = [(i, d) for i, d in enumerate(datums) if any(d.weights.get(term, ()))]
    match LOSSES[term].per:
        case "token":
            return sum(sum(w != 0 for w in d.weights[term]) for _, d in weighted)
        case "sequence":
            return len(weighted)
        case "group":
            return len({d.group if d.group >= 0 else -1 - i for i, d in weighted})
