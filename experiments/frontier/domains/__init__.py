"""The four domains of the study, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments.frontier.domains import address, facts, icd10, smart_home

if TYPE_CHECKING:
    from experiments.frontier.domains.rows import Domain

DOMAINS = ("icd10", "smart-home", "address", "facts")


def make(name: str, *, seed: int = 0) -> Domain:
    """Both sides of a domain; the seed moves rows, not what is asked of them."""
    makers = {"icd10": icd10.make, "smart-home": smart_home.make, "address": address.make, "facts": facts.make}
    return makers[name](seed=seed)
