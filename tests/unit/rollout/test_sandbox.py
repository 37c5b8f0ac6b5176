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
