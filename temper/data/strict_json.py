"""Strict JSON: what Python's reader lets pass silently, a key that stands twice or NaN, is refused. Imports nothing."""

from __future__ import annotations

import json
import re
from typing import Any


def parse(text: str) -> Any:
    """The value of a JSON text; raises ValueError for what is no JSON, as json.JSONDecodeError where it has a place."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def offender(text: str) -> int:
    """The number, from 1, of the first record of a JSON list that `parse` refuses."""
    decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_number)
    between = re.compile(r"[\s,]*")
    at, number = text.find("[") + 1, 1
    while text.lstrip().startswith("["):
        start = between.match(text, at)
        try:
            _, at = decoder.raw_decode(text, start.end() if start else at)
        except (ValueError, RecursionError):
            break
        number += 1
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return value


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is not JSON (write null where a value is missing)")
