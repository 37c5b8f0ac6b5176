"""Text: what is wrong with the words of one row, whatever the other rows are. Imports only its own package.

Every check first takes a look that costs next to nothing, since nearly all rows are clean.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from temper.data.lint.secrets import find_key, find_personal


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One thing found in one row."""

    code: str
    detail: str = ""
    """What kind it is, in a few words; never the text itself."""


# UTF-8 read as Windows-1252: a lead byte as a letter, then continuation bytes as what stands there in that table.
NEXT = (
    "\u0080-\u00bf\u20ac\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\u017d\u2018\u2019\u201c\u201d"
    "\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\u017e\u0178"
)
MOJIBAKE = re.compile(
    "\ufffd"
    "|\u00c3[\u0080-\u009f\u00a1-\u00ba\u00bc-\u00bf]"  # accented letters: e-acute is C3 A9
    "|\u00c3[\u0178\u201e\u2013\u0153\u0152\u2030\u20ac\u2021](?=[a-z])"  # sharp s and capital umlauts before a letter
    "|\u00c3\u0178"
    "|\u00c2[\u0080-\u009f\u00a1-\u00ba\u00bc-\u00bf]"  # signs such as the degree: C2 B0
    "|\u00e2\u20ac|\u00e2\u201a\u00ac|\u00e2\u201e\u00a2|\u00e2\u0080[\u0080-\u00bf]"  # quotes, dashes, euro, trademark
    "|\u00f0\u0178[" + NEXT + "]|\u00ef\u00bb\u00bf|\u00ef\u00bf\u00bd"  # emoji, byte-order mark, replacement
    f"|(?:[\u00d0\u00d1][{NEXT}]){{3}}"  # Cyrillic
    f"|(?:[\u00e3-\u00e9][{NEXT}]{{2}}){{3}}"  # Chinese, Japanese, Korean
)
LEADS = (
    "\ufffd", "\u00c3", "\u00c2", "\u00e2", "\u00f0", "\u00d0", "\u00d1", "\u00ef\u00bb", "\u00ef\u00bf",
    "\u00ef\u00bc", "\u00e3\u20ac", "\u00e3\u0081", "\u00e3\u201a", "\u00e7\u0161",
)  # fmt: skip
"""One of these is in every text that the pattern finds, or nearly so for Chinese and Japanese."""
CONTROL = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f]")
HIDDEN = re.compile(
    "[\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069]|(?<![\U0001f3f4\U000e0020-\U000e007e])[\U000e0020-\U000e007f]{3}"
)
SCRIPTS_WITH_MARKS = re.compile("[\u0590-\u08ff\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff]")
"""Scripts that are written right to left, or without spaces: there such marks belong to the text."""
TAG = re.compile(r"</(?:p|div|span|li|ul|ol|td|tr|table|h[1-6]|a|b|i|em|strong|font)>|<br\s*/?>", re.IGNORECASE)
ENTITY = re.compile(
    r"&(?:nbsp|amp|quot|lt|gt|apos|[lr][sd]quo|[mn]dash|hellip|#\d{2,5}|#x[0-9a-f]{2,4});", re.IGNORECASE
)
ABOUT_MARKUP = ("```", "html", "xml", "css", "markup", "javascript", "jsx", "svg", "<?", "regex", "escape", "href")
"""Where one of these is said, tags are the subject."""
TEMPLATES = (
    ("ChatML", re.compile(r"<\|im_start\|>")),
    ("Llama 3", re.compile(r"<\|start_header_id\|>|<\|eot_id\|>")),
    ("Phi or Zephyr", re.compile(r"<\|(?:user|assistant|system)\|>")),
    ("Gemma", re.compile(r"<start_of_turn>")),
    ("Mistral or Llama 2", re.compile(r"\[/?INST\]|<</?SYS>>")),
)
SPOKEN = (
    ("Alpaca", re.compile(r"^### Instruction:.*^### (?:Response|Output|Answer):", re.MULTILINE | re.DOTALL)),
    ("a transcript", re.compile(r"^(?:USER|Human|User): .*^(?:ASSISTANT|Assistant|AI):\s*$", re.MULTILINE | re.DOTALL)),
)
"""Templates that are words: only inside one turn of a conversation, where no such words belong."""
LONG_WORD, LONGEST_UNIT, FEWEST_REPEATED = 50, 8, 40
WINDOW, FEWEST_DISTINCT = 32, 6
CANARY = ("benchmark data should never appear in training", "canary guid", "26b5c67b-86b2-4db2-94ea")


