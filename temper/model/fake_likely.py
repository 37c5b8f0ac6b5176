"""What a table of bigrams thinks of many tokens at a position: the fake's counterpart of `likely`, in numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from temper.data.datum import Datum
from temper.model.protocol import Floats, Tokens

Array = NDArray[np.float64]


def likeliest(table: Array, datums: Sequence[Datum], k: int) -> list[list[tuple[Tokens, Floats]]]:
    """Per datum, for every target with a weight, the k likeliest tokens and their log-probabilities.

    Args:
        table: [V, V] logits (row: the token before, column: the token predicted).
        datums: Rows of text.
        k: Tokens per position.
    """
    found: list[list[tuple[Tokens, Floats]]] = []
    for datum in datums:
        logs = _logs(table, datum)
        order = np.argsort(-logs, axis=1, kind="stable")[:, :k]
        values = np.take_along_axis(logs, order, axis=1)
        found.append([(tuple(i), tuple(v)) for i, v in zip(order.tolist(), values.tolist(), strict=True)])
    return found


def named(table: Array, datums: Sequence[Datum], tokens: Sequence[Sequence[Tokens]]) -> list[list[Floats]]:
    """Per datum, for every target with a weight, the log-probabilities of the tokens named for it."""
    return [
        [tuple(row[list(ids)].tolist()) for row, ids in zip(_logs(table, datum), asked, strict=True)]
        for datum, asked in zip(datums, tokens, strict=True)
    ]


@np.errstate(invalid="ignore")  # infinities and NaN stay what they are
def log_softmax(logits: Array) -> Array:
    """Log-probabilities along the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _logs(table: Array, datum: Datum) -> Array:
    """[targets with a weight, V] log-probabilities."""
    at = [t for t, weights in enumerate(zip(*datum.weights.values(), strict=True)) if any(weights)]
    return log_softmax(table[[datum.tokens[t] for t in at]])
