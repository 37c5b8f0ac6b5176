"""Windows: long documents as stretches of a length that a model can learn from, every token of them learnt once.

A view of documents that are tokenised already: nothing is copied, and another length reads the same tokens. Stretches
of a document are of equal size, give or take a token; each begins with the last token of the one before, as context.
Pure. Imports datum and errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, overload

import numpy as np

from temper.data.datum import Datum, item, lengths, supervised_lengths
from temper.errors import DataError

Array = np.ndarray[Any, Any]
SAMPLED = 64
"""Documents that are looked at for a token that begins them all."""


class Windows(Sequence[Datum]):
    """Documents cut into stretches of at most `length` tokens.

    Example: tokens 1 2 3 4 5 6 7 at length 4 become 1 2 3 4 and 4 5 6 7: six targets, three in each.

    Attributes:
        lengths: Tokens per window, context included.
        supervised: Tokens learnt per window.
        cut: Documents that became more than one window.
    """

    def __init__(self, documents: Sequence[Datum], *, length: int) -> None:
        self._documents = documents
        self._begin = common_start(documents)
        tokens = lengths(documents)
        _require_text(documents, tokens)
        targets = tokens - 1
        context = 1 if self._begin is None else 2
        assert length > context, f"windows of {length} tokens hold nothing but context"
        self._counts = np.where(tokens <= length, 1, -(-targets // (length - context)))
        self._first = np.cumsum(self._counts) - self._counts
        owner = np.repeat(np.arange(len(tokens)), self._counts)
        number = np.arange(len(owner)) - self._first[owner]
        self._low = number * targets[owner] // self._counts[owner]
        self._high = (number + 1) * targets[owner] // self._counts[owner]
        self._owner = owner
        self.supervised: Array = self._high - self._low
        self.lengths: Array = self.supervised + 1 + ((number > 0) & (self._begin is not None))

    @cached_property
    def cut(self) -> int:
        """Documents that became more than one window."""
        return int((self._counts > 1).sum())

    def __len__(self) -> int:
        return len(self._owner)

    @overload
    def __getitem__(self, index: int) -> Datum: ...
    @overload
    def __getitem__(self, index: slice) -> list[Datum]: ...
    def __getitem__(self, index: int | slice) -> Datum | list[Datum]:
        return item(index, len(self), self._window)

    def _window(self, index: int) -> Datum:
        document = self._documents[int(self._owner[index])]
        if self._counts[self._owner[index]] == 1:
            return document
        low, high = int(self._low[index]), int(self._high[index])
        before = () if low == 0 or self._begin is None else (self._begin,)
        ((term, weights),) = document.weights.items()
        return replace(
            document, tokens=(*before, *document.tokens[low : high + 1]),
            weights={term: ((0.0,) * len(before) + weights[low:high])},
        )  # fmt: skip


def common_start(documents: Sequence[Datum]) -> int | None:
    """The beginning-of-sequence token, where the tokenizer put one before every document; None for none.

    It shows by itself: all documents begin with it, and inside of them it does not occur.
    """
    some = [documents[i].tokens for i in range(min(len(documents), SAMPLED))]
    first = {tokens[0] for tokens in some}
    if len(some) < 2 or len(first) > 1 or any(tokens[0] in tokens[1:] for tokens in some):
        return None
    return first.pop()


def _require_text(documents: Sequence[Datum], tokens: Array) -> None:
    """Refuses rows that are not learnt from end to end: those are conversations."""
    other = np.flatnonzero(supervised_lengths(documents) != tokens - 1)
    if len(other):
        row = documents[int(other[0])].row or "a row"
        raise DataError(
            f"{row}: a conversation, of which the answers alone are learnt; expected plain text; use `technique: sft`, "
            "or write the row as `text`"
        )
