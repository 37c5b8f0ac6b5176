"""Encoder: texts to tokens, many at once and piece by piece, in which guarded characters never become a special token.

A text is cut at the chat template's own special tokens, equal stretches are encoded once, and the result is what the
tokenizer makes of the whole text; where the tokenizer does not allow that, the whole text is one stretch. Wraps a
tokenizer; knows no template and no rows. Imports words.
"""

from __future__ import annotations

import re
from bisect import bisect, bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from temper.data.words import WordEncoder

Words = Literal["other", "own", "thought"]
"""Whose words: the user's, the system's or a tool's; the assistant's own; what the assistant thinks."""
GUARD = "\ufdd1"
"""Stands inside words that spell a special token; a noncharacter, which Unicode keeps out of all interchanged text."""
SAMPLES = ("x", " x", "x ", "\nx", "x\n", "\n\n", "  x 12", "\u00e9 \U0001f600", "'s it")
"""Stretches whose encoding must not depend on what stands beyond a special token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A text and where to cut its tokens.

    Example: text "<s>hi yes", at (0, 5, 9) is cut into the tokens of "<s>hi" and those of " yes".
    """

    text: str
    at: tuple[int, ...]
    """Ascending, the first is 0; what follows the last is context for nothing."""


class _Stretch(NamedTuple):
    """Words to encode within a segment of text that stands between marks."""

    before: str
    """The segment up to the words."""
    upto: str
    """The segment up to the end of the words."""


