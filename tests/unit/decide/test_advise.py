from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from temper.decide.advise import LIMITS, ORDER, Advice, Score, Stock, Verdict, Volume, advise, origin_of, short
from temper.events import GateReport, GateVerdict


def stock(origin: str = "instruct", **kinds: Any) -> Stock:
    return Stock(model="m-instruct", origin=origin, **kinds)  # pyright: ignore[reportArgumentType]


def rows(count: int, tokens: int = 0) -> Volume:
    return Volume(rows=count, tokens=tokens or 100 * count)


def score(value: float, low: float, high: float) -> Score:
    return Score(value=value, low=low, high=high, items=200)


def gate(verdict: GateVerdict, histogram: tuple[int, ...], **more: Any) -> GateReport:
    """A report over so many tasks; the histogram counts tasks by number of passes, 0 first."""
    tries = len(histogram) - 1
    return GateReport(
        verdict=verdict, reasons=("because",), tasks=sum(histogram), total=400, tries=tries, group_size=8, reward=0.1,
        reward_95=(0.0, 0.2), pass_1=0.1, pass_1_95=(0.0, 0.2), pass_k=0.5, pass_k_95=(0.4, 0.6), useful=0.1,
        useful_95=(0.0, 0.2), gain=0.1, histogram=histogram, spread={}, outcomes={}, capped=0.0, length=10.0, **more,
    )  # fmt: skip


def verdicts(advice: Advice) -> Mapping[str, Verdict]:
    return {step.technique: step.verdict for step in advice.steps if step.verdict != "skip"}


