"""What every probe shares: its specification, the per-item outcome, the choice of items, and the key of the cache.

Continuous per-item values are primary: a drop of one per cent cannot be certified on a few hundred right or wrong
answers. May import data, events and the model protocol.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from temper.data.datum import Datum
from temper.data.rows import Message, ToolCall
from temper.events import Answer, Measurement

if TYPE_CHECKING:
    from temper.data.render import Renderer
    from temper.events import Role, Split
    from temper.model.protocol import Floats, Policy, Tokens

Item = Mapping[str, Any]
"""One question as plain JSON: always an `id`, the other fields depend on the kind of probe."""
Method = Literal["loss", "choice", "generate"]
Part = Literal["quick", "selection", "closer", "test"]
"""What is asked of a probe: a split, or for a closer look the selection items and those in reserve."""
ANSWERS_SHOWN = 12
LOWEST = -100.0
"""Floor of a log-probability in nats: a model with broken weights then reads as terrible, not as NaN in the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSpec:
    """A probe as a suite lists it, without its items."""

    name: str
    axis: str
    """language, knowledge, reasoning, instruction, behaviour, code, safety; or `domain`."""
    kind: str
    """How it is scored: a name of `kinds.KINDS`, or a kind of one's own as module:attribute or file.py:attribute."""
    source: str
    """Where its items come from: a name of the catalogue, a file of this package, or a path."""
    role: Role = "general"
    items: int = 0
    """Items of the selection half, and of the test half; 0 for all there are."""
    quick: int = -1
    """Items of the quick split, the first of the selection half; -1 for a sixth of `items` (or all), 0 for none."""
    reserve: int = 0
    """Further items of the selection half, asked only of candidates that the others cannot decide."""
    more: str = ""
    """Where those come from that `source` has not enough of."""
    max_new_tokens: int = 0
    """Longest reply, for kinds that generate."""
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """What the kind needs to know beside the items, e.g. `{"task": "arc_easy"}`; see `Kind.options`."""

    def size(self, split: Split) -> int:
        """How many items the split has, 0 for all."""
        if split != "quick":
            return self.items
        return self.quick if self.quick >= 0 else -(-self.items // 6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A specification with its items: ready to be put to a model."""

    spec: ProbeSpec
    items: tuple[Item, ...]
    """Of both halves; `take` picks those of a split."""
    reserve: tuple[Item, ...] = ()
    """What a closer look asks beside those of the selection half."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one item gave."""

    id: str
    value: float
    """loss: bits; choice: probability of the gold option; generate: score in [0, 1]."""
    size: float = 0.0
    """loss only: bytes of the scored text."""
    hard: float | None = None
    """0 or 1 where right and wrong exist."""
    chance: float = 0.0
    parts: Mapping[str, float] = field(default_factory=dict)
    prompt: str = ""
    reference: str = ""
    reply: str | None = None
    """What was generated; None where nothing was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Which model answers: its checkpoint id and its place in the run."""

    checkpoint: str
    stage: str = ""
    step: int = 0
    alpha: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A measurement and the generated answers worth showing beside it."""

    measurement: Measurement
    answers: tuple[Answer, ...] = ()


Score = Callable[["Policy", "Renderer", ProbeSpec, Sequence[Item]], tuple[Outcome, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One way of scoring items."""

    score: Score
    method: Method
    metric: str
    needs: tuple[str, ...]
    """Fields that every item must have, beside `id`; `prompt` stands for `messages` as well."""
    version: int = 1
    """Raised when the same items would get other values: cached results stop matching."""
    options: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """Names that `ProbeSpec.options` may hold, with a value of the right type, empty where there is no default."""
    required: tuple[str, ...] = ()
    """Those of them that have to be given."""
    answers: Literal["", "sampled", "weighed", "greedy"] = ""
    """Whether the base model writes its own reply into every item before anything is measured; `weighed` is a sampled
    one with what else the base found likely."""


def digest(*parts: Any) -> str:
    """A stable 16-character name of plain JSON values."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def key(spec: ProbeSpec, version: int, items: Sequence[Item] = ()) -> str:
    """Name of the results of these items: the same key means the same questions scored by the same code."""
    options = [dict(spec.options)] if spec.options else []
    return digest(spec.kind, spec.max_new_tokens, version, [dict(i) for i in items], *options)


def text_of(item: Item) -> str:
    """What an item asks or reads, without its options: what must not be learnt before it is asked."""
    if "messages" in item:
        return "\n".join(str(m["content"]) for m in item["messages"] if m["role"] == "user")
    return str(item.get("prompt") or f"{item.get('context', '')}{item.get('text', '')}").strip()


def half(item_id: str) -> Literal["selection", "test"]:
    """The half an item belongs to for ever, whatever else is in the file."""
    return "selection" if int(hashlib.sha256(f"half:{item_id}".encode()).hexdigest(), 16) % 2 == 0 else "test"


def half_of(item: Item) -> Literal["selection", "test"]:
    """The half of an item; items of one group are in the same."""
    return half(item.get("group") or item["id"])


def take(items: Sequence[Item], split: Split, size: int) -> tuple[Item, ...]:
    """The items of a split in a fixed order; fewer when there are not `size` of them.

    The order depends on the ids alone, so a smaller size gives a prefix of a larger one, and `quick` is contained in
    `selection`.
    """
    wanted = "test" if split == "test" else "selection"
    pool = sorted((i for i in items if half_of(i) == wanted), key=lambda i: digest("order", i["id"]))
    return tuple(pool[:size] if size else pool)


def measured(spec: ProbeSpec, kind: Kind, outcomes: Sequence[Outcome], *, split: Split, where: Where,
             seconds: float = 0.0) -> Measured:  # fmt: skip
    """Assembles the outcomes of a split into one event, and answers for the first items that have a reply."""
    named = {part for o in outcomes for part in o.parts}
    measurement = Measurement(
        stage=where.stage, step=where.step, alpha=where.alpha, checkpoint=where.checkpoint,
        probe=spec.name, axis=spec.axis, role=spec.role, method=kind.method, metric=kind.metric, split=split,
        chance=sum(o.chance for o in outcomes) / len(outcomes),
        ids=tuple(o.id for o in outcomes),
        items=tuple(o.value for o in outcomes),
        sizes=tuple(o.size for o in outcomes) if kind.method == "loss" else (),
        hard=tuple(o.hard for o in outcomes if o.hard is not None),
        parts={part: sum(o.parts.get(part, 0.0) for o in outcomes) / len(outcomes) for part in sorted(named)},
        seconds=seconds,
    )  # fmt: skip
    answers = tuple(
        Answer(stage=where.stage, step=where.step, checkpoint=where.checkpoint, probe=spec.name, split=split,
               item=o.id, prompt=o.prompt, reference=o.reference, reply=o.reply, score=o.value)
        for o in outcomes if o.reply is not None
    )  # fmt: skip
    return Measured(measurement=measurement, answers=answers[:ANSWERS_SHOWN])


def messages_of(item: Item) -> tuple[Message, ...]:
    """The conversation an item asks with: its `messages`, or its `prompt` as one user turn."""
    if "messages" in item:
        return tuple(_message(m) for m in item["messages"])
    return (Message(role="user", content=item["prompt"]),)


def plain(message: Message) -> Mapping[str, Any]:
    """A turn as JSON, the inverse of what `messages_of` does; fields that are empty are left out."""
    said = {"role": message.role, "content": message.content}
    calls = [{"name": c.name, "arguments": c.arguments, "id": c.id} for c in message.tool_calls]
    more = {"reasoning": message.reasoning, "tool_calls": calls, "tool_call_id": message.tool_call_id}
    return {**said, **{name: value for name, value in {**more, "name": message.name}.items() if value}}


def _message(fields: Mapping[str, Any]) -> Message:
    calls = tuple(ToolCall(**call) for call in fields.get("tool_calls", ()))
    more = {name: fields[name] for name in ("reasoning", "tool_call_id", "name") if name in fields}
    return Message(role=fields["role"], content=fields["content"], tool_calls=calls, **more)


def prompt_of(item: Item) -> str:
    """The last thing the user says, for the before/after table."""
    return messages_of(item)[-1].content


def prompt_tokens(renderer: Renderer, item: Item) -> Tokens:
    """What generation starts from: the conversation of an item, with the tools that may be called where it has some.

    An item whose right answer was thought out aloud is asked with the template's thinking switched on.
    """
    thinking: dict[str, Any] = {"thinking": True} if item.get("reasoning") else {}
    return renderer.prompt(messages_of(item), **_tools(item), **thinking)


def _tools(item: Item) -> Mapping[str, Any]:
    return {"tools": item["tools"]} if item.get("tools") else {}


def target(prompt: Tokens, continuation: Tokens, *, group: int = -1) -> Datum:
    """The datum that asks for the log-probabilities of `continuation` after `prompt`."""
    weights = (0.0,) * (len(prompt) - 1) + (1.0,) * len(continuation)
    return Datum(tokens=(*prompt, *continuation), weights={"ce": weights}, group=group)


def reply_target(
    renderer: Renderer, item: Item, reply: str, *, end: bool, group: int = -1, reasoning: str = ""
) -> Datum:
    """The datum that scores an assistant's reply to the item; with its end of turn when `end`, thought out or not."""
    turns = (*messages_of(item), Message(role="assistant", content=reply, reasoning=reasoning))
    tools = _tools(item)
    rendered = renderer.dialogue(turns, train_on="last", **tools)
    places = [i for i, counts in enumerate(rendered.mask) if counts]
    if not end:
        while len(places) > 1 and rendered.tokens[places[-1]] in renderer.end_tokens:
            places.pop()
    # What follows the scored part cannot change it; cutting it off saves the tokens.
    tokens = tuple(rendered.tokens[: places[-1] + 1])
    scored = set(places)
    weights = tuple(float(i in scored) for i in range(1, len(tokens)))
    return Datum(tokens=tokens, weights={"ce": weights}, group=group)


def score_targets(policy: Policy, datums: Sequence[Datum]) -> list[Floats]:
    """Log-probabilities in nats of the scored tokens of each datum, never below `LOWEST` and never NaN."""
    return [
        tuple(max(x, LOWEST) if math.isfinite(x) else LOWEST for x in row) for row in policy.learner.logprobs(datums)
    ]


def softmax(scores: Sequence[float]) -> tuple[float, ...]:
    """Probabilities proportional to the exponentials of the scores."""
    top = max(scores)
    powers = [math.exp(s - top) for s in scores]
    return tuple(p / sum(powers) for p in powers)