class Encoder:
    """Tokenises texts.

    Attributes:
        added: The tokenizer's added tokens, text -> id.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        if self._backend is not None:  # a tokenizer.json may ask for both; a conversation must not be cut in silence
            self._backend.no_truncation()
            self._backend.no_padding()
        self.added: Mapping[str, int] = {token.content: id for id, token in tokenizer.added_tokens_decoder.items()}
        self._words = WordEncoder(self._backend) if self._backend is not None else None
        self._anchored = self._adds_space()
        self._marks: Mapping[str, int] = {}
        self._find_marks: re.Pattern[str] | None = None

    def cut_at(self, marks: Iterable[str]) -> None:
        """Names the special tokens that the template writes, so that the stretches between are encoded by themselves.

        Only those are taken that end a stretch for certain: matched as they are, without the blanks beside them.
        """
        flags = {token.content: token for token in self._tokenizer.added_tokens_decoder.values()}
        hard = {
            mark: self.added[mark]
            for mark in marks
            if mark in flags and not _is_soft(flags[mark]) and not any(_collide(mark, other) for other in self.added)
        }
        if hard and self._backend is not None and self._is_piecewise(hard):
            self._marks, self._find_marks = hard, any_of(hard)

    def encode(self, text: str) -> list[int]:
        """The tokens of one text."""
        return self.cut([Cut(text=text, at=(0, len(text)))])[0][0]

    def cut(self, cuts: Sequence[Cut]) -> list[list[list[int]]]:
        """The tokens of every piece of every text; a token across a cut is split there.

        The pieces of a text, joined, are the tokens of the whole text wherever no token lies across a cut.
        """
        plans = [self._plan(cut.text, cut.at) for cut in cuts]
        stretches = (step for pieces in plans for piece in pieces for step in piece if not isinstance(step, int))
        known = self._encode_many({text for stretch in stretches for text in stretch})
        return [[self._piece(piece, known) for piece in pieces] for pieces in plans]

    def continued(self, text: str) -> list[int]:
        """Tokens of text that continues: without the space that some tokenizers put before a beginning."""
        if self._anchored and text:
            anchor, joined = self._native("\n"), self._native("\n" + text)
            if joined[: len(anchor)] == anchor:
                return joined[len(anchor) :]
        return self._native(text)

    def whole_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of plain texts as the tokenizer frames them, e.g. with a beginning-of-sequence token."""
        if self._backend is None:
            return [self._tokenizer.encode(text) for text in texts]
        return [found.ids for found in self._backend.encode_batch_fast(list(texts), add_special_tokens=True)]

    def _plan(self, text: str, at: Sequence[int]) -> list[list[int | _Stretch]]:
        """Per piece: ids of marks, and stretches of the segments between marks."""
        pieces: list[list[int | _Stretch]] = [[] for _ in at[1:]]
        start, piece = 0, 0
        for mark, stop in self._marks_in(text, at):
            begin = start
            while begin < mark:
                while at[piece + 1] <= begin:
                    piece += 1
                upto = min(at[piece + 1], mark)
                pieces[piece].append(_Stretch(text[start:begin], text[start:upto]))
                begin = upto
            if mark < stop:
                while at[piece + 1] <= mark:
                    piece += 1
                pieces[piece].append(self._marks[text[mark:stop]])
            start = stop
        return pieces

    def _marks_in(self, text: str, at: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Begin and end of every mark, and of the end of the text; a mark with a cut inside cannot stay whole."""
        if self._find_marks:
            for found in self._find_marks.finditer(text, 0, at[-1]):
                begin, end = found.span()
                if bisect(at, begin) == bisect_left(at, end):
                    yield begin, end
        yield at[-1], at[-1]

    def _piece(self, steps: Sequence[int | _Stretch], known: Mapping[str, list[int]]) -> list[int]:
        tokens: list[int] = []
        for step in steps:
            if isinstance(step, int):
                tokens.append(step)
                continue
            before, upto = known[step.before], known[step.upto]
            if not before:
                tokens += upto
            elif upto[: len(before)] == before:
                tokens += upto[len(before) :]
            else:
                tokens += self._guarded(step.upto[len(step.before) :], continued=True)
        return tokens

    def _encode_many(self, texts: Collection[str]) -> dict[str, list[int]]:
        plain = [text for text in texts if GUARD not in text]
        known = {text: self._guarded(text) for text in texts if GUARD in text}
        if self._backend is None:
            return known | {text: self._native(text) for text in plain}
        assert self._words is not None
        return known | dict(zip(plain, self._words.encode_all(plain), strict=True))

    def _guarded(self, text: str, *, continued: bool = False) -> list[int]:
        """Tokens of text with guards: split there, so that the parts of a spelt-out special token stay apart."""
        first, *rest = text.split(GUARD)
        tokens = self.continued(first) if continued else self._native(first)
        return tokens + [token for part in rest for token in self.continued(part)]

    def _native(self, text: str) -> list[int]:
        if not text:
            return []
        if self._backend is None:
            return self._tokenizer.encode(text, add_special_tokens=False)
        return self._backend.encode(text, add_special_tokens=False).ids

    def _adds_space(self) -> bool:
        start, anchor, joined = (self._native(text) for text in ("x", "\n", "\nx"))
        return joined[: len(anchor)] == anchor and joined[len(anchor) :] != start

    def _is_piecewise(self, marks: Mapping[str, int]) -> bool:
        """Whether the tokens of a text are those of its stretches with the marks between, tried on samples."""
        tried = [
            (before + mark + after, [*self._native(before), id, *self._native(after)])
            for mark, id in marks.items()
            for before in SAMPLES
            for after in SAMPLES
        ]
        found = self._encode_many([text for text, _ in tried])
        return all(found[text] == expected for text, expected in tried)


class Guard:
    """Keeps the words of a conversation from spelling special tokens."""

    def __init__(
        self, *, special: Collection[str] = (), own: Collection[str] = (), thought: Collection[str] = ()
    ) -> None:
        # A token of one character has no inside to stand in; no family has such a one that means anything.
        self._patterns = {
            "other": any_of(text for text in special if len(text) > 1),
            "own": any_of(text for text in own if len(text) > 1),
            "thought": any_of(text for text in thought if len(text) > 1),
        }

    def text(self, text: str, whose: Words) -> str:
        """The text with a guard inside what spells a special token.

        The assistant's own words may hold tokens that end no turn, e.g. those around a thought or a call; a thought
        may not end itself.
        """
        if GUARD in text:
            text = text.replace(GUARD, "")
        pattern = self._patterns[whose]
        return pattern.sub(lambda found: found[0][0] + GUARD + found[0][1:], text) if pattern.search(text) else text

    def all_text(self, value: Any, whose: Words) -> Any:
        """A JSON value with all texts in it guarded."""
        if isinstance(value, str):
            return self.text(value, whose)
        if isinstance(value, dict):
            return {key: self.all_text(item, whose) for key, item in value.items()}
        return [self.all_text(item, whose) for item in value] if isinstance(value, list) else value


def any_of(words: Iterable[str]) -> re.Pattern[str]:
    """A pattern that finds any of the words, at one place the longest; quick for thousands of words."""
    tree: dict[str, Any] = {}
    for word in words:
        node = tree
        for letter in word:
            node = node.setdefault(letter, {})
        node[""] = {}
    return re.compile(_branches(tree) or r"(?!)")


def _branches(node: Mapping[str, Any]) -> str:
    found = [re.escape(letter) + _branches(child) for letter, child in node.items() if letter]
    if len(found) == 1 and "" not in node:
        return found[0]
    return f"(?:{'|'.join(found)}){'?' if '' in node else ''}" if found else ""


def _is_soft(token: Any) -> bool:
    """Whether a token is matched in normalised text or takes the blanks beside it."""
    return token.normalized or token.lstrip or token.rstrip or token.single_word


def _collide(mark: str, other: str) -> bool:
    """Whether another added token could be found across an end of the mark, or around it."""
    if mark == other:
        return False
    if mark in other:
        return True
    return any(other.endswith(mark[:k]) or other.startswith(mark[-k:]) for k in range(1, len(mark)))
