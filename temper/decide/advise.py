"""Advice: which techniques the data and the model call for, in which order, from which checkpoint, and which not.

A function of what there is (raw text, prompts with answers, preference pairs, tasks whose answers can be checked) and
of what the model can do already. Every rule and threshold is in this file, with its source: `AWS` is the guidance of
Nova Forge and Bedrock, numbers like 2409.07431 are arXiv papers, `ours` is a threshold that no experiment has tested.
Nothing is decided here for anybody: `temper init` writes what is advised, `temper check` prints it beside the recipe.
Pure. Imports events.

Example:
    >>> stock = Stock(model="smollm2-135m-instruct", origin="instruct", text=Volume(rows=12, tokens=40_000))
    >>> advise(stock).step("cpt").reason
    '40k tokens of raw text are too few; put them into the prompts of SFT rows as context'
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from temper.events import GateReport

Origin = Literal["base", "instruct", "unknown"]
Verdict = Literal["run", "later", "skip"]
"""`later`: not from this model, but behind the stage before it, where it is looked at again."""
Source = Literal["text", "pairs", "preferences", "tasks", "prompts"]
"""Kinds of data. `pairs` are prompts with answers, `tasks` prompts with a reference that a reply is checked against."""
ORDER = ("cpt", "sft", "dpo", "rft", "distill")
"""Text first, then answers, then what is better than what, then what is right: as Tulu 3 (2411.15124) and AWS do."""
FOLLOWS = re.compile(r"(?<![a-z])(instruct|it|chat|sft|dpo|rlhf|assistant)(?![a-z])")
CONTINUES = re.compile(r"(?<![a-z])(base|pt|pretrained|pretrain)(?![a-z])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Every threshold of the advice, with where it comes from."""

    text: int = 100_000
    """Least tokens of raw text to continue pre-training on. Ours: a few hundred steps of the smallest useful size."""
    facts: int = 10_000_000
    """Tokens of raw text below which it teaches a way of writing rather than facts. Ours, after 2409.07431: 1.3M tokens
    of raw text taught next to nothing that a closed-book exam can see, 455M tokens made of them did."""
    mid: int = 10_000_000_000
    """Tokens from which training begins before the instructions. AWS: the finished model below 10B, mid above."""
    pairs: int = 8
    """Fewest prompts with answers. AWS takes from 8 rows (Nova 1)."""
    many_pairs: int = 200
    """The same from which nothing need be said. AWS: 200 to 20,000 rows."""
    preferences: int = 100
    """Fewest preference pairs. Ours: a tenth of what AWS asks for."""
    many_preferences: int = 1_000
    """AWS: at least 1,000 pairs for DPO."""
    tasks: int = 32
    """Fewest tasks to reinforce on. Ours: with fewer the gate's intervals are too wide to say anything."""
    many_tasks: int = 100
    """AWS: at least 100 to train on and 100 to evaluate with."""
    hopeless: float = 0.05
    """Score below which there is nothing to reinforce. AWS: under 5 % of positive rewards, SFT first."""
    done: float = 0.95
    """Score from which there is next to nothing to gain. AWS: above 95 % RFT may be unnecessary."""
    distill: float = 3e9
    """Parameters from which on-policy repair is known to work. Shown at 8B (TML); ours: from 3B."""