CASES: Mapping[str, tuple[Stock, Mapping[str, Verdict]]] = {
    "pairs alone are fine-tuned on": (stock(pairs=rows(1200)), {"sft": "run"}),
    "text of useful size comes before the pairs": (
        stock(text=rows(90, 2_000_000), pairs=rows(1200)),
        {"cpt": "run", "sft": "run"},
    ),
    "text below 100,000 tokens is context": (stock(text=rows(90, 99_999), pairs=rows(1200)), {"sft": "run"}),
    "text of 100,000 tokens is trained on": (stock(text=rows(90, 100_000)), {"cpt": "run"}),
    "seven pairs are too few": (stock(pairs=rows(7)), {}),
    "eight are not": (stock(pairs=rows(8)), {"sft": "run"}),
    "an instruct model takes preferences as it is": (stock(preferences=rows(1000)), {"dpo": "run"}),
    "a base model learns the chosen answers first": (
        stock("base", preferences=rows(1000)),
        {"sft": "run", "dpo": "run"},
    ),
    "99 preference pairs are taken as answers": (stock(preferences=rows(99)), {"sft": "run"}),
    "tasks that nobody tried may be reinforced on": (stock(tasks=rows(300)), {"rft": "run"}),
    "31 tasks are too few, but their answers can be learnt": (stock(tasks=rows(31)), {"sft": "run"}),
    "all four kinds are one chain": (
        stock(text=rows(9, 10**6), pairs=rows(500), preferences=rows(500), tasks=rows(500)),
        {"cpt": "run", "sft": "run", "dpo": "run", "rft": "run"},
    ),
    "a score surely below 5 % calls for examples before reinforcement": (
        stock(pairs=rows(500), tasks=rows(300), score=score(0.01, 0.0, 0.03)),
        {"sft": "run", "rft": "later"},
    ),
    "without pairs the references are the examples": (
        stock(tasks=rows(300), score=score(0.01, 0.0, 0.03)),
        {"sft": "run", "rft": "later"},
    ),
    "a score whose interval holds 5 % is left to the gate": (
        stock(tasks=rows(300), score=score(0.03, 0.01, 0.07)),
        {"rft": "run"},
    ),
    "a score surely above 95 % leaves nothing to gain": (
        stock(text=rows(9, 10**6), pairs=rows(500), tasks=rows(300), score=score(0.98, 0.96, 0.99)),
        {},
    ),
    "a score above 95 % that is not sure does not": (
        stock(pairs=rows(500), score=score(0.97, 0.94, 0.99)),
        {"sft": "run"},
    ),
    "a gate that says go is believed over a low score": (
        stock(tasks=rows(300), score=score(0.01, 0.0, 0.03), gate=gate("GO", (40, 10, 14))),
        {"rft": "run"},
    ),
    "nothing at all": (stock(), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_advised(case: str) -> None:
    given, expected = CASES[case]
    advice = advise(given)
    assert verdicts(advice) == expected
    assert tuple(step.technique for step in advice.steps) == ORDER
    assert all(step.reason for step in advice.steps)


def test_text_that_is_too_short_is_sent_into_the_prompts() -> None:
    found = advise(stock(text=rows(12, 40_000))).step("cpt")
    assert found.reason == "40k tokens of raw text are too few; put them into the prompts of SFT rows as context"
    assert "100k tokens (ours)" in found.evidence


def test_tasks_that_were_never_solved_wait_for_the_pairs() -> None:
    tried = gate("SFT FIRST", (64, *[0] * 16))  # 64 tasks, 16 tries each, no pass
    advice = advise(stock(pairs=rows(1200), tasks=rows(300), gate=tried))
    assert advice.step("rft").verdict == "later"
    assert advice.step("rft").reason == (
        "0 of 64 tasks were solved in 16 tries; SFT on the 1,200 pairs first, then the gate looks again"
    )
    assert [step.technique for step in advice.run] == ["sft", "rft"]


def test_a_gate_that_refuses_the_reward_ends_reinforcement_with_its_remedy() -> None:
    tried = gate("FIX REWARD", (50, 14), remedy="correct the reward")
    found = advise(stock(pairs=rows(1200), tasks=rows(300), gate=tried)).step("rft")
    assert (found.verdict, found.reason) == ("skip", "14 of 64 tasks were solved in 1 tries; correct the reward")
    assert found.evidence == "the gate says FIX REWARD: because"


def test_a_technique_that_is_not_installed_is_not_advised_and_its_rows_are_used_otherwise() -> None:
    advice = advise(stock(text=rows(9, 10**6), tasks=rows(300)), techniques=("sft",))
    assert verdicts(advice) == {"sft": "run"}
    assert advice.step("sft").source == "tasks"
    assert advice.step("cpt").reason.startswith("no technique of this name is installed here; there are 1M tokens")
    assert verdicts(advise(stock(preferences=rows(900)), techniques=("sft",))) == {"sft": "run"}


@pytest.mark.parametrize(
    ("tokens", "origin", "checkpoint", "fits"),
    [
        (0, "instruct", "instruct", True),
        (0, "unknown", "instruct", None),
        (0, "base", "instruct", False),
        (9_999_999_999, "base", "instruct", False),
        (10_000_000_000, "base", "mid", True),
        (10_000_000_000, "instruct", "mid", False),
    ],
)
def test_the_start_follows_the_volume_of_text(tokens: int, origin: str, checkpoint: str, fits: bool | None) -> None:
    found = advise(stock(origin, text=rows(1 if tokens else 0, tokens), pairs=rows(500))).start
    assert (found.checkpoint, found.fits) == (checkpoint, fits)


def test_a_base_model_without_examples_is_warned_of() -> None:
    assert "nothing here teaches it to answer" in advise(stock("base", text=rows(9, 10**6))).start.reason


@pytest.mark.parametrize(
    ("name", "has_template", "origin"),
    [
        ("smollm2-135m-instruct", None, "instruct"),
        ("google/gemma-3-1b-it", True, "instruct"),
        ("google/gemma-3-1b-pt", True, "base"),
        ("/models/Qwen2.5-7B-Base/", True, "base"),
        ("Qwen/Qwen2.5-7B", True, "unknown"),
        ("Qwen/Qwen2.5-7B", False, "base"),
        ("acme/gaiting-model", None, "unknown"),  # `it` inside a word says nothing
    ],
)
def test_the_origin_of_a_model_is_read_off_its_name(name: str, has_template: bool | None, origin: str) -> None:
    assert origin_of(name, has_template=has_template) == origin


def test_large_numbers_are_short() -> None:
    assert [short(n) for n in (999, 1_000, 40_000, 1_300_000, 10_000_000_000)] == ["999", "1k", "40k", "1.3M", "10B"]
    assert LIMITS.text < LIMITS.facts < LIMITS.mid
