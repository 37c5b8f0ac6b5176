"""The page about the catalogue says what the catalogue says."""

from __future__ import annotations

from scripts.make_catalogue import PAGE, page
from temper.data import catalog


def test_the_page_is_current() -> None:
    """When this fails: python scripts/make_catalogue.py."""
    assert PAGE.read_text(encoding="utf-8") == page()


def test_every_source_has_its_line() -> None:
    lines = page().split("\n")
    assert all(any(line.startswith(f"| `{name}` |") for line in lines) for name in catalog.sources(optional=True))
