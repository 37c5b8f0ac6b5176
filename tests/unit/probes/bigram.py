"""A tokenizer of words and a model whose probabilities a test writes down, so that every figure can be worked out."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from temper.model.protocol import Completion, Floats, Policy, Sampling, Tokens

USER, ASSISTANT, END = 0, 1, 2


@dataclass
class Words:
    """Each word with the blanks before it is a token; turns are framed by three special tokens."""

    pieces: list[str] = field(default_factory=lambda: ["", "", ""])
    end_tokens: tuple[int, ...] = (END,)

    def text(self, text: str) -> tuple[int, ...]:
        found = re.findall(r"\s*\S+", text)
        self.pieces += [p for p in dict.fromkeys(found) if p not in self.pieces]
        return tuple(self.pieces.index(p) for p in found)

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(self.pieces[t] for t in tokens)

    def prompt(self, messages: Sequence[Any]) -> tuple[int, ...]:
        turns = [(USER if m.role == "user" else ASSISTANT, *self.text(m.content), END) for m in messages]
        return (*(t for turn in turns for t in turn), ASSISTANT)

    def dialogue(self, messages: Sequence[Any], *, train_on: str = "all") -> Any:
        assert train_on == "last"
        before = self.prompt(messages[:-1])
        reply = (*self.text(messages[-1].content), END)
        return SimpleNamespace(tokens=(*before, *reply), mask=(False,) * len(before) + (True,) * len(reply))


Rule = Callable[[str, str], float]
"""Probability of a piece after the text so far; the end token is the piece ''."""


@dataclass
class Table:
    """Learner and sampler in one: `rule` scores, `replies` maps the user's text to what is generated."""

    words: Words
    rule: Rule = lambda context, piece: 0.5
    replies: Mapping[str, str] = field(default_factory=dict)
    finished: bool = True
    scored: int = 0
    generated: int = 0
    groups: list[int] = field(default_factory=list)
    samplings: list[Sampling] = field(default_factory=list)
    drafts: Sequence[tuple[int, ...]] = ()

    def logprobs(self, datums: Sequence[Any]) -> list[tuple[float, ...]]:
        self.scored += len(datums)
        self.groups = [d.group for d in datums]
        return [
            tuple(
                math.log(self.rule(self.words.decode(d.tokens[:i]), self.words.pieces[d.tokens[i]]))
                for i in range(1, len(d.tokens))
                if d.weights["ce"][i - 1]
            )
            for d in datums
        ]

    def generate(
        self, prompts: Sequence[tuple[int, ...]], sampling: Sampling, *, drafts: Sequence[tuple[int, ...]] = ()
    ) -> list[Completion]:
        self.generated += len(prompts)
        self.samplings.append(sampling)
        self.drafts = drafts
        texts = [self.replies.get(self.words.decode(p), "") for p in prompts]
        return [Completion(tokens=self.words.text(t), logprobs=(), finished=self.finished) for t in texts]

    @property
    def policy(self) -> Policy:
        whole: Any = self
        return Policy(learner=whole, sampler=whole)


@dataclass
class Weigher(Table):
    """At every position the same probabilities of the first pieces; what they leave over is other tokens'."""

    shares: Sequence[float] = (0.5, 0.25)
    asked: list[int] = field(default_factory=list)

    def likely(self, datums: Sequence[Any], k: int) -> list[list[tuple[Tokens, Floats]]]:
        assert k == 64
        self.asked.append(len(datums))
        row = (tuple(range(len(self.shares))), tuple(math.log(p) for p in self.shares))
        return [[row] * round(sum(d.weights["ce"])) for d in datums]

    def logprobs_of(self, datums: Sequence[Any], tokens: Sequence[Sequence[Tokens]]) -> list[list[Floats]]:
        assert [len(row) for row in tokens] == [round(sum(d.weights["ce"])) for d in datums]
        return [[tuple(math.log(self.shares[t]) for t in ids) for ids in row] for row in tokens]
