"""Secrets: keys, passwords and personal data in a text, named by kind and never shown.

A pattern is tried only where a cheap look for its fixed part succeeds. A password in a sentence is not found, and what
looks like a placeholder is left alone. Imports nothing of temper.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from math import log2


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of key."""

    name: str
    hint: str
    """What every such key holds, word for word."""
    pattern: re.Pattern[str]


def _kind(name: str, hint: str, pattern: str) -> Kind:
    return Kind(name=name, hint=hint, pattern=re.compile(pattern))


KINDS = (
    _kind("a private key", "PRIVATE KEY", r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----"),
    _kind("an AWS access key", "AKIA", r"(?<![A-Z0-9])AKIA(?!.{0,9}EXAMPLE)[A-Z0-9]{16}(?![A-Z0-9])"),
    _kind("an AWS access key", "ASIA", r"(?<![A-Z0-9])ASIA(?=[A-Z]*[0-9])[A-Z0-9]{16}(?![A-Z0-9])"),
    _kind("a GitHub token", "gh", r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{40,})\b"),
    _kind("a GitLab token", "glpat-", r"\bglpat-[A-Za-z0-9_-]{20}"),
    _kind("a Slack token", "xox", r"\bxox[abeoprs]-[0-9][A-Za-z0-9-]{9,}"),
    _kind("an API key (sk-)", "sk-", r"(?<![\w-])sk-(?:[a-z]{2,8}-){0,2}(?=[\w-]*\d)(?=[\w-]*[A-Z])[\w-]{20,}"),
    _kind("a Stripe key", "k_live_", r"\b[rs]k_live_[0-9A-Za-z]{16,}"),
    _kind("a Google API key", "AIza", r"\bAIza[0-9A-Za-z_-]{35}(?![0-9A-Za-z_-])"),
    _kind("a Hugging Face token", "hf_", r"\bhf_[A-Za-z]{34}\b"),
    _kind("a JSON web token", "eyJ", r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{10,}"),
)
ASSIGNED = re.compile(
    r"(?:passwor[dt]|passwd|pwd|secret|api[_-]?key|(?:access|auth)[_-]?(?:token|key))[\"']?\s*(?::|=>?)\s*"
    r"[\"']?([^\s\"',;()<>{}\[\]$]{12,})",
    re.IGNORECASE,
)
NAMES = (
    "passw", "pwd", "secret", "api_key", "api-key", "apikey", "access_", "access-", "accesst", "accessk", "auth_",
    "auth-", "autht", "authk",
)  # fmt: skip
PLACEHOLDER = re.compile(r"example|your|change|replace|placeholder|xxx|\*{3}|\.{3}|dummy|test|1234|http", re.IGNORECASE)
FEWEST_BITS = 3.3
"""Shannon entropy per character below which a value is a word rather than a key."""
SHORTEST_KEY, SHORTEST_PASSWORD = 20, 12
DIGITS, FEWEST_DIGITS = b"0123456789", 15

MAIL = re.compile(r"[\w.%+-]+@((?:[A-Za-z0-9-]+\.)+[A-Za-z]{2,})\b")
FREE = re.compile(r"(?:.*\.)?(?:example(?:\.\w+)?|invalid|test|localhost|local|png|jpe?g|gif|svg|webp)", re.IGNORECASE)
"""Names that are reserved for examples (RFC 2606), and files such as logo@2x.png."""
SERVICE = ("git@", "noreply@", "no-reply@", "donotreply@")
GROUPED = re.compile(r"\d{4}([ -])(?:\d{4}\1\d{4}\1\d{4}|\d{6}\1\d{5})(?![\d-]|\.\d)")
PLAIN = re.compile(r"\d{15,16}(?![\d-]|\.\d)")
ISSUER = re.compile(r"4|5[1-5]|2[2-7]|3[47]|6(?:011|5)")
CARD_WORDS = ("card", "visa", "mastercard", "amex", "karte", "tarjeta", "carte")


def find_key(text: str, low: str, *, longest: int = 0) -> str:
    """The kind of the first key or password in a text; empty for none.

    Args:
        text: The text.
        low: The same in lower case with single spaces.
        longest: Characters of its longest word, 0 when that is not known: no key is shorter than 20, no password
            that is told from a word shorter than 12.
    """
    if 0 < longest < SHORTEST_PASSWORD:
        return ""
    if not longest or longest >= SHORTEST_KEY:
        for kind in KINDS:
            if kind.hint in text and kind.pattern.search(text):
                return kind.name
    if any(name in low for name in NAMES) and any(_is_random(match[1]) for match in ASSIGNED.finditer(text)):
        return "a password or key in an assignment"
    return ""


def find_personal(text: str, low: str) -> str:
    """The kind of the first personal datum in a text; empty for none."""
    if "@" in text:
        for match in MAIL.finditer(text):
            if not FREE.fullmatch(match[1]) and not match[0].lower().startswith(SERVICE):
                return "an e-mail address"
    raw = low.encode("utf-8", "surrogatepass")
    if len(raw) - len(raw.translate(None, DIGITS)) < FEWEST_DIGITS:
        return ""
    if any(_is_card(match) for match in GROUPED.finditer(text)):
        return "a card number"
    if any(word in low for word in CARD_WORDS) and any(_is_card(match) for match in PLAIN.finditer(text)):
        return "a card number"
    return ""


def _is_random(value: str) -> bool:
    """Whether a value looks drawn rather than written: three kinds of characters and a high entropy."""
    if PLACEHOLDER.search(value) or (value.isidentifier() and value.islower()):
        return False
    kinds = (any(map(test, value)) for test in (str.islower, str.isupper, str.isdigit, lambda c: not c.isalnum()))
    counts = Counter(value).values()
    bits = -sum(n / len(value) * log2(n / len(value)) for n in counts)
    return sum(kinds) >= 3 and bits >= FEWEST_BITS and any(map(str.isdigit, value))


def _is_card(match: re.Match[str]) -> bool:
    """Whether digits stand alone, begin as an issuer's and pass the check of Luhn."""
    before = match.string[match.start() - 1 : match.start()] if match.start() else ""
    digits = [int(c) for c in match[0] if c.isdigit()]
    if before.isdigit() or before in (".", "-") or not ISSUER.match("".join(map(str, digits))):
        return False
    doubled = [d if i % 2 == 0 else d * 2 - 9 * (d > 4) for i, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0 and len(set(digits)) > 1
