"""The world that plans are tried in."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.world import World, settle


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A fresh one, with a cache of its own."""
    return settle(tmp_path, monkeypatch)