LIMITS = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """How much there is of one kind of data."""

    rows: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a model scores on the domain probes, in [0, 1], with its two-sided interval at 95 %."""

    value: float
    low: float
    high: float
    items: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stock:
    """What there is to learn from, and what is known of the model."""

    model: str
    origin: Origin = "unknown"
    params: int = 0
    """Of the model; 0 where that is not known yet."""
    text: Volume = Volume()
    pairs: Volume = Volume()
    preferences: Volume = Volume()
    tasks: Volume = Volume()
    prompts: Volume = Volume()
    """Prompts with neither an answer nor a reference."""
    score: Score | None = None
    """Of the model on the domain probes; None where nothing was measured."""
    gate: GateReport | None = None
    """What the tries at the tasks said; None where nothing was tried."""

    def of(self, source: Source) -> Volume:
        """How much there is of a kind."""
        return {
            "text": self.text, "pairs": self.pairs, "preferences": self.preferences, "tasks": self.tasks,
            "prompts": self.prompts,
        }[source]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What is advised about one technique."""

    technique: str
    verdict: Verdict
    reason: str
    evidence: str = ""
    source: Source | None = None
    """The data that it would learn from; None where there are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The checkpoint to begin with."""

    checkpoint: Literal["mid", "instruct"]
    fits: bool | None
    """Whether the recipe's model is one; None where that cannot be told."""
    reason: str
    evidence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What to do with the data, technique by technique."""

    steps: tuple[Step, ...]
    """One per technique, in the order in which they would run."""
    start: Start

    def step(self, technique: str) -> Step:
        """What is said about one technique."""
        return next(step for step in self.steps if step.technique == technique)

    @property
    def run(self) -> tuple[Step, ...]:
        """What to run, in order: now, or behind what comes before it."""
        return tuple(step for step in self.steps if step.verdict != "skip")


def origin_of(name: str, *, has_template: bool | None = None) -> Origin:
    """Whether a model was taught to follow instructions, as far as its name and its chat template tell.

    Args:
        name: As the recipe says.
        has_template: Whether its tokenizer has a chat template. Base models may have one too; instruct models must.
    """
    last = name.rstrip("/").rpartition("/")[2].lower()
    if FOLLOWS.search(last):
        return "instruct"
    return "base" if CONTINUES.search(last) or has_template is False else "unknown"


def advise(stock: Stock, *, techniques: Sequence[str] = ORDER, limits: Limits = LIMITS) -> Advice:
    """Says of every technique whether to run it and why.

    Args:
        stock: What there is.
        techniques: Those that this installation has; the others are advised against.
        limits: The thresholds.
    """
    here = frozenset(techniques)
    # Whether tasks have to be learnt as answers first depends on reinforcement, and that on what is learnt before it.
    cpt, dpo = _cpt(stock, limits), _dpo(stock, limits)
    sft = _sft(stock, limits, reinforces="rft" in here and _can_try(stock, limits), prefers="dpo" in here)
    steps = (cpt, sft, dpo, _rft(stock, limits, sft=sft if "sft" in here else None), _distill(stock, limits))
    kept = tuple(step if step.technique in here or step.verdict == "skip" else _missing(step) for step in steps)
    return Advice(steps=kept, start=_start(stock, limits, kept))


def _missing(step: Step) -> Step:
    reason = f"no technique of this name is installed here; there are {step.reason}"
    return Step(technique=step.technique, verdict="skip", reason=reason, source=step.source)


def _cpt(stock: Stock, limits: Limits) -> Step:
    text = stock.text
    if not text.rows:
        return Step(technique="cpt", verdict="skip", reason="there is no raw text")
    found = f"{short(text.tokens)} tokens of raw text"
    if text.tokens < limits.text:
        return Step(
            technique="cpt", verdict="skip", source="text",
            reason=f"{found} are too few; put them into the prompts of SFT rows as context",
            evidence=f"at least {short(limits.text)} tokens (ours); raw CPT on 1.3M taught no facts (2409.07431)",
        )  # fmt: skip
    if _is_done(stock, limits):
        return _nothing_to_gain("cpt", "text", stock)
    if text.tokens < limits.facts:
        return Step(
            technique="cpt", verdict="run", source="text",
            reason=f"{found}: enough for the domain's way of writing, hardly for its facts; what must be answered"
            " has to be asked in SFT rows as well",
            evidence="1.3M tokens of raw text taught no facts that a closed-book exam saw (2409.07431)",
        )  # fmt: skip
    return Step(
        technique="cpt", verdict="run", source="text", reason=f"{found}, at most once through",
        evidence="AWS: at most 1 epoch; re-warming with 5 to 25 % replay matches training on both (2403.08763)",
    )  # fmt: skip


def _sft(stock: Stock, limits: Limits, *, reinforces: bool, prefers: bool) -> Step:
    """On prompts with answers; where there are none, on the best answers that the other data hold."""
    if stock.pairs.rows >= limits.pairs:
        return _sft_on_pairs(stock, limits)
    chosen = stock.preferences.rows
    if chosen and (stock.origin == "base" or not prefers or chosen < limits.preferences):
        why = "so that a model which was never instructed answers at all" if stock.origin == "base" else "as they are"
        return Step(
            technique="sft", verdict="run", source="preferences",
            reason=f"the chosen answers of {chosen:,} preference pairs, {why}",
            evidence="without an SFT model the chosen answers are learnt first (2305.18290)",
        )  # fmt: skip
    if stock.tasks.rows >= limits.pairs and not reinforces and not _is_done(stock, limits):
        return Step(
            technique="sft", verdict="run", source="tasks",
            reason=f"the reference answers of {stock.tasks.rows:,} tasks, as answers to learn",
            evidence="AWS: reinforcement does not invent a capability from nothing, examples come first",
        )  # fmt: skip
    if stock.pairs.rows:
        reason = f"{stock.pairs.rows} prompts with answers are too few; write at least {limits.many_pairs}"
        return Step(
            technique="sft", verdict="skip", source="pairs", reason=reason, evidence=f"AWS: {limits.pairs} at least"
        )
    return Step(technique="sft", verdict="skip", reason="there are no prompts with answers")


def _sft_on_pairs(stock: Stock, limits: Limits) -> Step:
    pairs = stock.pairs
    if _is_done(stock, limits):
        return _nothing_to_gain("sft", "pairs", stock)
    found = f"{pairs.rows:,} prompts with answers"
    if pairs.rows < limits.many_pairs:
        found += f"; that is few, {limits.many_pairs} or more teach better"
    if stock.score:
        found += f"; {stock.model} scores {_score(stock.score)}"
    return Step(
        technique="sft", verdict="run", source="pairs", reason=found,
        evidence="AWS: 200 to 20,000 rows, quality before volume",
    )  # fmt: skip


def _dpo(stock: Stock, limits: Limits) -> Step:
    rows = stock.preferences.rows
    if not rows:
        return Step(technique="dpo", verdict="skip", reason="there are no preference pairs")
    evidence = f"AWS: at least {limits.many_preferences:,} pairs"
    if rows < limits.preferences:
        reason = f"{rows} preference pairs are too few; learn the chosen answers in an SFT stage instead"
        return Step(technique="dpo", verdict="skip", source="preferences", reason=reason, evidence=evidence)
    few = f"; that is few, {limits.many_preferences:,} or more are usual" if rows < limits.many_preferences else ""
    reason = f"{rows:,} preference pairs{few}"
    return Step(technique="dpo", verdict="run", source="preferences", reason=reason, evidence=evidence)


def _can_try(stock: Stock, limits: Limits) -> bool:
    """Whether reinforcement may begin with this very model, as far as it is known."""
    if stock.tasks.rows < limits.tasks:
        return False
    if stock.gate is not None:
        return stock.gate.verdict != "SFT FIRST"
    return stock.score is None or stock.score.high >= limits.hopeless


def _rft(stock: Stock, limits: Limits, *, sft: Step | None) -> Step:
    tasks = stock.tasks.rows
    if not tasks:
        hint = "; prompts with answers that can be checked may serve as tasks" if stock.pairs.rows else ""
        return Step(technique="rft", verdict="skip", reason=f"there are no tasks with a reference{hint}")
    if tasks < limits.tasks:
        return Step(
            technique="rft", verdict="skip", source="tasks",
            reason=f"{tasks} tasks are too few to tell whether there is something to reinforce",
            evidence=f"at least {limits.tasks} (ours), AWS: {limits.many_tasks} and as many to evaluate with",
        )  # fmt: skip
    first = _named(stock, sft) if sft is not None and sft.verdict == "run" and sft.source else ""
    if stock.gate is not None:
        return _gated(stock.gate, first)
    if _is_done(stock, limits):
        return _nothing_to_gain("rft", "tasks", stock)
    score = stock.score
    evidence = "AWS: SFT first below 5 % of positive rewards; the gate decides on the groups that hold a difference"
    if score is not None and score.high < limits.hopeless:
        do = f"SFT on {first} first, then the gate looks again" if first else "write worked answers and begin with SFT"
        return Step(
            technique="rft", verdict="later" if first else "skip", source="tasks", evidence=evidence,
            reason=f"{stock.model} scores {_score(score)}, so there is next to nothing to reinforce; {do}",
        )  # fmt: skip
    few = f"; that is few, AWS asks for {limits.many_tasks}" if tasks < limits.many_tasks else ""
    where = "behind SFT, where the gate measures" if first else "if the gate finds"
    reason = f"{tasks:,} tasks with a reference{few}; {where} whether tries differ enough to learn from"
    return Step(technique="rft", verdict="run", source="tasks", reason=reason, evidence=evidence)


def _gated(gate: GateReport, first: str) -> Step:
    """What the tries at the tasks say; the thresholds are the gate's."""
    solved = sum(gate.histogram[1:])
    tried = f"{solved} of {gate.tasks} tasks were solved in {gate.tries} tries"
    measured = f"the gate says {gate.verdict}: {'; '.join(gate.reasons)}"
    if gate.verdict in ("GO", "FILTER"):
        kept = f"; {len(gate.keep)} of them are worth their rollouts" if gate.verdict == "FILTER" else ""
        reason = f"{tried}{kept}"
        return Step(technique="rft", verdict="run", source="tasks", reason=reason, evidence=measured)
    if gate.verdict == "SFT FIRST" and first:
        reason = f"{tried}; SFT on {first} first, then the gate looks again"
        return Step(technique="rft", verdict="later", source="tasks", reason=reason, evidence=measured)
    reason = f"{tried}; {gate.remedy}"
    return Step(technique="rft", verdict="skip", source="tasks", reason=reason, evidence=measured)


