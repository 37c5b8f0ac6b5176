"""The world that whole runs are tested in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.world import World, settle


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A fresh one, with a cache of its own."""
    return settle(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One for all tests of a module, which write to different folders in it."""
    with pytest.MonkeyPatch.context() as patch:
        yield settle(tmp_path_factory.mktemp("world"), patch)
