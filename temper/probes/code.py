"""Code probes: the model writes a program, a sandbox runs it together with the item's tests.

An item has a `prompt` and `tests` (Python text, or a list of assertions); beside them `entry_point`, the name of the
function that is asked for, and `prefix`, what stands before the reply: imports and the signature that a reply continues
unless it defines that function itself (items of the HumanEval kind).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from temper.probes.base import Item, Outcome, ProbeSpec
from temper.probes.generate import Grade, outcomes, replies
from temper.probes.sandbox import Ended, Ran, run_python

if TYPE_CHECKING:
    from temper.data.render import Renderer
    from temper.model.protocol import Policy

SECONDS, MEMORY_MB = 10.0, 1024


def code(policy: Policy, renderer: Renderer, spec: ProbeSpec, items: Sequence[Item]) -> tuple[Outcome, ...]:
    """1 where the program in the reply passes all tests of the item; `runs` counts those that raise no syntax error."""
    written = replies(policy, renderer, items, max_new_tokens=spec.max_new_tokens)
    seconds, memory = float(spec.options.get("seconds", SECONDS)), int(spec.options.get("memory_mb", MEMORY_MB))
    programs = [program(reply, item) for item, reply in zip(items, written, strict=True)]
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        ran = list(pool.map(lambda source: run_python(source, seconds=seconds, memory_mb=memory), programs))
    return outcomes(items, written, [_grade(r, i) for r, i in zip(ran, items, strict=True)])


def program(reply: str, item: Item) -> str:
    """The code of a reply with the tests of the item behind it."""
    body, name, prefix = extract(reply), item.get("entry_point", ""), item.get("prefix", "")
    if prefix and name and re.search(rf"^\s*def\s+{re.escape(name)}\b", body, re.MULTILINE):
        # The reply's own function comes second and wins; the imports and helpers before the signature stay.
        body = f"{prefix.rstrip()}\n    pass\n\n{body}"
    elif prefix:
        # What continues a signature is indented; a reply stripped of its first blanks is mended.
        blanks = "" if body.startswith((" ", "\t")) else "    "
        body = f"{prefix.rstrip()}\n{blanks}{body}"
    tests = item["tests"]
    return f"{body}\n\n{tests if isinstance(tests, str) else chr(10).join(tests)}\n"


def extract(reply: str) -> str:
    """The code of a reply: its fenced blocks that define something, else the first block, else all of it."""
    blocks = re.findall(r"```[ \t]*(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", reply, re.DOTALL | re.IGNORECASE)
    defining = [b for b in blocks if re.search(r"^(?:def|class|async def)\s", b, re.MULTILINE)]
    return "\n".join(defining) if defining else blocks[0] if blocks else reply


def _grade(ran: Ran, item: Item) -> Grade:
    right = float(ran.ended is Ended.PASSED)
    tests = item["tests"]
    runs = float(not re.search(r"^(?:SyntaxError|IndentationError|TabError)\b", ran.output, re.MULTILINE))
    reference = tests if isinstance(tests, str) else "\n".join(tests)
    return Grade(value=right, hard=right, reference=reference, parts={"runs": runs})
