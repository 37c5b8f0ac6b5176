"""Worker: the process in which reward functions run, so that none of them can stop, hang or print into the run.

It speaks over its standard streams, which it takes away from the rewards: requests come as pickles, answers go as lines
of JSON. Run by `temper.rollout.grading` alone. It is no sandbox: a reward runs under the user's own account.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pickle
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from temper.errors import TemperError
from temper.rollout.bind import Bound, Leaf, bind
from temper.rollout.score import Score, as_score, errored
from temper.rollout.task import Task

PRINTED = 200
"""Characters of a reward's own output that are kept."""


@dataclasses.dataclass(slots=True)
class Captured:
    """Stands for stdout and stderr while a reward runs, and keeps the beginning."""

    text: str = ""

    def write(self, text: str) -> int:
        """Keeps what still fits."""
        self.text += text[: PRINTED - len(self.text)]
        return len(text)

    def flush(self) -> None:
        """Nothing waits."""

    def isatty(self) -> bool:
        """It is no terminal."""
        return False


def main() -> None:
    """Serves requests until the stream ends."""
    asked, told = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    silent = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):
        os.dup2(silent, stream)
    threading.Thread(target=_leave_with_parent, args=(os.getppid(),), daemon=True).start()
    bound = _load(pickle.load(asked), told)
    os.dup2(silent, 2)  # what stands there until now tells why a start failed
    while bound is not None:
        try:
            task, reply = pickle.load(asked)
        except EOFError:
            break
        _tell(told, [_plain(score) for score in grade_one(bound, task, reply)])


def grade_one(bound: Sequence[Bound], task: Task, reply: str) -> list[Score]:
    """One score per reward; whatever a reward does instead is an error of that reward alone."""
    return [_grade(b, task, reply) for b in bound]


def _grade(bound: Bound, task: Task, reply: str) -> Score:
    missing = [need for need in bound.needs if not task.has(need)]
    if missing:
        wanted = missing[0].replace("|", " or ")
        return errored(f"the task has no {wanted}; expected one to grade by; add it to the row")
    said, started = Captured(), time.perf_counter()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):  # pyright: ignore[reportArgumentType]
            score = as_score(bound.rule.function(task, reply, **bound.params))
    except BaseException as error:  # noqa: BLE001 - whatever it is, it costs this reply alone
        score = errored(describe(error))
    printed = f"printed {said.text.strip()!r}" if said.text.strip() else ""
    note = "; ".join(part for part in (score.note, printed) if part)
    return dataclasses.replace(score, note=note, seconds=time.perf_counter() - started)


def describe(error: BaseException) -> str:
    """The exception, and the last line of a file that is not ours where it came from."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) != Path(__file__)]
    own = [f for f in frames if "site-packages" not in f.filename and not f.filename.startswith("<")]
    place = f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
    if isinstance(error, SystemExit):
        return f"ended with sys.exit({error.code!r}){place}; expected a number to be returned; raise or return instead"
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return f"{type(error).__name__}: {text[:500]}{place}" if text else f"{type(error).__name__}{place}"


def _load(leaves: Sequence[Leaf], told: BinaryIO) -> list[Bound] | None:
    for leaf in leaves:
        place = Path(leaf.name.partition(":")[0])
        if place.suffix == ".py":
            sys.path.append(str(place.parent))  # a reward may import what stands beside it
    said = Captured()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):  # pyright: ignore[reportArgumentType]
            bound = [bind(leaf) for leaf in leaves]
            for each in bound:
                each.rule.prepare()
    except BaseException as error:  # noqa: BLE001 - told to the run, which raises it
        kind = "user" if isinstance(error, TemperError) else "foreign"
        _tell(told, {kind: str(error) if kind == "user" else describe(error)})
        return None
    facts = [
        {"needs": b.needs, "low": b.rule.low, "high": b.rule.high, "seconds": b.seconds, "batch": b.rule.batch}
        for b in bound
    ]
    _tell(told, {"facts": facts})
    return bound


def _plain(score: Score) -> dict[str, Any]:
    return {
        "value": score.value, "outcome": score.outcome.value, "parts": dict(score.parts), "note": score.note,
        "seconds": score.seconds,
    }  # fmt: skip


def _tell(told: BinaryIO, answer: Any) -> None:
    told.write(json.dumps(answer).encode() + b"\n")
    told.flush()


def _leave_with_parent(parent: int) -> None:
    """A killed run closes the streams, but a reward that hangs does not read them."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)
