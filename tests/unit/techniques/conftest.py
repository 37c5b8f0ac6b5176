"""The world that plans are tried in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.world import World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A fresh one, with a cache of its own."""
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    return World.make(tmp_path)
