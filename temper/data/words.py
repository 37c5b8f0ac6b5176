"""WordEncoder: the tokens of text, exactly as the tokenizer gives them, from a memory of words it has seen.

A byte-level BPE tokenizer first cuts text into words by a regular expression and then treats each word on its own. In
ordinary text most words come again and again, so the cut and a look-up give the same tokens in a fraction of the time.
Used only for the cuts listed in `CUTS`, and only for characters on whose class all versions of Unicode agree; all else
goes to the tokenizer. Imports nothing of temper.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any

WORDS = 100_000
"""Words remembered at most, about 25 MB; when there are more, it begins anew."""
LONGEST = 40
"""Characters of a word that is remembered: longer ones are seldom seen twice."""
RANGES: Sequence[tuple[int, int]] = (
    (0x20, 0x530), (0x2010, 0x205F), (0x20A0, 0x20C0), (0x2190, 0x2C00), (0x1F300, 0x1F650),
)  # fmt: skip
"""Latin, Greek, Cyrillic, punctuation, currencies, arrows and symbols, pictographs."""
LONG_S = "\u017f"
"""An s to a pattern that ignores case."""
CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WRITTEN = tuple(
    rf"(?i:{CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{numbers}{REST}" for numbers in (r"\p{N}{1,3}", r"\p{N}")
)
"""The cuts that Llama 3 and Qwen 2 (and many after them) write into the file."""
CUTS: Mapping[str, str] = {
    # GPT-2 and many after it
    "bytes": CONTRACTIONS + r"| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    # SmolLM, StarCoder: every digit is cut off first, and what is left on its two sides does not see the other
    "digits bytes": CONTRACTIONS + r"| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+",
} | {f"split {cut} whole bytes": cut for cut in WRITTEN}
"""What a tokenizer says of its cut -> the cut."""
SAMPLE = (
    "It's WE'LL they'd  I'M 12 cats, 3456789 dogs;\tand\n\n  \u00fcber na\u00efve caf\u00e9s... \n\r\n "
    '\u0434\u043e\u043c x=1/2; {"a": [1, -2.50]} #!?\u2014\u201cquoted\u201d \u20ac5 \u00bd \u2460 '
    "\U0001f600\U0001f44d end   \n   9 \n 10  "
)
"""Has every kind of word in it; encoded both ways before a tokenizer is trusted to work as it says."""


class WordEncoder:
    """Encodes text with a fast tokenizer's backend, special tokens in the text recognised, none added.

    Attributes:
        remembers: Whether the tokenizer's cut is known; if not, every text goes to the tokenizer.
    """

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        cut = _cut_of(backend)
        added = backend.get_added_tokens_decoder()
        texts = sorted((token.content for token in added.values()), key=len, reverse=True)
        self._ids = {token.content: [number] for number, token in added.items()}
        self._added = re.compile("(" + "|".join(map(re.escape, texts)) + ")") if texts else None
        self._cut = re.compile(_written_out(cut))
        self._foreign = re.compile(f"[^{_classes()['any']}]")
        self._words: dict[str, list[int]] = {}
        self.remembers = bool(cut) and not any(map(_is_odd, added.values()))
        sample = "".join(f"{text}{SAMPLE}" for text in ["", *texts[:3], *texts[-3:]])
        self.remembers = self.remembers and self.encode(sample) == self._slowly(sample)

    def encode(self, text: str) -> list[int]:
        """Tokens of a text."""
        if not self.remembers or self._foreign.search(text):
            return self._slowly(text)
        if self._added is None:
            return self._quickly(text)
        parts = self._added.split(text)
        if len(parts) == 1:
            return self._quickly(text)
        found = [self._ids[part] if odd % 2 else self._quickly(part) for odd, part in enumerate(parts)]
        return list(chain.from_iterable(found))

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of many texts, each on its own; what has to go to the tokenizer goes there in one call."""
        slow = [i for i, text in enumerate(texts) if not self.remembers or self._foreign.search(text)]
        sent = self._backend.encode_batch_fast([texts[i] for i in slow], add_special_tokens=False) if slow else []
        answered = {i: encoding.ids for i, encoding in zip(slow, sent, strict=True)}
        return [answered[i] if i in answered else self.encode(text) for i, text in enumerate(texts)]

    def _quickly(self, text: str) -> list[int]:
        words = self._cut.findall(text)
        try:
            return list(chain.from_iterable(map(self._words.__getitem__, words)))
        except KeyError:
            return [token for word in words for token in self._words.get(word) or self._learn(word)]

    def _learn(self, word: str) -> list[int]:
        tokens = self._slowly(word)
        if len(word) <= LONGEST:
            if len(self._words) >= WORDS:
                self._words.clear()
            self._words[word] = tokens
        return tokens

    def _slowly(self, text: str) -> list[int]:
        return self._backend.encode(text, add_special_tokens=False).ids


