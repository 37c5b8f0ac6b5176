"""A tokenizer to render rows with, and a cache to keep them in."""

from __future__ import annotations

from pathlib import Path

import pytest

from temper.data.render import Renderer
from tests.tiny import tiny_tokenizer


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder without weights; nobody writes to it."""
    return tiny_tokenizer(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def renderer(folder: Path) -> Renderer:
    return Renderer.load(folder)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's own; for all tests of a file by `usefixtures`."""
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
