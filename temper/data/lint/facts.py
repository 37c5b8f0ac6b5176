"""RowFacts: what one row contributes to the findings, small enough to be sent between processes by the million.

`inspect` is on the path of every row of every file: it hashes, looks and forgets. Imports rows, datum, knowledge.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from temper.data.datum import Datum
from temper.data.lint.knowledge import Knowledge, Said, said
from temper.data.lint.text import Flag, find_in_text
from temper.data.lint.words import hash_of, word_hashes
from temper.data.rows import Row

LABEL = 60
"""Characters up to which an answer can be a label."""
ECHO = 30
"""Characters from which an answer that repeats the prompt is no chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowFacts:
    """One row, as the findings need it."""

    origin: str
    """file:row."""
    id: int
    """Hash of the row as it is."""
    whole: int
    """Hash of all it says but for case and spaces."""
    prompt: int
    """Hash of what it asks; 0 for plain text."""
    answer: int
    """Hash of what it answers; 0 where there is none."""
    chars: int
    """Of all it says."""
    answer_chars: int
    talks: bool
    """Whether it is a conversation."""
    paired: bool = False
    """Whether it is a preference pair, whose prompts may come again."""
    broken_off: bool = False
    """Whether the answer ends in the middle of a sentence, as far as one character says."""
    label: str = ""
    """The answer when it is short."""
    tokens: int = 0
    """0 when it has not been rendered."""
    supervised: int = 0
    flags: tuple[Flag, ...] = ()
    grams: tuple[int, ...] = ()
    """Runs of words that it shares with the exam or a probe, by their place in the index."""
    signature: bytes = b""
    """For near-duplicates; empty for a short row, and for most rows of a very large file."""


def inspect(row: Row, datum: Datum | None, knowledge: Knowledge) -> RowFacts:
    """The facts of one row; `datum` is the row as rendered, None before rendering."""
    words = said(row)
    identity = hash_of(row.id)
    compared = identity < knowledge.compared_below
    hashes = word_hashes(words.words) if compared or knowledge.grams is not None else None
    grams: tuple[int, ...] = ()
    signature = b""
    if hashes is not None:
        if knowledge.grams is not None:
            grams = knowledge.grams.find(hashes)
        if compared:
            signature = knowledge.minhash.signature(hashes)
    flags = [*find_in_text(words.text, words.low, talk=bool(row.messages)), *_turns(row, words)]
    flags += _marks(words.text, flags, knowledge)
    if knowledge.items and hash_of(words.asked) in knowledge.items:
        flags.append(Flag(code="T008"))
        grams = ()  # named once is enough
    supervised = 0
    if datum is not None:
        supervised = datum.supervised
        flags += _rendered(datum, supervised, knowledge)
    reply = row.reference
    return RowFacts(
        origin=row.origin, id=identity, whole=hash_of(words.whole), prompt=hash_of(words.prompt) if words.prompt else 0,
        answer=hash_of(words.answer) if words.answer else 0, chars=len(words.text), answer_chars=len(reply),
        talks=bool(row.messages), paired=bool(row.rejected), broken_off=bool(reply) and is_broken_off(reply),
        label=words.answer if len(words.answer) <= LABEL else "", tokens=0 if datum is None else len(datum.tokens),
        supervised=supervised, flags=tuple(flags), grams=grams, signature=signature,
    )  # fmt: skip


def is_broken_off(reply: str) -> bool:
    """Whether a reply ends with a letter or a comma, where a whole one ends with a stop, a bracket or a quote."""
    last = reply[-1]
    return (last.isalpha() and last.isascii()) or last in ", -"


def _turns(row: Row, words: Said) -> Iterator[Flag]:
    """What is wrong with who speaks when."""
    messages = row.messages
    if row.rejected and len(row.rejected) == 1 and messages and messages[-1] == row.rejected[0]:
        yield Flag(code="C006")
    roles = [message.role for message in messages]
    if not roles or roles == ["system", "user"]:
        return
    if roles != ["user", "assistant"]:
        yield from _order(roles)
    if len(row.reference) >= ECHO and roles[0] == "user" and words.answer == words.asked:
        yield Flag(code="C005")


def _order(roles: Sequence[str]) -> Iterator[Flag]:
    for before, role in pairwise(roles):
        if role == before and role in ("user", "assistant"):
            yield Flag(code="C001", detail=f"{role}, {role}")
            break
    talk = [role for role in roles if role not in ("system", "developer")]
    if any(role in ("system", "developer") for role in roles[len(roles) - len(talk) :]):
        yield Flag(code="C002")
    if talk and talk[0] == "assistant":
        yield Flag(code="C003")


def _marks(text: str, flags: Sequence[Flag], knowledge: Knowledge) -> Iterator[Flag]:
    """Special tokens in the text, unless they have been named as the marks of a template."""
    if knowledge.special is None or not any(opener in text for opener in knowledge.openers):
        return
    found = knowledge.special.search(text)
    if found and not any(flag.code == "R005" for flag in flags):
        yield Flag(code="R004", detail=found[0])


def _rendered(datum: Datum, supervised: int, knowledge: Knowledge) -> Iterator[Flag]:
    """What is wrong with the tokens of a row."""
    marks, tokens = knowledge.marks, datum.tokens
    if marks.bos is not None and tokens[:2] == (marks.bos, marks.bos):
        yield Flag(code="R003")
    if not supervised:
        yield Flag(code="R001")
        return
    streams = tuple(datum.weights.values())
    whole = all(all(weights) for weights in streams)  # plain text: its rows may be sections that no document ends with
    if marks.ends and not whole and not any(weights[-1] and tokens[-1] in marks.ends for weights in streams):
        learnt = (tokens[at + 1] for weights in streams for at, weight in enumerate(weights) if weight)
        if not any(token in marks.ends for token in learnt):
            yield Flag(code="R002")
    if knowledge.max_length is not None and len(tokens) > knowledge.max_length:
        first = min(next((at for at, w in enumerate(weights) if w), len(tokens)) for weights in streams)
        if first + 1 >= knowledge.max_length:
            yield Flag(code="R006")
