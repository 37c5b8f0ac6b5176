"""Preference: whether a model finds the chosen answer of a pair likelier than the rejected one.

Both answers are scored as whole turns after the same prompt, by their mean log-probability per token, so that a short
answer does not win for being short. The value of an item is the logistic function of the difference, in nats per token:
continuous, 1/2 where the model does not care. It says what the likelihoods say; whether the model also writes such
answers is for a probe that generates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from temper.data.row import Message, Row
from temper.probes.base import Item, Outcome, ProbeSpec, messages_of, plain, prompt_of, score_targets, softmax

if TYPE_CHECKING:
    from temper.data.datum import Datum
    from temper.data.render import Renderer
    from temper.model.protocol import Policy

Side = str | Sequence[Mapping[str, Any]]
"""An answer: a text, or turns as plain JSON."""


def preference(policy: Policy, renderer: Renderer, spec: ProbeSpec, items: Sequence[Item]) -> tuple[Outcome, ...]:
    """Compares `chosen` with `rejected` of every item; `margin` among the parts is in nats per token."""
    datums: list[Datum] = []
    for number, item in enumerate(items):
        datums += renderer.pair(_row(item), source=spec.name, group=number, term="ce")
    means = [math.fsum(row) / len(row) for row in score_targets(policy, datums)]
    return tuple(
        _outcome(item, chosen - rejected, shown=spec.role == "domain")
        for item, chosen, rejected in zip(items, means[::2], means[1::2], strict=True)
    )


def sides(row: Row) -> Mapping[str, Side]:
    """What the item of a pair has beside its prompt."""
    return {"chosen": [plain(row.messages[-1])], "rejected": [plain(message) for message in row.rejected]}


def _row(item: Item) -> Row:
    return Row(
        id=item["id"], messages=(*messages_of(item), *_turns(item["chosen"])), origin=item["id"],
        rejected=_turns(item["rejected"]), tools=item.get("tools", ""),
    )  # fmt: skip


def _turns(side: Side) -> tuple[Message, ...]:
    return (Message(role="assistant", content=side),) if isinstance(side, str) else messages_of({"messages": side})


def _outcome(item: Item, margin: float, *, shown: bool) -> Outcome:
    """When `shown`, the likelier answer stands for the model's reply."""
    likelier = "chosen" if margin > 0 else "rejected"
    return Outcome(
        id=item["id"], value=softmax((margin, 0.0))[0], hard=float(margin > 0), chance=0.5, parts={"margin": margin},
        prompt=prompt_of(item) if shown else "", reference=_turns(item["chosen"])[-1].content if shown else "",
        reply=_turns(item[likelier])[-1].content if shown else None,
    )  # fmt: skip