def _distill(stock: Stock, limits: Limits) -> Step:
    small = ""
    if 0 < stock.params < limits.distill:
        small = f", which is not known to work below {short(int(limits.distill))} parameters"
    prompts = stock.prompts.rows
    more = f"; {prompts:,} prompts without answers can be distilled from a larger `teacher:`" if prompts else ""
    return Step(
        technique="distill", verdict="skip", source="prompts" if prompts else None,
        reason=f"a last stage for repair, when a run has lost more than the tolerance{small}{more}",
        evidence="instruction following 79 to 83 % while the domain rose 36 to 41 %, at 8B (TML)",
    )  # fmt: skip


def _start(stock: Stock, limits: Limits, steps: Sequence[Step]) -> Start:
    text = stock.text.tokens
    if text >= limits.mid:
        fits = None if stock.origin == "unknown" else stock.origin == "base"
        reason = f"{short(text)} tokens of raw text are enough to begin before the instructions, and SFT must follow"
        return Start(checkpoint="mid", fits=fits, reason=reason, evidence="AWS: an intermediate checkpoint above 10B")
    evidence = "AWS: the finished model below 10B tokens, and always for LoRA"
    if stock.origin == "base":
        answers = any(s.technique == "sft" and s.verdict == "run" for s in steps)
        then = "the SFT stage has to teach it to answer" if answers else "nothing here teaches it to answer"
        reason = f"{stock.model} is a base model and {then}; its instruct version keeps what it can do"
        return Start(checkpoint="instruct", fits=False, reason=reason, evidence=evidence)
    if any(s.technique == "cpt" and s.verdict == "run" for s in steps):
        reason = (
            f"{short(text)} tokens of raw text; with `residual:` the base is trained and the instructions added back"
        )
        evidence = f"{evidence}; instruction residual (2410.10739)"
    else:
        reason = "few data keep more of a model that follows instructions already"
    if stock.origin == "unknown":
        reason += f"; whether {stock.model} is one cannot be told from its name"
    fits = True if stock.origin == "instruct" else None
    return Start(checkpoint="instruct", fits=fits, reason=reason, evidence=evidence)


def _is_done(stock: Stock, limits: Limits) -> bool:
    return stock.score is not None and stock.score.low >= limits.done


def _nothing_to_gain(technique: str, source: Source, stock: Stock) -> Step:
    assert stock.score is not None
    return Step(
        technique=technique, verdict="skip", source=source,
        reason=f"{stock.model} scores {_score(stock.score)} already; a harder exam would show what is left to learn",
        evidence="AWS: above 95 % training may be unnecessary",
    )  # fmt: skip


def _named(stock: Stock, sft: Step) -> str:
    """The rows that an SFT stage would learn from, in words."""
    assert sft.source is not None
    rows = stock.of(sft.source).rows
    kind = {"pairs": "pairs", "tasks": "reference answers", "preferences": "chosen answers"}.get(sft.source, "rows")
    return f"the {rows:,} {kind}"


def _score(score: Score) -> str:
    return f"{100 * score.value:.0f} % ({100 * score.low:.0f} to {100 * score.high:.0f}, {score.items} items)"


def short(count: int) -> str:
    """A large number in words: 40k, 1.3M, 10B."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.{0 if count >= 10 * size else 1}f}".removesuffix(".0") + unit
    return str(count)
