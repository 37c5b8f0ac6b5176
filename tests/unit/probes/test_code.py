from __future__ import annotations

import sys
import time

import pytest

from temper.probes.base import ProbeSpec
from temper.probes.code import code, extract, program
from temper.probes.sandbox import Ended, run_python
from tests.unit.probes.bigram import Table, Words

posix = pytest.mark.skipif(sys.platform == "win32", reason="limits need POSIX")
SPEC = ProbeSpec(name="c", axis="code", kind="code", source="c", max_new_tokens=9, options={"seconds": 10.0})
PREFIX = "from math import pi\n\ndef area(r):\n    '''Area of a circle.'''\n"
CIRCLE = {"prompt": "q", "prefix": PREFIX, "entry_point": "area", "tests": "assert round(area(1), 2) == 3.14"}


def test_a_program_passes_when_it_reaches_its_end():
    assert run_python("assert 1 + 1 == 2").ended is Ended.PASSED
    failed = run_python("assert 1 + 1 == 3, 'sums'")
    assert failed.ended is Ended.FAILED
    assert failed.output.rstrip().endswith("AssertionError: sums")


@pytest.mark.parametrize("early", ["import sys; sys.exit(0)", "import os; os._exit(0)"])
def test_leaving_early_is_not_passing(early: str):
    assert run_python(f"{early}\nassert False").ended is Ended.FAILED


@pytest.mark.slow
def test_a_program_that_does_not_end_is_ended():
    started = time.monotonic()
    assert run_python("while True: pass", seconds=1).ended is Ended.TIMEOUT
    assert run_python("import time\ntime.sleep(60)", seconds=1).ended is Ended.TIMEOUT
    assert time.monotonic() - started < 20


@posix
def test_memory_and_files_are_limited():
    assert "MemoryError" in run_python("x = 'a' * (1 << 30)", memory_mb=256).output
    assert "File too large" in run_python("open('f', 'wb').write(b'x' * (1 << 25))").output


def test_the_environment_is_empty_and_the_folder_is_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MY_API_KEY", "secret")
    ran = run_python(
        "import os\nassert 'MY_API_KEY' not in os.environ\nassert os.listdir('.') == []\nprint(os.getcwd())"
    )
    assert ran.ended is Ended.PASSED, ran.output
    assert "temper-sandbox-" in ran.output


def test_there_is_no_network():
    ran = run_python("import socket\nsocket.create_connection(('127.0.0.1', 9), timeout=5)")
    assert ran.ended is Ended.FAILED
    # A closed port would refuse; without an interface, or inside Python, there is not even a way to it.
    assert "ConnectionRefused" not in ran.output


@pytest.mark.slow
@posix
def test_what_a_program_starts_is_ended_with_it(tmp_path):
    mark = tmp_path / "alive"
    child = f"import time, pathlib; time.sleep(2); pathlib.Path({str(mark)!r}).touch()"
    ran = run_python(f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {child!r}])", seconds=10)
    assert ran.ended is Ended.PASSED, ran.output
    time.sleep(2.5)
    assert not mark.exists()


def test_code_is_what_the_fences_enclose():
    assert extract("def f(): pass") == "def f(): pass"
    assert extract("Sure:\n```python\ndef f(): pass\n```\nDone") == "def f(): pass\n"
    two = "```py\ndef f(): pass\n```\nUse it:\n```\nf()\n```"
    assert extract(two) == "def f(): pass\n"
    assert extract("```\nx = 1") == "x = 1"


@pytest.mark.parametrize(
    "reply",
    [
        "return pi * r * r",  # a continuation whose blanks the chat template took
        "    return pi * r * r",
        "```python\ndef area(r):\n    return pi * r * r\n```",  # relies on the import of the prefix
    ],
)
def test_a_reply_may_continue_the_signature_or_write_it_again(reply: str):
    assert run_python(program(reply, CIRCLE)).ended is Ended.PASSED


def test_an_item_is_right_when_all_its_tests_pass():
    tests = ["assert add(1, 2) == 3", "assert add(0, 0) == 0"]
    replies = {
        "good": "```python\ndef add(a, b):\n    return a + b\n```",
        "wrong": "def add(a, b): return a - b",
        "broken": "def add(a, b) return",
    }
    model = Table(Words(), replies=replies)
    items = [{"id": p, "prompt": p, "tests": tests} for p in replies]
    found = code(model.policy, model.words, SPEC, items)
    assert [o.value for o in found] == [1.0, 0.0, 0.0]
    assert [o.parts["runs"] for o in found] == [1.0, 1.0, 0.0]
