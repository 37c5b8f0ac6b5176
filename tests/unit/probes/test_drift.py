from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from temper.errors import DataError
from temper.model.protocol import Policy
from temper.probes.base import ProbeSpec
from temper.probes.drift import drift
from tests.unit.probes.bigram import Table, Words

SPEC = ProbeSpec(name="d", axis="behaviour", kind="drift", source="d")
ITEM = {"id": "0", "prompt": "how", "reply": "fine thanks", "finished": True}


def test_drift_is_the_cross_entropy_at_every_position_of_the_bases_reply_in_bits():
    words = Words()
    seen: list[Any] = []

    def cross_entropy(datums: Any) -> list[tuple[float, ...]]:
        seen.extend(datums)
        # The base says 1/2, 1/2 at each of the three positions, the model 1/4, 3/4: 1/2 log2 4 + 1/2 log2 4/3 bits
        nats = -0.5 * math.log(1 / 4) - 0.5 * math.log(3 / 4)
        return [(nats,) * 3]

    learner: Any = SimpleNamespace(cross_entropy=cross_entropy)
    (found,) = drift(Policy(learner=learner, sampler=learner), words, SPEC, [ITEM])
    assert found.value == pytest.approx(3 * (0.5 * 2 + 0.5 * math.log2(4 / 3)))
    assert found.size == len("fine thanks")
    # Two words and the end of turn are scored; the relative rise over the base (1 bit each) is KL / H.
    assert sum(seen[0].weights["ce"]) == 3


def test_a_policy_without_its_base_is_refused_with_the_kind_that_needs_none():
    model = Table(Words())
    with pytest.raises(DataError, match=r"probe d: kind 'drift' needs .*write kind = 'own-answers'"):
        drift(model.policy, model.words, SPEC, [ITEM])
