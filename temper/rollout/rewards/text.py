"""Rewards of the text itself: equal to the reference, containing it, matching a pattern, not too long.

`exact`, `contains` and `regex` give 0 or 1. `length` gives 0 down to -1, so it is a summand with a small weight: what
a perfect answer earns stays the same. Imports probes, whose comparison `exact` shares: the reward must not be laxer
than the exam.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from typing import Any, Literal

from temper.errors import RecipeError
from temper.probes.domain import matches
from temper.rollout.score import Rule, Score, unparsable
from temper.rollout.task import Task

PUNCTUATION = str.maketrans("", "", string.punctuation)


def _exact(
    task: Task, reply: str, *, ignore_case: bool = False, ignore_punctuation: bool = False, answer: str = ""
) -> Score:
    """1 where the reply is the reference, blanks aside; JSON is compared by value.

    Args:
        task: Has the reference.
        reply: What the model wrote.
        ignore_case: Whether upper and lower case are the same.
        ignore_punctuation: Whether ASCII punctuation is left out on both sides.
        answer: A pattern whose first group (or whole match) is the answer, the last one counts, e.g. `Answer: (.*)`.
    """
    said = picked(reply, answer)
    if said is None:
        return unparsable(f"nothing matches {answer!r}")
    sides = [said, task.reference]
    if ignore_case:
        sides = [side.casefold() for side in sides]
    if ignore_punctuation:
        sides = [side.translate(PUNCTUATION) for side in sides]
    return Score(value=float(matches(*sides)))


def _contains(task: Task, reply: str, *, ignore_case: bool = True, whole_words: bool = True) -> float:
    """1 where the reference occurs in the reply; a reply that lists everything is right as well, so mind the length."""
    found, wanted = (" ".join(side.split()) for side in (reply, task.reference))
    pattern = re.escape(wanted)
    if whole_words:
        pattern = rf"(?<!\w){pattern}(?!\w)"
    return float(re.search(pattern, found, re.IGNORECASE if ignore_case else 0) is not None)


def _regex(task: Task, reply: str, *, pattern: str = "", whole: bool = False) -> float:
    """1 where a pattern is found in the reply: the parameter, else the task's own `pattern`.

    Args:
        task: May have `pattern`.
        reply: What the model wrote.
        pattern: For all tasks.
        whole: Whether it has to match all of the reply.
    """
    if not pattern and not task.has("pattern"):
        raise ValueError("the task has no pattern; write one for all as {regex: {pattern: ...}}, or add the column")
    compiled = re.compile(pattern or task["pattern"])
    return float((compiled.fullmatch(reply.strip()) if whole else compiled.search(reply)) is not None)


def _length(task: Task, reply: str, *, free: int, limit: int, unit: Literal["words", "characters"] = "words") -> float:
    """0 up to `free` words, then falling in a straight line to -1 at `limit` (soft overlong punishment, DAPO 2025)."""
    size = len(reply.split()) if unit == "words" else len(reply)
    return -min(1.0, max(0.0, (size - free) / (limit - free)))


def picked(reply: str, pattern: str) -> str | None:
    """The last match of a pattern, of its first group where it has one; all of the reply without a pattern."""
    if not pattern:
        return reply
    found = list(re.finditer(pattern, reply))
    if not found:
        return None
    return (found[-1].group(1) if found[-1].re.groups else found[-1].group()) or ""


def is_pattern(params: Mapping[str, Any]) -> None:
    """Refuses a parameter that is no regular expression."""
    for name in ("pattern", "answer"):
        try:
            re.compile(params.get(name, ""))
        except re.error as error:
            raise RecipeError(
                f"reward: {name} {params[name]!r} is no regular expression ({error}); expected one of Python's;"
                " correct it"
            ) from None


def _falls(params: Mapping[str, Any]) -> None:
    if not 0 <= params["free"] < params["limit"]:
        raise RecipeError(
            f"reward length: found free {params['free']} and limit {params['limit']}; expected 0 <= free < limit;"
            " correct them"
        )


exact = Rule(function=_exact, needs=("reference",), check=is_pattern)
contains = Rule(function=_contains, needs=("reference",))
regex = Rule(function=_regex, check=is_pattern, further=lambda params: () if params.get("pattern") else ("pattern",))
length = Rule(function=_length, low=-1.0, high=0.0, check=_falls)
