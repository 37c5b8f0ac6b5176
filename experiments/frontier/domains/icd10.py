"""ICD-10-CM coding: a diagnosis in words, answered with its three-character category.

Diagnoses are the descriptions and inclusion terms of the tabular list (US public domain, NCHS and CMS) that the
package simple-icd-10-cm carries. Terms that differ only in side, stage of care or the like share a group, and one term
stands for a group, so that the exam asks for diagnoses of known categories that training has never named. Nothing of
the code can be read off the words: which letter and number a category has must be learnt.
"""

from __future__ import annotations

import random
import re
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from experiments.frontier.domains.rows import Domain, Row
from temper.data import fetch

SHA256 = "6d461d71dc26aedc530ae65f02cfb578a154e49507c32e8241e75f701d4b7e42"
MEMBER = "simple_icd_10_cm/data/icd10c-tabular-April-1-2026.xml"
CHAPTERS = "EFGHIJKLMN"
"""First letters of the codes of bodily and mental disorders; injuries, births and circumstances are left out."""
CATEGORIES = 40
MOST_OF_ONE = 24
EXAM_OF_ONE = 6
LONGEST = 90
"""Characters of a term."""
SIDES = re.compile(
    r"\b(right|left|bilateral|unspecified|specified|other|eye|eyes|ear|side|site|sites|initial|subsequent|sequela|"
    r"encounter|nos|nec|and|of|the|with|without|in|due|to|or|by|not|elsewhere|classified|acute|chronic)\b|[^a-z ]"
)
"""What does not make another diagnosis."""


def make(*, seed: int = 0) -> Domain:
    """Both sides."""
    archive = fetch.fetch("simple-icd-10-cm", "1.5.0", SHA256, size=1_080_000)
    return build(terms(ElementTree.fromstring(fetch.read_member(archive, MEMBER))), seed=seed)


def terms(tabular: ElementTree.Element) -> dict[str, list[str]]:
    """Category -> its terms, from the tabular list."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for section in tabular.iter("section"):
        for category in section.findall("diag"):
            found[category.findtext("name", "")].extend(_terms(category))
    return dict(found)


def build(by_category: Mapping[str, Sequence[str]], *, seed: int) -> Domain:
    """The categories with most diagnoses; the last `EXAM_OF_ONE` diagnoses of each are the exam."""
    rng = random.Random(seed)
    stems: dict[str, dict[str, str]] = {}
    owner: dict[str, str] = {}
    for category, texts in sorted(by_category.items()):
        for text in texts:
            stem = stem_of(text)
            fits = category[0] in CHAPTERS and stem and len(text) <= LONGEST
            if fits and owner.setdefault(stem, category) == category:
                stems.setdefault(category, {}).setdefault(stem, text)
    chosen = sorted(stems, key=lambda c: (-len(stems[c]), c))[:CATEGORIES]
    train: list[Row] = []
    exam: list[Row] = []
    for category in chosen:
        kept = rng.sample(sorted(stems[category]), min(MOST_OF_ONE, len(stems[category])))
        rows = [_row(stems[category][stem], category, stem) for stem in kept]
        train += rows[:-EXAM_OF_ONE]
        exam += rows[-EXAM_OF_ONE:]
    return Domain(train=tuple(rng.sample(train, len(train))), exam=tuple(rng.sample(exam, len(exam))))


def stem_of(text: str) -> str:
    """The words that make a diagnosis, in order of the alphabet.

    Example:
        stem_of("Band keratopathy, left eye")  # "band keratopathy"
    """
    return " ".join(sorted(set(SIDES.sub(" ", text.lower()).split())))


def _terms(diagnosis: ElementTree.Element) -> Iterator[str]:
    yield diagnosis.findtext("desc", "")
    for terms in diagnosis.findall("inclusionTerm"):
        yield from (note.text or "" for note in terms.findall("note"))
    for child in diagnosis.findall("diag"):
        yield from _terms(child)


def _row(text: str, category: str, stem: str) -> Row:
    return Row(prompt=f"ICD-10-CM category of: {text}", completion=category, group=stem)