def _cut_of(backend: Any) -> str:
    """The cut of a tokenizer as in `CUTS`; empty when it is not known, or when words do not stand on their own."""
    said = " ".join(_steps(_state(backend.pre_tokenizer)))
    normalizer = _state(backend.normalizer)
    plain = not normalizer or normalizer.get("type") == "NFC"  # the characters of `RANGES` are NFC as they are
    is_bpe = type(backend.model).__name__ == "BPE" and not backend.model.dropout
    return CUTS.get(said, "") if plain and is_bpe and backend.truncation is None and backend.padding is None else ""


def _state(part: Any) -> dict[str, Any]:
    return json.loads(part.__getstate__()) if part is not None else {}


def _steps(state: Mapping[str, Any]) -> Iterator[str]:
    """What a pre-tokenizer does, in the words of `CUTS`."""
    kind = state.get("type")
    if kind == "Sequence":
        for step in state["pretokenizers"]:
            yield from _steps(step)
    elif kind == "ByteLevel" and not state["add_prefix_space"]:
        yield "bytes" if state.get("use_regex", True) else "whole bytes"
    elif kind == "Digits" and state["individual_digits"]:
        yield "digits"
    elif kind == "Split" and state["behavior"] == "Isolated" and not state["invert"]:
        yield f"split {state['pattern'].get('Regex')}"
    else:
        yield f"unknown {kind}"


def _is_odd(token: Any) -> bool:
    """An added token that takes spaces with it, or that only counts between spaces."""
    return token.lstrip or token.rstrip or token.single_word or not token.content


def _written_out(cut: str) -> str:
    """A cut with the classes of Unicode as lists of characters, which Python's `re` understands."""
    bracketed = re.sub(r"\[.*?\]|\\p\{.\}", lambda m: m[0] if m[0][0] == "[" else f"[{m[0]}]", cut)
    return bracketed.replace(r"\p{L}", _classes()["letters"]).replace(r"\p{N}", _classes()["numbers"])


@cache
def _classes() -> Mapping[str, str]:
    """The characters of `RANGES` that are letters, numbers, or any, to be put between brackets."""
    known = [c for first, stop in RANGES for c in map(chr, range(first, stop)) if _is_settled(c)] + ["\t", "\n", "\r"]
    letters = [c for c in known if unicodedata.category(c).startswith("L")]
    numbers = [c for c in known if unicodedata.category(c).startswith("N")]
    return {"letters": _listed(letters), "numbers": _listed(numbers), "any": _listed(known)}


def _is_settled(character: str) -> bool:
    """Not a control, not a mark that joins, not unassigned, and not equal to another character in some spelling."""
    if character == LONG_S or unicodedata.combining(character) or not unicodedata.is_normalized("NFC", character):
        return False
    # Controls such as U+0085 are space to one engine and not to another.
    return unicodedata.category(character) not in ("Cc", "Cf", "Cn", "Mn", "Zl", "Zp")


def _listed(characters: Sequence[str]) -> str:
    return "".join(map(re.escape, characters))
