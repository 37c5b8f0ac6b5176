"""Greedy replies, for every probe that has to read what a model writes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from temper.data.templates import split_thought
from temper.model.protocol import Sampling, Tokens
from temper.probes.base import Item, Outcome, ProbeSpec, prompt_of, prompt_tokens, reply_target
from temper.probes.formats import describe, passed

if TYPE_CHECKING:
    from temper.data.render import Renderer
    from temper.model.protocol import Policy

OPTIONS = "Answer with one of these and nothing else:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """What a reply is worth."""

    value: float
    """In [0, 1]."""
    hard: float | None = None
    """0 or 1 where right and wrong exist."""
    reference: str = ""
    """What would have been right, in words for the before/after table."""
    parts: Mapping[str, float] = field(default_factory=dict)


Grader = Callable[[str, Item], Grade]
"""Reads one reply."""


def replies(policy: Policy, renderer: Renderer, items: Sequence[Item], *, max_new_tokens: int) -> list[str]:
    """One greedy reply per item, in order, without what was thought aloud before it.

    The sampler is given all prompts at once and batches them, and the right answers beside: a reply that begins like
    one takes less time.
    """
    sampling = Sampling(max_new_tokens=max_new_tokens, stop=renderer.end_tokens)
    prompts = [prompt_tokens(renderer, item) for item in items]
    drafts = [right_answer(renderer, item, prompt) for item, prompt in zip(items, prompts, strict=True)]
    written = [renderer.decode(c.tokens) for c in policy.sampler.generate(prompts, sampling, drafts=drafts)]
    return [split_thought(reply)[1].strip() for reply in written]


def right_answer(renderer: Renderer, item: Item, prompt: Tokens) -> Tokens:
    """The right answer behind the prompt, to its end of turn; empty where none is known, or a thought comes first."""
    if not item.get("reference") or item.get("reasoning"):
        return ()
    tokens = reply_target(renderer, item, str(item["reference"]), end=True).tokens
    return tokens[len(prompt) :] if tokens[: len(prompt)] == prompt else ()


def graded(
    policy: Policy, renderer: Renderer, spec: ProbeSpec, items: Sequence[Item], grade: Grader
) -> tuple[Outcome, ...]:
    """One greedy reply per item, each worth what `grade` says."""
    written = replies(policy, renderer, items, max_new_tokens=spec.max_new_tokens)
    return outcomes(items, written, [grade(reply, item) for item, reply in zip(items, written, strict=True)])


def outcomes(items: Sequence[Item], written: Sequence[str], grades: Sequence[Grade]) -> tuple[Outcome, ...]:
    """Replies and what they are worth, as the results of a probe."""
    return tuple(
        Outcome(
            id=item["id"], value=grade.value, hard=grade.hard, parts=grade.parts, prompt=prompt_of(item),
            reference=grade.reference, reply=reply,
        )
        for item, reply, grade in zip(items, written, grades, strict=True)
    )  # fmt: skip


def formats(policy: Policy, renderer: Renderer, spec: ProbeSpec, items: Sequence[Item]) -> tuple[Outcome, ...]:
    """Share of an item's checks that the reply passes; hard when it passes them all."""

    def grade(reply: str, item: Item) -> Grade:
        results = passed(reply, item["checks"])
        value, whole = sum(results) / len(results), float(all(results))
        return Grade(value=value, hard=whole, reference=describe(item["checks"]))

    return graded(policy, renderer, spec, items, grade)


def spoken_choice(policy: Policy, renderer: Renderer, spec: ProbeSpec, items: Sequence[Item]) -> tuple[Outcome, ...]:
    """Asks the question of a choice item in the chat and reads which option the reply names.

    The counterpart of `choice`, which only compares likelihoods: a model may still know the answer and no longer say
    it. `answered` is the share of replies that name exactly one option.
    """
    asked = [{"id": i["id"], "prompt": _question(i)} for i in items]
    written = replies(policy, renderer, asked, max_new_tokens=spec.max_new_tokens)
    grades: list[Grade] = []
    for item, reply in zip(items, written, strict=True):
        told = named(reply, item["options"])
        right = float(told == item["gold"])
        parts = {"answered": float(told is not None)}
        grades.append(Grade(value=right, hard=right, reference=item["options"][item["gold"]].strip(), parts=parts))
    return outcomes(asked, written, grades)


def named(reply: str, options: Sequence[str]) -> int | None:
    """The option that a reply names, by its text or its letter; None when it names none, or several.

    An option within a longer one that is named as well does not count: "red" in "dark red".
    """
    text, bare = _spread(reply), [_spread(o).strip() for o in options]
    found = [i for i, option in enumerate(bare) if option and f" {option} " in text]
    found = [i for i in found if not any(i != j and f" {bare[i]} " in f" {bare[j]} " for j in found)]
    if not found:
        letter = re.match(r"\s*\(?([A-Z])(?:[).:]|\s*(?:\n|$))", reply)
        place = ord(letter.group(1)) - ord("A") if letter else len(options)
        found = [place] if place < len(options) else []
    return found[0] if len(found) == 1 else None


def _spread(text: str) -> str:
    """Lower-cased words with one blank around each."""
    return " " + " ".join(re.findall(r"\w+", text.lower())) + " "


def _question(item: Item) -> str:
    """The context of a choice item without the frame of a plain-text benchmark, and its options with letters."""
    question = re.sub(r"^(?:Question|Goal):\s*|\s*Answer:\s*$", "", item["context"]).strip()
    lines = [f"{chr(ord('A') + n)}. {option.strip()}" for n, option in enumerate(item["options"])]
    return "\n".join((question, OPTIONS, *lines))
