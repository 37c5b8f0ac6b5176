"""Long documents in windows: every token is learnt once, and every window is short enough."""

from __future__ import annotations

import random

import pytest

from temper.data.datum import Datum
from temper.data.windows import Windows, common_start
from temper.errors import DataError


def document(*tokens: int, row: str = "a.txt:1") -> Datum:
    return Datum(tokens=tokens, weights={"ce": (1.0,) * (len(tokens) - 1)}, source="manual", row=row)


def learnt(window: Datum) -> list[int]:
    """The tokens that a window learns."""
    return [token for token, weight in zip(window.tokens[1:], window.weights["ce"], strict=True) if weight]


def test_a_window_begins_with_the_last_token_of_the_one_before() -> None:
    # Six targets at length 4 (three of them after a token of context) are two windows of three.
    windows = Windows([document(1, 2, 3, 4, 5, 6, 7), document(8, 9)], length=4)
    assert [w.tokens for w in windows] == [(1, 2, 3, 4), (4, 5, 6, 7), (8, 9)]
    assert [w.weights["ce"] for w in windows] == [(1.0,) * 3, (1.0,) * 3, (1.0,)]
    assert (windows.lengths.tolist(), windows.supervised.tolist(), windows.cut) == ([4, 4, 2], [3, 3, 1], 1)
    assert {(w.source, w.row) for w in windows} == {("manual", "a.txt:1")}
    assert [w.tokens for w in windows[1:]] == [(4, 5, 6, 7), (8, 9)]
    assert windows[-1].tokens == (8, 9)


def test_a_token_that_begins_every_document_begins_every_window_and_is_not_learnt() -> None:
    windows = Windows([document(0, 1, 2, 3, 4, 5, 6), document(0, 7, 8)], length=5)
    # Six targets, five of context and two tokens before them: two windows of three targets.
    assert [w.tokens for w in windows] == [(0, 1, 2, 3), (0, 3, 4, 5, 6), (0, 7, 8)]
    assert windows[1].weights["ce"] == (0.0, 1.0, 1.0, 1.0)
    assert windows.lengths.tolist() == [4, 5, 3]
    assert windows.supervised.tolist() == [3, 3, 2]


def test_a_first_token_is_the_models_only_if_it_begins_all_documents_and_stands_nowhere_else() -> None:
    assert common_start([document(0, 1), document(0, 2)]) == 0
    assert common_start([document(5, 1, 5), document(5, 2)]) is None  # a heading's mark
    assert common_start([document(0, 1), document(3, 2)]) is None
    assert common_start([document(0, 1)]) is None


@pytest.mark.parametrize("begins", [True, False])
def test_every_token_of_every_document_is_learnt_once_whatever_the_lengths(begins: bool) -> None:
    order = random.Random(0)
    first = (0,) if begins else ()
    documents = [
        document(*first, *(order.randrange(1, 50) for _ in range(order.randrange(1 + (not begins), 90))))
        for _ in range(60)
    ]
    for length in (3, 4, 7, 16, 64, 200):
        windows = Windows(documents, length=length)
        assert [t for w in windows for t in learnt(w)] == [t for d in documents for t in d.tokens[1:]]
        assert [len(w.tokens) for w in windows] == windows.lengths.tolist()
        assert [w.supervised for w in windows] == windows.supervised.tolist()
        assert int(windows.lengths.max()) <= length


def test_a_conversation_is_refused_with_its_row() -> None:
    chat = Datum(tokens=(1, 2, 3), weights={"ce": (0.0, 1.0)}, row="chat.jsonl:7")
    with pytest.raises(DataError, match=r"^chat\.jsonl:7: a conversation.*technique: sft"):
        Windows([document(1, 2), chat], length=8)
