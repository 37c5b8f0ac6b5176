"""Judge probes: another model, behind an OpenAI-compatible endpoint, says what a reply is worth.

`judge` asks for a mark from 1 to 10, which becomes 0 to 1. `judge-pair` asks which of two replies is better, the
model's or its base's, in both orders: 1, 0.5 or 0 per order, so the base itself scores 0.5 and a judge that favours a
place adds nothing. A judgement that cannot be read is neutral (0.5) and counted; more than one in five of them are an
error. The recipe names the endpoint and the environment variable of the key: prompts and replies leave this machine
for that address and no other (redirects are not followed), and the key is never written anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from temper.errors import DataError
from temper.probes.base import Item, Outcome, ProbeSpec, messages_of
from temper.probes.endpoint import Endpoint
from temper.probes.generate import Grade, outcomes, replies

if TYPE_CHECKING:
    from temper.data.render import Renderer
    from temper.model.protocol import Policy

RUBRIC = "The answer is helpful, correct and complete, does what was asked, and is no longer than it needs to be."
MARK = """You judge the answer of an assistant by this rubric:
{rubric}

The conversation:
{conversation}
{reference}
The answer:
{reply}

Give the answer a mark from 1 (very bad) to 10 (perfect). Say in one sentence why, then end with the mark in double \
square brackets, like [[5]]."""
PAIR = """You compare two answers of assistants by this rubric:
{rubric}

The conversation:
{conversation}
{reference}
Answer A:
{first}

Answer B:
{second}

Which answer is better? The order and the length of the answers do not matter. Say in one sentence why, then end with \
[[A]], [[B]], or [[C]] for equally good."""
UNREADABLE = 0.2
"""Share of judgements that cannot be read above which a probe says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What one answer of the judge says."""

    value: float
    """In [0, 1]; 0.5 where it cannot be read."""
    read: bool


def judge(policy: Policy, renderer: Renderer, spec: ProbeSpec, items: Sequence[Item]) -> tuple[Outcome, ...]:
    """The mark that a judge gives each reply."""
    endpoint = Endpoint.of(spec)  # a missing key is told before anything is generated
    written = replies(policy, renderer, items, max_new_tokens=spec.max_new_tokens)
    asked = [MARK.format(**_told(i, spec), reply=reply) for i, reply in zip(items, written, strict=True)]
    found = [read_mark(answer) for answer in endpoint.ask(asked)]
    _check_read(spec, found)
    grades = [Grade(value=j.value, parts={"unread": float(not j.read)}) for j in found]
    return outcomes(items, written, grades)


def judge_pair(policy: Policy, renderer: Renderer, spec: ProbeSpec, items: Sequence[Item]) -> tuple[Outcome, ...]:
    """How often a judge prefers the reply to the base's, `item["reply"]`, over both orders."""
    endpoint = Endpoint.of(spec)
    written = replies(policy, renderer, items, max_new_tokens=spec.max_new_tokens)
    asked: list[str] = []
    for item, reply in zip(items, written, strict=True):
        if reply != item["reply"]:
            told = _told(item, spec)
            asked.append(PAIR.format(**told, first=reply, second=item["reply"]))
            asked.append(PAIR.format(**told, first=item["reply"], second=reply))
    answers = iter(endpoint.ask(asked))
    grades: list[Grade] = []
    judged: list[Judgement] = []
    for item, reply in zip(items, written, strict=True):
        if reply == item["reply"]:  # a judge has nothing to tell apart
            grades.append(Grade(value=0.5, reference=item["reply"], parts={"unread": 0.0, "same": 1.0}))
            continue
        there, back = read_winner(next(answers)), read_winner(next(answers))
        judged += [there, back]
        value, unread = (there.value + 1.0 - back.value) / 2, float(not (there.read and back.read))
        grades.append(Grade(value=value, reference=item["reply"], parts={"unread": unread, "same": 0.0}))
    _check_read(spec, judged)
    return outcomes(items, written, grades)


def read_mark(answer: str) -> Judgement:
    """The mark from 1 to 10 as a share; the last one in brackets counts, else a last line that is a number."""
    told = re.findall(r"\[\[\s*(\d+(?:\.\d+)?)\s*(?:/\s*10\s*)?\]\]", answer)
    told = told or re.findall(r"(?:^|\n)\W*(?:score|mark|rating)?\W*(\d+(?:\.\d+)?)(?:\s*/\s*10)?\W*$", answer, re.I)
    mark = float(told[-1]) if told else 0.0
    return Judgement(value=(mark - 1) / 9, read=True) if 1 <= mark <= 10 else Judgement(value=0.5, read=False)


def read_winner(answer: str) -> Judgement:
    """1 for answer A, 0 for B, 0.5 for neither."""
    told = re.findall(r"\[\[\s*([ABC])\s*\]\]", answer)
    if not told:
        return Judgement(value=0.5, read=False)
    return Judgement(value={"A": 1.0, "B": 0.0, "C": 0.5}[told[-1]], read=True)


def _told(item: Item, spec: ProbeSpec) -> dict[str, str]:
    turns = "\n\n".join(f"[{m.role}]\n{m.content}" for m in messages_of(item))
    reference = f"\nA reference answer:\n{item['reference']}\n" if item.get("reference") else ""
    rubric = item.get("rubric") or spec.options.get("rubric") or RUBRIC
    return {"rubric": str(rubric), "conversation": turns, "reference": reference}


def _check_read(spec: ProbeSpec, found: Sequence[Judgement]) -> None:
    unread = sum(not j.read for j in found)
    if unread > UNREADABLE * len(found):
        raise DataError(
            f"probe {spec.name}: {unread} of {len(found)} answers of the judge {spec.options['model']!r} hold no mark"
            " such as [[5]]; expected at least four in five; name a model that follows instructions"
        )
