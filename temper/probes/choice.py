"""Choice probes: which of several options a model finds likeliest.

`choice` scores options as plain continuations of a context; `reply-choice` scores whole replies in the chat template,
their end of turn included. The value of an item is the probability of the gold option after a softmax over
length-normalised scores. `contrast` asks how much an instruction moves the model towards the gold reply: what a reply
is worth without the instruction is taken off its score (domain-conditional PMI, Holtzman et al. 2021, arXiv
2104.08315). All options after the same prompt share one group, so a learner can read the prompt once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from temper.probes.base import Item, Outcome, ProbeSpec, prompt_of, reply_target, score_targets, softmax, target
from temper.probes.loss import encode_pair

if TYPE_CHECKING:
    from temper.data.datum import Datum
    from temper.data.render import Renderer
    from temper.model.protocol import Floats, Policy

SOFTENING = 4.0
"""Nats that count as one in `contrast`: an instruction moves the sums of whole replies by several nats, 2 to 14 in most
items tried on the built-in model; a plain softmax would read 1 for most of them and see no change."""


def choice(policy: Policy, renderer: Renderer, spec: ProbeSpec, items: Sequence[Item]) -> tuple[Outcome, ...]:
    """Scores every option as the continuation of the item's `context`, in plain text."""
    datums = [
        target(*encode_pair(renderer, item["context"], option), group=number)
        for number, item in enumerate(items)
        for option in item["options"]
    ]
    return _outcomes(items, score_targets(policy, datums), shown=False)


def reply_choice(policy: Policy, renderer: Renderer, spec: ProbeSpec, items: Sequence[Item]) -> tuple[Outcome, ...]:
    """Scores every option as a whole reply to the item's conversation."""
    datums: list[Datum] = [
        reply_target(renderer, item, option, end=True, group=number)
        for number, item in enumerate(items)
        for option in item["options"]
    ]
    return _outcomes(items, score_targets(policy, datums), shown=spec.role == "domain")


def contrast(policy: Policy, renderer: Renderer, spec: ProbeSpec, items: Sequence[Item]) -> tuple[Outcome, ...]:
    """Scores every option as a reply to `prompt`, less its score as a reply to `plain`, the prompt without instruction.

    Without the subtraction the value says what the model likes to write anyway, not what it was told.
    """
    datums: list[Datum] = []
    for number, item in enumerate(items):
        for side, prompt in enumerate((item["prompt"], item["plain"])):
            asked = {"prompt": prompt}
            datums += [reply_target(renderer, asked, o, end=True, group=2 * number + side) for o in item["options"]]
    totals = iter([sum(row) for row in score_targets(policy, datums)])
    outcomes: list[Outcome] = []
    for item in items:
        told = [next(totals) for _ in item["options"]]
        untold = [next(totals) for _ in item["options"]]
        gains = [(a - b) / SOFTENING for a, b in zip(told, untold, strict=True)]
        value = softmax(gains)[item["gold"]]
        right = max(range(len(gains)), key=gains.__getitem__) == item["gold"]
        outcomes.append(Outcome(id=item["id"], value=value, hard=float(right), chance=1 / len(gains)))
    return tuple(outcomes)


def normalised(logprobs: Sequence[float], options: Sequence[str]) -> tuple[float, ...]:
    """Log-probabilities per byte, times the mean number of bytes of the options.

    Long options no longer lose for being long, and the scale stays that of a whole option: plain log-probabilities per
    byte would all be close to each other and their softmax flat.
    """
    sizes = [max(len(option.strip().encode()), 1) for option in options]
    mean = sum(sizes) / len(sizes)
    return tuple(logprob / size * mean for logprob, size in zip(logprobs, sizes, strict=True))


def _outcomes(items: Sequence[Item], rows: Sequence[Floats], *, shown: bool) -> tuple[Outcome, ...]:
    """One outcome per item; when `shown`, the likeliest option stands for the model's reply."""
    outcomes: list[Outcome] = []
    start = 0
    for item in items:
        options, gold = item["options"], item["gold"]
        totals = [sum(row) for row in rows[start : start + len(options)]]
        start += len(options)
        scores = normalised(totals, options)
        best = max(range(len(scores)), key=scores.__getitem__)
        outcomes.append(
            Outcome(
                id=item["id"],
                value=softmax(scores)[gold],
                hard=float(best == gold),
                chance=1 / len(options),
                prompt=prompt_of(item) if shown else "",
                reference=options[gold] if shown else "",
                reply=options[best] if shown else None,
            )
        )
    return tuple(outcomes)
