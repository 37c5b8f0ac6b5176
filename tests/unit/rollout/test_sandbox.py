"""The code reward in the sandbox of the probes: what a program that misbehaves is worth."""

from __future__ import annotations

import ctypes
import os
import sys
import textwrap
from pathlib import Path

import pytest

from temper.data.row import Message
from temper.rollout.rewards.checks import code
from temper.rollout.task import Task

posix = pytest.mark.skipif(sys.platform == "win32", reason="limits need POSIX")
GIVEN = Task(
    id="1", messages=(Message(role="user", content="q"),), fields={"tests": "assert answer() == 42"}, origin="t:1"
)


def worth(program: str) -> float:
    return code(GIVEN, program, seconds=3.0, memory_mb=512).value


def test_a_program_that_answers_is_right():
    assert worth("def answer():\n    return 42") == 1.0


@pytest.mark.parametrize(
    "program",
    [
        "import sys\nsys.exit(0)",
        "import os\nos._exit(0)",
        "import os\nos.kill(os.getpid(), 9)",
        "raise SystemExit",
        # Each looks for the mark of the end where it used to stand, prints it and leaves before the tests.
        "import os, sys\nsys.stderr.write(sys.orig_argv[-2])\nsys.stderr.flush()\nos._exit(0)",
        "import os, sys\nsays = open('/proc/self/cmdline').read().split(chr(0))\n"
        "sys.stderr.write(says[-3])\nsys.stderr.flush()\nos._exit(0)",
        "import os, sys, __main__\nsys.stderr.write(str(getattr(__main__, 'mark', '')) + '\\n')\n"
        "sys.stderr.flush()\nos._exit(0)",
        "import os, sys\nsys.stderr.write(sys.stdin.read())\nsys.stderr.flush()\nos._exit(0)",
        "def answer():\n    return answer()",
    ],
)
def test_leaving_before_the_tests_is_wrong(program: str):
    assert worth(program) == 0.0


@pytest.mark.slow
@posix
@pytest.mark.parametrize(
    "program",
    [
        "x = 'a' * (1 << 31)\ndef answer(): return 42",
        "open('f', 'wb').write(b'x' * (1 << 26))\ndef answer(): return 42",
        "import socket\nsocket.create_connection(('127.0.0.1', 9), timeout=5)\ndef answer(): return 42",
        "import time\ntime.sleep(60)\ndef answer(): return 42",
    ],
)
def test_more_memory_disk_network_or_time_than_there_is_ends_it(program: str):
    assert worth(program) == 0.0


def has_landlock() -> bool:
    """Whether the kernel tells the version of its interface when it is asked for no rules (landlock_create_ruleset)."""
    return sys.platform == "linux" and ctypes.CDLL(None).syscall(444, None, 0, 1) >= 1


@pytest.mark.skipif(not has_landlock(), reason="the kernel has no Landlock")
def test_files_outside_of_its_folder_are_closed_to_a_program(tmp_path: Path):
    """It could read and delete whatever the user could."""
    mine = tmp_path / "mine.txt"
    mine.write_text("dear to me", encoding="utf-8")
    deeds = (
        f"open({str(mine)!r}).read()",
        f"open({str(mine)!r}, 'w')",
        f"os.unlink({str(mine)!r})",
        f"os.listdir({str(tmp_path)!r})",
        f"os.mkdir({str(tmp_path / 'new')!r})",
        f"open('/proc/{os.getpid()}/environ').read()",
        f"subprocess.run(['rm', '-r', {str(tmp_path)!r}], check=True)",
    )
    for deed in deeds:
        assert worth(f"import os, subprocess\n{deed}\ndef answer(): return 42") == 0.0, deed
    assert mine.read_text(encoding="utf-8") == "dear to me"


def test_what_an_honest_program_needs_is_open_to_it():
    program = """
        import decimal, json, os, random, secrets, sqlite3, subprocess, tempfile, numpy
        with tempfile.NamedTemporaryFile("w+") as file, open("own.txt", "w") as own:
            own.write(file.name)
        os.mkdir("more"); os.rename("own.txt", "more/own.txt")
        sqlite3.connect("own.db").execute("create table t (a)")
        open(os.devnull, "w").write(secrets.token_hex())
        subprocess.run(["/bin/sh", "-c", "ls > /dev/null"], check=True)
        def answer(): return int(numpy.array([42]).sum())
        """
    assert worth(textwrap.dedent(program)) == 1.0
