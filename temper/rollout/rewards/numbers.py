r"""Rewards of a numeric or mathematical answer; 0 or 1.

`numeric` reads the number that the reply ends on (after ####, \boxed or "answer is" where written), as the probe of
that name does. `math` compares expressions with the package math-verify (extra `math`): 1/2 is 0.5 is \frac{1}{2}.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import math as mathematics
from collections.abc import Mapping
from typing import Any

from temper.errors import MissingExtra, RecipeError
from temper.probes.answers import RELATIVE, final_number
from temper.rollout.rewards.text import is_pattern, picked
from temper.rollout.score import Rule, Score, unparsable
from temper.rollout.task import Task


def _numeric(task: Task, reply: str, *, tolerance: float = RELATIVE, absolute: float = 1e-9, answer: str = "") -> Score:
    """1 where the number that the reply ends on is the reference's.

    Args:
        task: Has the reference, with a number in it.
        reply: What the model wrote.
        tolerance: Relative: 0.01 accepts 1 % off.
        absolute: How far off is right whatever the size; either of the two is enough.
        answer: A pattern whose first group is the answer, as for `exact`.
    """
    wanted = final_number(task.reference)
    if wanted is None:
        raise ValueError(f"the reference {task.reference!r} has no number; expected one, such as 42; correct the row")
    said = picked(reply, answer)
    found = None if said is None else final_number(said)
    if found is None:
        return unparsable("no number in the reply")
    return Score(value=float(mathematics.isclose(found, wanted, rel_tol=tolerance, abs_tol=absolute)))


def _math(task: Task, reply: str) -> Score:
    """1 where the reply's last expression equals the reference, judged by math-verify."""
    from math_verify import parse, verify  # pyright: ignore[reportMissingImports]

    # The time limit of grading holds; the package's own works in a main thread alone.
    wanted = parse(task.reference, parsing_timeout=None)  # pyright: ignore[reportArgumentType] - None is its way to say none
    if not wanted:
        raise ValueError(f"the reference {task.reference!r} is no expression; expected one such as $x+1$; correct it")
    found = parse(reply, parsing_timeout=None)  # pyright: ignore[reportArgumentType]
    if not found:
        return unparsable("no expression in the reply")
    return Score(value=float(verify(wanted, found, timeout_seconds=None)))


def _is_tolerance(params: Mapping[str, Any]) -> None:
    is_pattern(params)
    for name in ("tolerance", "absolute"):
        if not 0 <= params.get(name, 0.0) < mathematics.inf:
            raise RecipeError(f"reward numeric: {name} {params[name]!r}; expected 0 or more; write it like 0.01")


def _has_package(params: Mapping[str, Any]) -> None:
    if importlib.util.find_spec("math_verify") is None:
        raise MissingExtra("math-verify", "math")


def _import_package() -> None:
    importlib.import_module("math_verify")
    # It warns of every answer that its own time limit is off, which would stand in the note of every rollout.
    logging.getLogger("math_verify").setLevel(logging.ERROR)


numeric = Rule(function=_numeric, needs=("reference",), check=_is_tolerance)
math = Rule(function=_math, needs=("reference",), check=_has_package, prepare=_import_package)
