"""The repository speaks of the project alone: no folder of somebody's machine, no package mirror, ASCII in code."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.arch.source import ROOT, package

FOREIGN = re.compile(
    r"(?<![\w.])/(?:home|Users|root|work|workspace|mnt|opt)/[\w.]"  # somebody's folders
    r"|[A-Z]:\\\\?Users\\"
    r"|(?:^|[/@.])(?:pypi|test\.pypi)\.org|pythonhosted\.org|registry\.npmjs|npmjs\.org|artifactory|jfrog\.io|/opt/pypi"
)
"""Absolute paths of one machine, and hosts that packages come from: pip is configured by its user."""

SKIPPED = {".venv", ".git", "runs", "build", "dist", "__pycache__", ".pytest_cache", ".ruff_cache", ".hypothesis"}


def texts() -> Iterator[tuple[str, str]]:
    """Path and text of every file that belongs to the repository; what is not UTF-8 text is left out."""
    for path in _files():
        if path == Path(__file__):
            continue
        try:
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def _files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode == 0:
        found = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:  # an unpacked archive
        found = [p for p in ROOT.rglob("*") if not SKIPPED & set(p.relative_to(ROOT).parts)]
    return sorted(p for p in found if p.is_file())


def test_no_file_names_a_machine_or_a_package_mirror() -> None:
    hits = [
        f"{path}:{number}: {line.strip()[:100]}"
        for path, text in texts()
        for number, line in enumerate(text.splitlines(), start=1)
        if FOREIGN.search(line)
    ]
    assert hits == []


def test_code_is_ascii() -> None:
    assert [s.path for s in package() if not (ROOT / s.path).read_bytes().isascii()] == []


def test_every_rule_of_the_order_is_in_agents_md() -> None:
    from tests.arch.source import LAYERS

    line = re.search(r"^    (errors registry .*)$", (ROOT / "AGENTS.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert line is not None
    assert tuple(line.group(1).replace("|", " ").split()) == LAYERS


@pytest.mark.parametrize(
    "line",
    [
        "see /home/ann/data",
        "cache: " + "/ro" + "ot/.cache",
        "https://py" + "pi.org/simple",
        r"C:\Users\ann",
        "cd /wo" + "rk/x",
    ],
)
def test_the_rule_notices(line: str) -> None:
    assert FOREIGN.search(line)


@pytest.mark.parametrize(
    "line", ["write to ./wo" + "rk/x", "runs/demo/home/x", "`~/.cache/temper`", "docs.pytorch.org"]
)
def test_the_rule_lets_relative_paths_pass(line: str) -> None:
    assert not FOREIGN.search(line)
