"""Commands in a new interpreter, which says what they imported; several share one, since its start is what costs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.arch.source import ROOT

RUNNER = """
import contextlib, io, json, os
sys.argv[0] = "temper"
from temper.cli import main
from time import monotonic


def ended(folder, arguments):
    os.chdir(folder)
    sys.argv[1:], out, err, code, started = arguments, io.StringIO(), io.StringIO(), 0, monotonic()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
    loaded = [name for name in ("torch", "transformers") if name in sys.modules]
    said = {"out": out.getvalue(), "err": err.getvalue()}
    return {**said, "code": code, "loaded": loaded, "seconds": monotonic() - started}


print(json.dumps([ended(*call) for call in json.loads(sys.stdin.read())]))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How a command ended."""

    code: int
    out: str
    err: str
    loaded: list[str]
    """Which of torch and transformers it or a command before it imported."""
    seconds: float
    """Without the start of the interpreter."""


def interpreter(code: str, *, said: str = "") -> subprocess.CompletedProcess[str]:
    """Runs Python code, which may read `said`, in a new interpreter that finds the package of this repository."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, input=said, capture_output=True, text=True, timeout=120, check=False
    )


def commands(calls: Sequence[tuple[Path, Sequence[str | Path]]]) -> list[Answer]:
    """Runs `temper` with the folder and the arguments of each call, one after the other."""
    told = json.dumps([(str(folder), [str(a) for a in arguments]) for folder, arguments in calls])
    done = interpreter(RUNNER, said=told)
    assert done.returncode == 0, done.stderr
    return [Answer(**answer) for answer in json.loads(done.stdout)]
