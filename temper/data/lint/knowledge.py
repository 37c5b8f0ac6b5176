"""Knowledge: what the linter has to know before it sees a row: exam, probes, the model's tokens, the technique.

Made once, handed to every worker process. Imports rows and the renderer's type.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from temper.data.lint.words import BOILERPLATE, GramIndex, MinHash, hash_of, normal
from temper.data.rows import Message, Row

if TYPE_CHECKING:
    from temper.data.render import Renderer

FEWEST_WORDS = 8
"""Words of a probe's item from which a training row that says the same was copied, not met by chance."""
COMPARED = 200_000
"""Rows among which near-duplicates are looked for."""
NO_LIMIT = 1 << 62


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """The tokens of a model that mean more than their letters."""

    specials: tuple[str, ...] = ()
    """Special tokens as they are written."""
    ends: tuple[int, ...] = ()
    """Ids that end a turn or a text."""
    bos: int | None = None

    @classmethod
    def of(cls, renderer: Renderer) -> Marks:
        """The marks of a renderer's tokenizer."""
        tokenizer = renderer.tokenizer
        added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        ends = {*renderer.end_tokens, *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])}
        specials = sorted({*added, *map(str, tokenizer.all_special_tokens)})
        return cls(specials=tuple(s for s in specials if s), ends=tuple(sorted(ends)), bos=tokenizer.bos_token_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """One text that must not be learnt."""

    place: str
    """file:row of an exam row, the name of the probe for a probe's item."""
    is_exam: bool
    whole: int
    """Hash of all it says; of a probe's item 0 when it is too short to be known again."""
    prompt: int = 0
    """Hash of what it asks; 0 for plain text and for probes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Knowledge:
    """What a row is compared with."""

    technique: str = "sft"
    max_length: int | None = None
    """Tokens that fit."""
    marks: Marks = field(default_factory=Marks)
    held: tuple[Held, ...] = ()
    items: frozenset[int] = frozenset()
    """Hashes of the probes' items."""
    grams: GramIndex | None = None
    """Over `held`; None when there is none."""
    minhash: MinHash = field(default_factory=MinHash)
    compared_below: int = 1 << 64
    """Rows whose hash is below are compared for near-duplicates."""
    special: re.Pattern[str] | None = None
    """Finds any of the special tokens."""
    openers: tuple[str, ...] = ()
    """What a special token begins with; a text without any of these is done after one look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a row says, in the forms that the checks need."""

    text: str
    """Everything, one text per line."""
    low: str
    """The same in lower case with single spaces."""
    words: str
    """`low` without the system's words, which are the same in all rows."""
    prompt: str
    """What is asked, with the roles; empty for plain text."""
    answer: str
    """The last assistant's turn as it will be compared."""
    asked: str
    """The last user's turn, or the plain text."""

    @property
    def whole(self) -> str:
        """All the row says, but for case and spaces."""
        return f"{self.prompt}\n{self.answer}\n" if self.prompt else f"\n\n{self.low}"


def said(row: Row) -> Said:
    """What a row says."""
    if not row.messages:
        low = normal(row.text)
        return Said(text=row.text, low=low, words=low, prompt="", answer="", asked=low)
    turns = [(message.role, written(message)) for message in row.messages]
    lows = [normal(text) for _, text in turns]
    answered = turns[-1][0] == "assistant"
    asked, last = "", ""
    for (role, _), low in zip(turns[:-1] if answered else turns, lows, strict=False):
        asked += f"{role}: {low}\n"
        last = low if role == "user" else last
    texts = [text for _, text in turns]
    for message in row.rejected:
        texts.append(written(message))
        lows.append(normal(texts[-1]))
    low = " ".join(lows)
    spoken = [low for (role, _), low in zip(turns, lows, strict=False) if role != "system"]
    return Said(
        text="\n".join(texts), low=low, words=low if len(spoken) == len(lows) else " ".join(spoken),
        prompt=asked + row.tools, answer=lows[len(turns) - 1] if answered else normal(row.reference), asked=last,
    )  # fmt: skip


def written(message: Message) -> str:
    """All the words of a turn."""
    if not message.reasoning and not message.tool_calls:
        return message.content
    calls = (f"{call.name} {call.arguments}" for call in message.tool_calls)
    return "\n".join(part for part in (message.reasoning, message.content, *calls) if part)


def know(
    *,
    exam: Sequence[Row] = (),
    probes: Mapping[str, Sequence[str]] | None = None,
    marks: Marks | None = None,
    max_length: int | None = None,
    technique: str = "sft",
    rows: int = 0,
) -> Knowledge:
    """What the linter has to know.

    Args:
        exam: Held-out rows of the domain probes.
        probes: Name of a general probe -> the texts of its items (what it asks or reads, without options).
        marks: Of the model; without them its tokens are not checked.
        max_length: Tokens that fit.
        technique: What the rows are for.
        rows: About how many training rows there are; above 200,000 only some get a signature.
    """
    texts = [said(row) for row in exam]
    held = [
        Held(
            place=row.origin, is_exam=True, whole=hash_of(text.whole), prompt=hash_of(text.prompt) if text.prompt else 0
        )
        for row, text in zip(exam, texts, strict=True)
    ]
    items = list(_items(probes or {}))
    lows = [text.words for text in texts] + [low for _, low in items]
    limits = [NO_LIMIT] * len(held)
    for name, low in items:
        known_again = len(low.split()) >= FEWEST_WORDS
        held.append(Held(place=name, is_exam=False, whole=hash_of(low) if known_again else 0))
        limits.append(max(2, int(BOILERPLATE * len((probes or {})[name]))))
    marks = marks or Marks()
    return Knowledge(
        technique=technique, max_length=max_length, marks=marks, held=tuple(held),
        items=frozenset(h.whole for h in held if h.whole and not h.is_exam),
        grams=GramIndex.of(lows, limits) if lows else None,
        compared_below=(1 << 64) if rows <= COMPARED else (1 << 64) * COMPARED // rows,
        special=re.compile("|".join(map(re.escape, marks.specials))) if marks.specials else None,
        openers=tuple({special[0] for special in marks.specials}),
    )  # fmt: skip


def _items(probes: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, str]]:
    for name, texts in probes.items():
        for text in texts:
            yield name, normal(text)
