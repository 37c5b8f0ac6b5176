"""Domain probes: the user's own held-out rows, answered and compared with their references.

The metric follows from the rows: `reply-choice` when they list options, `json` when every reference is a JSON object,
`exact` otherwise; any other kind that reads a conversation and a reference has to be asked for by name. The same
function makes general probes of a user's own rows (other role and axis). Where the right answer of a row was thought
out aloud, the model is asked to think, and what it says after the thought is marked. Documents are asked as passages,
which the model should find plausible (`document_probe`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from temper.data.passages import FEWEST, MOST, passages
from temper.data.split import key_of
from temper.data.templates import CLOSE, split_thought
from temper.errors import DataError
from temper.probes.base import Item, Outcome, Probe, ProbeSpec, digest, half_of, plain, reply_target, take
from temper.probes.generate import Grade, graded
from temper.probes.preference import sides

if TYPE_CHECKING:
    from temper.data.render import Renderer
    from temper.data.rows import Row
    from temper.model.protocol import Policy

QUICK_ITEMS = 48
HEADROOM = 1.25
SHORTEST = 8
MARKING = ("pattern", "tests", "entry_point", "checks", "rubric")
"""Columns that a kind of marking reads beside the reference; see `kinds.KINDS`."""


def domain_probe(
    name: str,
    rows: Sequence[Row],
    renderer: Renderer,
    *,
    group: str | None = None,
) -> Probe:
    """The probe that a file of rows stands for; replies may be a quarter longer than the longest reference.

    Rows with the same value in the column `group` are in the same half.
    """
    made = (_item(row, group, renderer=renderer) for row in rows)
    items = tuple({item["id"]: item for item in made}.values())
    for side in ("selection", "test"):
        if not any(half_of(i) == side for i in items):
            raise DataError(
                f"{name}: {len(items)} different rows leave the {side} half empty; expected at least 16 rows, 100 or"
                " more to see small differences; add rows to the file"
            )
    longest = max(
        reply_target(renderer, i, i["reference"], end=True, reasoning=i.get("reasoning", "")).supervised for i in items
    )
    spec = ProbeSpec(
        name=name, axis="domain", kind=_kind(items), source=name, role="domain", quick=QUICK_ITEMS,
        max_new_tokens=max(SHORTEST, math.ceil(longest * HEADROOM)),
    )  # fmt: skip
    return Probe(spec=spec, items=items)


def document_probe(name: str, rows: Sequence[Row], *, most: int = MOST) -> Probe:
    """The probe that held-out documents stand for: bits per byte of some of their passages.

    Args:
        name: Of the probe.
        rows: Plain text that no stage learns.
        most: Passages of both halves together; of more, those that come first by the hash of their text.
    """
    other = next((row for row in rows if row.messages), None)
    if other is not None:
        raise DataError(
            f"{other.origin}: found a conversation; expected plain text for `metric: loss`; name documents, or another "
            "metric"
        )
    texts = dict.fromkeys(text for row in rows for text in passages(row))
    found = [{"id": digest(text), "text": text} for text in texts]
    halves = [take(found, "selection", most // 2), take(found, "test", most // 2)]
    if min(map(len, halves)) < FEWEST // 4:
        raise DataError(
            f"{name}: {len(found)} passages of held-out text, {len(halves[0])} to choose by and {len(halves[1])} to "
            f"report; expected {FEWEST} or more; add documents, or hold out more of them with `split`"
        )
    spec = ProbeSpec(name=name, axis="domain", kind="text", source=name, role="domain", quick=QUICK_ITEMS)
    return Probe(spec=spec, items=tuple(item for side in halves for item in side))


def exact(policy: Policy, renderer: Renderer, spec: ProbeSpec, items: Sequence[Item]) -> tuple[Outcome, ...]:
    """1 where the reply is the reference, blanks aside; JSON is compared by value."""
    return graded(policy, renderer, spec, items, _grade)


def json_object(policy: Policy, renderer: Renderer, spec: ProbeSpec, items: Sequence[Item]) -> tuple[Outcome, ...]:
    """1 where the reply parses to the reference's value; beside it, validity and the F1 of its fields."""
    return graded(policy, renderer, spec, items, _grade_json)


def matches(reply: str, reference: str) -> bool:
    """Whether two answers say the same: equal JSON values, or else equal text up to blanks."""
    left, right = parse(reply), parse(reference)
    if left is not UNPARSABLE and right is not UNPARSABLE:
        return same(left, right)
    return reply.split() == reference.split()