def find_in_text(text: str, low: str, *, talk: bool) -> Iterator[Flag]:
    """What is wrong with the words of a row.

    Args:
        text: All its texts, one per line.
        low: The same in lower case, with single spaces.
        talk: Whether it is a conversation.
    """
    if not text.isascii() and any(lead in text for lead in LEADS) and MOJIBAKE.search(text):
        yield Flag(code="Q001", detail="lost characters" if "\ufffd" in text else "UTF-8 read as Latin-1")
    if not low.isprintable():
        if CONTROL.search(text):
            yield Flag(code="Q003", detail="control characters")
        elif HIDDEN.search(text) and not SCRIPTS_WITH_MARKS.search(text):
            yield Flag(code="Q003", detail="invisible characters")
    if ("<" in text or "&" in text) and not any(word in low for word in ABOUT_MARKUP):
        if TAG.search(text):
            yield Flag(code="Q004", detail="tags")
        elif ENTITY.search(text):
            yield Flag(code="Q004", detail="entities")
    words = low.split(" ")
    longest = max(map(len, words))
    repeated = _repetition(words, longest)
    if repeated:
        yield Flag(code="Q002", detail=repeated)
    marks = find_template(text, talk=talk)
    if marks:
        yield Flag(code="R005", detail=marks)
    if any(canary in low for canary in CANARY):
        yield Flag(code="T010")
    key = find_key(text, low, longest=longest)
    if key:
        yield Flag(code="S001", detail=key)
    personal = find_personal(text, low)
    if personal:
        yield Flag(code="S002", detail=personal)


def find_template(text: str, *, talk: bool) -> str:
    """The family of the chat template whose marks stand in a text; empty for none."""
    if "<|" in text or "[/INST]" in text or "<start_of_turn>" in text or "<<SYS>>" in text or "[INST]" in text:
        for name, pattern in TEMPLATES:
            if pattern.search(text):
                return name
    if talk and ("### " in text or "ssistant:" in text or "ASSISTANT:" in text or "AI:" in text):
        for name, pattern in SPOKEN:
            if pattern.search(text):
                return name
    return ""


def _repetition(words: Sequence[str], longest: int) -> str:
    """Which kind of very long run a text holds; empty for none. No run of twice the window escapes."""
    for at in range(0, len(words) - WINDOW + 1, WINDOW):
        window = words[at : at + WINDOW]
        if len(set(window)) <= FEWEST_DISTINCT and sum(any(map(str.isalpha, word)) for word in window) > WINDOW // 2:
            return "words"
    if longest < LONG_WORD:
        return ""
    return "characters" if any(len(word) >= LONG_WORD and _repeats(word) for word in words) else ""


def _repeats(word: str) -> bool:
    """Whether a unit of up to 8 characters, letters among them, is repeated over at least 40."""
    step = FEWEST_REPEATED // 2
    windows = (word[at : at + FEWEST_REPEATED] for at in range(0, len(word) - FEWEST_REPEATED + 1, step))
    if all(len(set(window)) > LONGEST_UNIT for window in windows):
        return False
    for size in range(1, LONGEST_UNIT + 1):
        run = 0
        for left, right in zip(word, word[size:], strict=False):
            run = run + 1 if left == right else 0
            if run >= FEWEST_REPEATED and left.isalpha():
                return True
    return False
