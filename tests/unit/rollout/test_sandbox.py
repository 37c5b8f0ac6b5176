"""The code reward in the sandbox of the probes: what a program that misbehaves is worth."""

from __future__ import annotations

import sys

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
