"""Drift on a model of a written-down table; the torch learner's part is tested beside it, in tests/unit/model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from temper.errors import DataError
from temper.model.protocol import Policy
from temper.probes.base import ProbeSpec, Where
from temper.probes.drift import drift, weighed
from temper.probes.kinds import kind
from temper.probes.suites import prepare, run_suite, spec_of
from tests.unit.probes.bigram import Table, Weigher, Words

SPEC = ProbeSpec(name="d", axis="behaviour", kind="drift", source="d")
REPLY = {"id": "0", "prompt": "how", "reply": "fine thanks", "finished": True}


def weigher(words: Words, *shares: float) -> Policy:
    return Weigher(words, shares=shares).policy


def bits(base: Sequence[float], now: Sequence[float]) -> float:
    """Of one reply: what `now` needs for what `base` would say."""
    words = Words()
    items = weighed(weigher(words, *base), words, SPEC, [REPLY])  # type: ignore[arg-type]
    (found,) = drift(weigher(words, *now), words, SPEC, items)  # type: ignore[arg-type]
    assert found.size == len("fine thanks")
    return found.value


def test_the_base_itself_needs_its_own_entropy_and_no_bit_more() -> None:
    # Two words and the end of turn; 1/2, 1/4 and 1/4 for all other tokens: 1/2 + 2/4 + 2/4 = 1.5 bits each.
    assert bits((0.5, 0.25), (0.5, 0.25)) == pytest.approx(3 * 1.5, abs=1e-5)


def test_another_model_needs_the_divergence_on_top() -> None:
    # Base 1/2, 1/2; model 1/4, 3/4: 1/2 log2 4 + 1/2 log2 4/3 bits, and the entropy of 1 bit makes KL the rest.
    assert bits((0.5, 0.5), (0.25, 0.75)) == pytest.approx(3 * (1.0 + 0.5 * math.log2(4 / 3)), abs=1e-5)
    # What goes to tokens that are not named counts too: 1/2 log2 4 + 1/4 log2 4 + 1/4 log2 2 = 1.75 bits.
    assert bits((0.5, 0.25), (0.25, 0.25)) == pytest.approx(3 * 1.75, abs=1e-5)


def test_a_model_that_gives_nothing_is_terrible_and_not_infinite() -> None:
    assert bits((0.5, 0.5), (1e-300, 1.0)) == pytest.approx(3 * 0.5 * 100 / math.log(2))


def test_the_base_is_asked_once_and_a_candidate_is_compared_with_it_not_with_itself(tmp_path: Path) -> None:
    words = Words()
    prompts = tuple({"id": str(n), "prompt": f"p{n}"} for n in range(40))
    file = tmp_path / "prompts.jsonl"
    lines = (f'{{"id": "{i["id"]}", "prompt": "{i["prompt"]}", "kind": "drift"}}\n' for i in prompts)
    file.write_text("".join(lines), encoding="utf-8")
    spec = spec_of("probes.general.0", {"name": "d", "kind": "drift", "source": str(file), "axis": "behaviour"}, None)
    first = Weigher(words, shares=(0.5, 0.5), replies={f"p{n}": "fine thanks" for n in range(40)})
    ask: dict[str, Any] = {"cache": tmp_path / "cache"}
    (probe,) = prepare(first.policy, words, [spec], **ask)  # type: ignore[arg-type]
    again = prepare(first.policy, words, [spec], **ask)  # type: ignore[arg-type]
    assert (again, first.asked, first.generated) == ((probe,), [40], 40)

    def rise(now: Policy) -> float:
        (found,) = run_suite(now, words, [probe], split="test", where=Where(checkpoint="c"))  # type: ignore[arg-type]
        return found.measurement.value * 11 / 3 - 1.0  # bits per position over the base's one

    assert rise(first.policy) == pytest.approx(0.0, abs=1e-5)
    # KL(1/2, 1/2 || 1/4, 3/4) = 1/2 log2 2 + 1/2 log2 2/3
    assert rise(weigher(words, 0.25, 0.75)) == pytest.approx(0.5 + 0.5 * math.log2(2 / 3), abs=1e-5)


def test_replies_are_those_of_own_answers() -> None:
    assert kind("drift").answers == "weighed" and kind("own-answers").answers == "sampled"
    words = Words()
    (item,) = weighed(weigher(words, 0.5, 0.5), words, SPEC, [REPLY])  # type: ignore[arg-type]
    assert {k: item[k] for k in REPLY} == REPLY
    assert (sum(item["scored"]), len(item["likely"]), len(item["scored"])) == (3, 3, len(item["tokens"]) - 1)


def test_a_recipe_needs_no_more_than_name_and_kind() -> None:
    spec = spec_of("probes.general.1", {"name": "moved", "kind": "drift"}, None)
    assert (spec.source, spec.axis, spec.items, spec.quick) == ("chat_probe", "behaviour", 60, 16)
    own = spec_of("probes.general.1", {"name": "moved", "kind": "drift", "source": "x.jsonl", "axis": "code"}, None)
    assert (own.source, own.axis, own.items) == ("x.jsonl", "code", 0)
    with pytest.raises(DataError, match=r"probes\.general\.1: found no axis"):
        spec_of("probes.general.1", {"name": "n", "kind": "text"}, None)


def test_a_backend_that_knows_targets_alone_is_refused_with_the_kind_that_needs_no_more() -> None:
    model = Table(Words())
    for call in (weighed, drift):
        with pytest.raises(DataError, match=r"probe d: kind 'drift' asks .*write kind: own-answers"):
            call(model.policy, model.words, SPEC, [REPLY])  # type: ignore[arg-type]


def test_a_model_of_other_tokens_is_refused() -> None:
    words = Words()
    items = weighed(weigher(words, 0.5, 0.5), words, SPEC, [REPLY])  # type: ignore[arg-type]
    other = replace(words, pieces=[f"x{n}" for n in range(20)])
    with pytest.raises(DataError, match=r"reads 1 of 1 replies as another text .*write kind: own-answers"):
        drift(weigher(words, 0.5, 0.5), other, SPEC, items)  # type: ignore[arg-type]
