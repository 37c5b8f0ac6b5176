"""Loss probes: how many bits a model needs for text it should still find plausible.

Four kinds: `text` (plain prose), `continuation` (the end of a passage given its beginning), `gold` (the right option of
a question, the others aside) and `own-answers` (replies that the base model itself sampled at temperature 1: the rise
of their loss estimates the KL divergence to the base). The value of an item is in bits, its size in bytes; their ratio
is free of the tokenizer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from temper.model.protocol import Sampling
from temper.probes.base import Item, Outcome, ProbeSpec, prompt_tokens, reply_target, score_targets, target

if TYPE_CHECKING:
    from temper.data.datum import Datum
    from temper.data.render import Renderer
    from temper.model.protocol import Policy, Tokens

OWN_ANSWER_TOKENS = 48


def text(policy: Policy, renderer: Renderer, spec: ProbeSpec, items: Sequence[Item]) -> tuple[Outcome, ...]:
    """Bits of plain text; its first token has no context and counts neither in bits nor in bytes."""
    datums: list[Datum] = []
    sizes: list[int] = []
    for item in items:
        tokens = renderer.text(item["text"])
        datums.append(target(tokens[:1], tokens[1:]))
        sizes.append(len(item["text"].encode()) - len(renderer.decode(tokens[:1]).encode()))
    return _outcomes(policy, items, datums, sizes)


def continuation(policy: Policy, renderer: Renderer, spec: ProbeSpec, items: Sequence[Item]) -> tuple[Outcome, ...]:
    """Bits of `text` given `context`, both plain, split where the tokens of the context end."""
    pairs = [encode_pair(renderer, i["context"], i["text"]) for i in items]
    return _outcomes(policy, items, [target(*p) for p in pairs], [len(i["text"].encode()) for i in items])


def gold(policy: Policy, renderer: Renderer, spec: ProbeSpec, items: Sequence[Item]) -> tuple[Outcome, ...]:
    """Bits of the right option of a choice given its `context`: far less noisy than which option is preferred."""
    return continuation(policy, renderer, spec, [{**item, "text": item["options"][item["gold"]]} for item in items])


def own_answer(policy: Policy, renderer: Renderer, spec: ProbeSpec, items: Sequence[Item]) -> tuple[Outcome, ...]:
    """Bits of the base model's own replies in the chat template, with the end of turn where the base ended."""
    datums = [reply_target(renderer, i, i["reply"], end=i["finished"]) for i in items]
    return _outcomes(policy, items, datums, [len(i["reply"].encode()) for i in items])


def own_answers(
    base: Policy, renderer: Renderer, prompts: Sequence[Item], *, seed: int = 0, max_new_tokens: int = OWN_ANSWER_TOKENS
) -> tuple[Item, ...]:
    """Items of the `own-answers` kind: one reply of the base per prompt, sampled at temperature 1.

    Empty replies are dropped: there is nothing to score.
    """
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=1.0, seed=seed, stop=renderer.end_tokens)
    replies = base.sampler.generate([prompt_tokens(renderer, p) for p in prompts], sampling)
    made: list[Mapping[str, Any]] = []
    for prompt, completion in zip(prompts, replies, strict=True):
        # A reply cut in the middle of a character ends in a replacement mark that the base never wrote.
        reply = renderer.decode(completion.tokens).rstrip("\ufffd").strip()
        if reply:
            made.append({**prompt, "reply": reply, "finished": completion.finished})
    return tuple(made)


def encode_pair(renderer: Renderer, context: str, ending: str) -> tuple[Tokens, Tokens]:
    """Tokens of a context and of what follows it, as lm-eval's `_encode_pair` does for causal models.

    Blanks at the end of the context move to the ending, where most tokenizers expect them; the two are then tokenised
    as one text and cut at the length of the context alone.
    """
    bare = context.rstrip()
    ending = context[len(bare) :] + ending
    if not bare:
        whole = renderer.text(ending)
        return whole[:1], whole[1:]
    prefix = renderer.text(bare)
    suffix = renderer.text(bare + ending)[len(prefix) :]
    # A tokenizer that melts the ending into the context's last token leaves nothing to score.
    return prefix, suffix or renderer.text(ending)


def _outcomes(
    policy: Policy, items: Sequence[Item], datums: Sequence[Datum], sizes: Sequence[int]
) -> tuple[Outcome, ...]:
    return tuple(
        Outcome(id=item["id"], value=-sum(row) / math.log(2), size=float(max(size, 1)))
        for item, row, size in zip(items, score_targets(policy, datums), sizes, strict=True)
    )
