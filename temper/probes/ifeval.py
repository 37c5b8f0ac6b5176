"""IFEval's 25 kinds of instruction (Zhou et al. 2023, arXiv 2311.07911), checked by a program, as items name them.

An item has `instruction_id_list` and `kwargs` as in IFEval's own file; a reply is worth the share of its instructions
that it keeps, and is right when it keeps all of them (the strict count of the paper). What differs from the reference
implementation: sentences are split by punctuation and words by their letters, not by a trained splitter; keywords are
taken as text, not as patterns; and `language:response_language` is told by the script of the letters and, for scripts
that languages share, by their most frequent words; a language that neither can tell is left out, as is an item that
asks for nothing else. Pure.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from temper.errors import DataError
from temper.probes.base import Item, Outcome, ProbeSpec
from temper.probes.generate import Grade, graded

if TYPE_CHECKING:
    from temper.data.render import Renderer
    from temper.model.protocol import Policy

Instruction = Mapping[str, Any]
"""Parameters of one instruction, e.g. {"relation": "at least", "num_words": 300}."""
ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
SCRIPTS: Mapping[str, str] = {
    "ar": "ARABIC", "bg": "CYRILLIC", "bn": "BENGALI", "el": "GREEK", "fa": "ARABIC", "gu": "GUJARATI",
    "he": "HEBREW", "hi": "DEVANAGARI", "ja": "HIRAGANA", "kn": "KANNADA", "ko": "HANGUL", "mr": "DEVANAGARI",
    "ne": "DEVANAGARI", "pa": "GURMUKHI", "ru": "CYRILLIC", "ta": "TAMIL", "te": "TELUGU", "th": "THAI",
    "uk": "CYRILLIC", "ur": "ARABIC", "zh": "CJK",
}  # fmt: skip
"""Script of the letters of a language that is not written in Latin ones; languages of one script are not told apart."""
FREQUENT: Mapping[str, str] = {
    "de": "der die das und ist nicht ein eine zu den mit von auf sich",
    "en": "the and is of to in that it for with as are was this",
    "es": "el la los las de que y en un una es por con para",
    "fi": "ja on ei se ett\u00e4 oli joka mutta ovat my\u00f6s kun t\u00e4m\u00e4 h\u00e4n niin",
    "fr": "le la les des et est un une que pour dans qui pas sur",
    "it": "il la che di e un una per non sono con del della",
    "pt": "o a os as que e de do da em um uma para com n\u00e3o",
    "sw": "ya na wa kwa ni za katika la hii cha kuwa yake kama pia",
    "vi": "l\u00e0 v\u00e0 c\u1ee7a c\u00f3 kh\u00f4ng m\u1ed9t trong cho \u0111\u01b0\u1ee3c",
}
"""Words that make up a good part of any text in a language written in Latin letters."""


def instructions(policy: Policy, renderer: Renderer, spec: ProbeSpec, items: Sequence[Item]) -> tuple[Outcome, ...]:
    """Share of an item's instructions that the reply keeps; hard when it keeps them all."""

    def grade(reply: str, item: Item) -> Grade:
        results = kept(reply, item["instruction_id_list"], item["kwargs"])
        share = sum(results) / len(results)
        return Grade(value=share, hard=float(all(results)), reference=", ".join(item["instruction_id_list"]))

    return graded(policy, renderer, spec, items, grade)


def kept(reply: str, names: Sequence[str], kwargs: Sequence[Instruction]) -> list[bool]:
    """Which instructions a reply keeps; an empty reply keeps none. Those that cannot be told are left out."""
    text = reply.strip()
    return [bool(text) and CHECKS[n](reply, k) for n, k in zip(names, kwargs, strict=True) if is_told(n, k)]


def is_told(name: str, told: Instruction) -> bool:
    """Whether this instruction can be checked here: all kinds, and the languages that are known."""
    if name not in CHECKS:
        raise DataError(f"instruction {name!r} is not known; expected one of {', '.join(sorted(CHECKS))}; correct it")
    return not name.startswith("language:") or told["language"] in {*SCRIPTS, *FREQUENT}


def is_checkable(item: Item) -> bool:
    """Whether at least one instruction of the item can be checked."""
    return any(is_told(n, k) for n, k in zip(item["instruction_id_list"], item["kwargs"], strict=True))


def sentences(text: str) -> list[str]:
    """Sentences of a text by their closing punctuation; decimals, initials and a few abbreviations do not end one."""
    guarded = re.sub(r"(\d)\.(\d)", "\\1\ue000\\2", text)
    guarded = re.sub(r"\b(Mr|Mrs|Ms|Dr|St|Prof|Jr|Sr|vs|etc|e\.g|i\.e|[A-Z])\.", "\\1\ue000", guarded)
    parts = re.split(r"(?<=[.!?])[\"'\u201d)]*\s+", guarded.strip())
    return [p for p in parts if re.search(r"\w", p)]


def language_of(text: str, language: str) -> bool:
    """Whether a text is written in a language of `SCRIPTS` or `FREQUENT`."""
    letters = [unicodedata.name(c, "") for c in text if c.isalpha()]
    if not letters:
        return True  # nothing to tell by; the reference implementation lets it pass as well
    if language in SCRIPTS:
        wanted = ("HIRAGANA", "KATAKANA", "CJK") if language == "ja" else (SCRIPTS[language],)
        inside = sum(name.startswith(wanted) for name in letters) / len(letters)
        kana = any(name.startswith(("HIRAGANA", "KATAKANA")) for name in letters)
        return inside > 0.5 and (language not in ("ja", "zh") or kana == (language == "ja"))
    if sum(name.startswith("LATIN") for name in letters) / len(letters) <= 0.5:
        return False
    words = Counter(re.findall(r"[^\W\d_]+", text.lower()))
    shares = {name: sum(words[w] for w in known.split()) for name, known in FREQUENT.items()}
    return shares[language] == max(shares.values()) and (shares[language] > 0 or len(words) < 8)