def same(left: Any, right: Any) -> bool:
    """Equality of JSON values: 21 equals 21.0, but 1 does not equal true."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def field_f1(reply: Any, reference: Any) -> float:
    """Harmonic mean of precision and recall over the leaves of two JSON values, each leaf with its path."""
    found, wanted = set(_leaves(reply)), set(_leaves(reference))
    shared = len(found & wanted)
    return 2 * shared / (len(found) + len(wanted))


class _Unparsable:
    """The type of `UNPARSABLE`: None would be the JSON value null."""


UNPARSABLE = _Unparsable()


def parse(text: str) -> Any:
    """The JSON value of a text, or `UNPARSABLE`; NaN and Infinity are not JSON."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return UNPARSABLE


def _refuse(name: str) -> Any:
    raise ValueError(name)


def _grade(reply: str, item: Item) -> Grade:
    right = float(matches(reply, item["reference"]))
    return Grade(value=right, hard=right, reference=item["reference"])


def _grade_json(reply: str, item: Item) -> Grade:
    right = float(matches(reply, item["reference"]))
    return Grade(value=right, hard=right, reference=item["reference"], parts=_parts(reply, item["reference"]))


def _parts(reply: str, reference: str) -> dict[str, float]:
    value = parse(reply)
    if not isinstance(value, dict):
        return {"validity": 0.0, "field_f1": 0.0}
    return {"validity": 1.0, "field_f1": field_f1(value, parse(reference))}


def _leaves(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}/{name}")
    elif isinstance(value, list) and value:
        for place, inner in enumerate(value):
            yield from _leaves(inner, f"{path}/{place}")
    else:
        whole = int(value) if isinstance(value, float) and value.is_integer() else value
        yield f"{path}={json.dumps(whole)}"


def _kind(items: Sequence[Item]) -> str:
    if all("rejected" in i for i in items):
        return "preference"
    if all("options" in i for i in items):
        return "reply-choice"
    parsed = [parse(i["reference"]) for i in items]
    return "json" if all(isinstance(p, dict) for p in parsed) else "exact"


def _item(row: Row, group: str | None = None, *, renderer: Renderer) -> Item:
    turns = [plain(m) for m in row.messages]
    answered = bool(turns) and turns[-1]["role"] == "assistant"
    answer = turns.pop() if answered else {"content": row.reference}
    thought, reference = _thought_out(answer, renderer)
    if not turns or not reference:
        raise DataError(
            f"{row.origin}: found no {'answer' if turns else 'question'}; expected a row of the exam to ask something"
            " and to have its right answer; complete the row or remove it"
        )
    item: dict[str, Any] = {"id": row.id, "messages": turns, "reference": reference}
    item |= {"reasoning": thought} if thought else {}
    if group is not None:
        item["group"] = key_of(row, group)
    item |= {name: row.fields[name] for name in MARKING if row.fields.get(name)}
    if row.rejected:
        item |= sides(row)
    if row.tools:
        item["tools"] = row.tools
    if "options" in row.fields:
        item |= _options(row, reference)
    return item


def _thought_out(answer: Mapping[str, Any], renderer: Renderer) -> tuple[str, str]:
    """The thought of a right answer and the answer itself; no thought where the model thinks none."""
    thought = answer.get("reasoning", "")
    if (thought or CLOSE in answer["content"]) and renderer.thinks:
        inside, said = split_thought(answer["content"])
        return thought or inside, said
    return "", answer["content"]


def _options(row: Row, reference: str) -> dict[str, Any]:
    """Options and the place of the right one, which `answer` gives as text, letter or number from 0."""
    options, answer = row.fields["options"], row.fields.get("answer", reference)
    if isinstance(options, list) and len(options) >= 2:
        options = [str(o) for o in options]
        if str(answer) in options:
            return {"options": options, "gold": options.index(str(answer))}
        if isinstance(answer, str) and len(answer) == 1 and 0 <= ord(answer.upper()) - ord("A") < len(options):
            return {"options": options, "gold": ord(answer.upper()) - ord("A")}
        if isinstance(answer, int) and 0 <= answer < len(options):
            return {"options": options, "gold": answer}
    raise DataError(
        f"{row.origin}: found options {options!r} with the answer {answer!r}; expected at least two options and as"
        " answer one of them, its letter, or its number from 0; correct the row"
    )
