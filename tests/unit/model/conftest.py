"""Tests of models compute what the start makes of a row, unless they ask for the cache, which rounds."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_cache_of_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_CACHE_GB", "0")
