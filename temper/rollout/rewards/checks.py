"""Rewards that run something: the instructions a task lists, and its unit tests.

`ifeval` gives the share of the instructions kept, `code` 1 when all tests pass (with `partial` the share of them). The
tests run in the sandbox of the code probe, one process per program, with its limits and its limits' limits: a program
that looks for it can pretend to have passed, so read the best rollouts.
"""

from __future__ import annotations

import ast
import time
from collections.abc import Mapping, Sequence
from typing import Any

from temper.data.turns import listed
from temper.errors import RecipeError
from temper.probes import formats
from temper.probes.code import MEMORY_MB, SECONDS, program
from temper.probes.ifeval import kept
from temper.probes.sandbox import Ended, run_python
from temper.rollout.score import Rule, Score, unparsable
from temper.rollout.task import Task


def _ifeval(task: Task, reply: str, *, strict: bool = False) -> Score:
    """Share of the task's instructions that the reply keeps, or with `strict` 1 for all of them and else 0.

    A task lists them as IFEval does (`instruction_id_list`, `kwargs`) or as the probe `formats` does (`checks`).
    """
    if task.has("checks"):
        checks = _items(task, "checks")
        names, results = [str(check["kind"]) for check in checks], formats.passed(reply, checks)
    else:
        names, told = _items(task, "instruction_id_list"), _items(task, "kwargs")
        results = kept(reply, names, told)
        names = names if len(names) == len(results) else [str(n) for n in range(len(results))]
    if not results:
        raise ValueError("none of the instructions can be checked; expected one that can; correct or drop the row")
    parts: dict[str, float] = {}
    for name, result in zip(names, results, strict=True):
        parts[name] = min(parts.get(name, 1.0), float(result))
    share = sum(results) / len(results)
    return Score(value=float(share == 1.0) if strict else share, parts=parts)


def _code(
    task: Task, reply: str, *, seconds: float = SECONDS, memory_mb: int = MEMORY_MB, partial: bool = False
) -> Score:
    """1 where the program in the reply passes all tests of the task; a reply that is no Python is unparsable.

    Args:
        task: Has `tests`, Python text or a list of assertions; may have `prefix` and `entry_point`.
        reply: What the model wrote, code in fences or bare.
        seconds: For all tests together.
        memory_mb: For the program.
        partial: Whether each test of a list counts for itself; runs one process per test.
    """
    tests = _items(task, "tests") if not isinstance(task["tests"], str) else [task["tests"]]
    ast.parse("\n".join(tests))  # a row whose tests are no Python is the row's fault, not the reply's
    item = {name: task[name] for name in ("prefix", "entry_point") if task.has(name)}
    try:
        ast.parse(program(reply, {**item, "tests": ""}))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return unparsable(f"no Python: {type(error).__name__}")
    deadline, passed = time.monotonic() + seconds, 0
    groups = [[test] for test in tests] if partial else [tests]
    for group in groups:
        left = deadline - time.monotonic()
        if left <= 0:
            break
        ran = run_python(program(reply, {**item, "tests": group}), seconds=left, memory_mb=memory_mb)
        passed += ran.ended is Ended.PASSED
    return Score(value=passed / len(groups))


def _items(task: Task, name: str) -> Sequence[Any]:
    value = listed(task[name], name)
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"{name} is {value!r}; expected a list; correct the row")
    return value


def _is_limit(params: Mapping[str, Any]) -> None:
    for name in ("seconds", "memory_mb"):
        if params.get(name, 1) <= 0:
            raise RecipeError(f"reward code: {name} {params[name]!r}; expected more than 0; write it like 10")


ifeval = Rule(function=_ifeval, needs=("checks|instruction_id_list",))
code = Rule(function=_code, needs=("tests",), check=_is_limit)