def _compared(count: int, told: Instruction, relation: str, bound: str) -> bool:
    return count < told[bound] if told[relation] == "less than" else count >= told[bound]


def _paragraphs(text: str, wanted: int) -> bool:
    parts = [bool(p.strip()) for p in re.split(r"\s?\*\*\*\s?", text)]
    return all(parts[1:-1]) and sum(parts) == wanted


def _first_word(text: str, told: Instruction) -> bool:
    paragraphs = text.split("\n\n")
    count = sum(bool(p.strip()) for p in paragraphs)
    if told["nth_paragraph"] > count or count != told["num_paragraphs"]:
        return False
    words = paragraphs[told["nth_paragraph"] - 1].split()
    first = re.match(r"[^.,?!'\"]*", words[0].lstrip("'").lstrip('"')) if words else None
    return first is not None and first.group().lower() == told["first_word"].lower()


def _bullets(text: str) -> int:
    return len(re.findall(r"^\s*\*[^*].*$", text, re.MULTILINE)) + len(re.findall(r"^\s*-.*$", text, re.MULTILINE))


def _highlights(text: str) -> int:
    single = [h for h in re.findall(r"\*[^\n*]*\*", text) if h.strip("*").strip()]
    double = [h for h in re.findall(r"\*\*[^\n*]*\*\*", text) if h.removeprefix("**").removesuffix("**").strip()]
    return len(single) + len(double)


def _is_json(text: str) -> bool:
    bare = re.sub(r"^```(?:json)?", "", text.strip(), flags=re.IGNORECASE).removesuffix("```").strip()
    try:
        json.loads(bare)
    except (ValueError, RecursionError):
        return False
    return True


def _postscript(text: str, marker: str) -> bool:
    known = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return re.search(known.get(marker.strip(), re.escape(marker.strip().lower())), text.lower()) is not None


def _two_responses(text: str) -> bool:
    parts = [p.strip() for p in text.split("******")]
    said = [p for p in parts if p]
    return all(parts[1:-1]) and len(said) == 2 and said[0] != said[1]


def _forbidden(text: str, words: Sequence[str]) -> bool:
    return not any(re.search(rf"\b{re.escape(w)}\b", text, re.IGNORECASE) for w in words)


CHECKS: Mapping[str, Callable[[str, Instruction], bool]] = {
    "keywords:existence": lambda t, k: all(w.lower() in t.lower() for w in k["keywords"]),
    "keywords:frequency": lambda t, k: _compared(
        t.lower().count(k["keyword"].strip().lower()), k, "relation", "frequency"
    ),
    "keywords:forbidden_words": lambda t, k: _forbidden(t, k["forbidden_words"]),
    "keywords:letter_frequency": lambda t, k: _compared(
        t.lower().count(k["letter"].lower()), k, "let_relation", "let_frequency"
    ),
    "language:response_language": lambda t, k: language_of(t, k["language"]),
    "length_constraints:number_sentences": lambda t, k: _compared(len(sentences(t)), k, "relation", "num_sentences"),
    "length_constraints:number_paragraphs": lambda t, k: _paragraphs(t, k["num_paragraphs"]),
    "length_constraints:number_words": lambda t, k: _compared(len(re.findall(r"\w+", t)), k, "relation", "num_words"),
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": lambda t, k: len(re.findall(r"\[.*?\]", t)) >= k["num_placeholders"],
    "detectable_content:postscript": lambda t, k: _postscript(t, k["postscript_marker"]),
    "detectable_format:number_bullet_lists": lambda t, k: _bullets(t) == k["num_bullets"],
    "detectable_format:constrained_response": lambda t, k: any(a in t for a in ANSWERS),
    "detectable_format:number_highlighted_sections": lambda t, k: _highlights(t) >= k["num_highlights"],
    "detectable_format:multiple_sections": lambda t, k: (
        len(re.findall(rf"\s?{re.escape(k['section_spliter'].strip())}\s?\d+\s?", t)) >= k["num_sections"]
    ),
    "detectable_format:json_format": lambda t, k: _is_json(t),
    "detectable_format:title": lambda t, k: any(x.strip("<> ") for x in re.findall(r"<<[^\n]+>>", t)),
    "combination:two_responses": lambda t, k: _two_responses(t),
    "combination:repeat_prompt": lambda t, k: t.strip().lower().startswith(k["prompt_to_repeat"].strip().lower()),
    "startend:end_checker": lambda t, k: t.strip().strip('"').lower().endswith(k["end_phrase"].strip().lower()),
    "startend:quotation": lambda t, k: len(t.strip()) > 1 and t.strip()[0] == t.strip()[-1] == '"',
    "change_case:capital_word_frequency": lambda t, k: _compared(
        sum(w.isupper() for w in re.findall(r"[\w'-]+", t)), k, "capital_relation", "capital_frequency"
    ),
    "change_case:english_capital": lambda t, k: t.isupper() and language_of(t, "en"),
    "change_case:english_lowercase": lambda t, k: t.islower() and language_of(t, "en"),
    "punctuation:no_comma": lambda t, k: "," not in t,
}
