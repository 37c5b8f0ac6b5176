"""The preference probe on a model whose probabilities are written down."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from temper.data.datum import Datum
from temper.data.render import Renderer
from temper.data.rows import open_table
from temper.model.protocol import Policy
from temper.probes import kinds
from temper.probes.base import ProbeSpec
from temper.probes.preference import preference, sides
from tests.tiny import tiny_tokenizer

SPEC = ProbeSpec(name="pairs", axis="domain", kind="preference", source="pairs.jsonl", role="domain")


@dataclass
class Written:
    """A learner that gives the end of a turn probability 1/2, some tokens 1/2 and all others 1/8."""

    renderer: Renderer
    likely: str

    def logprobs(self, datums: Sequence[Datum]) -> list[tuple[float, ...]]:
        liked = {*self.renderer.tokenizer.encode(self.likely), *self.renderer.end_tokens}
        return [
            tuple(
                math.log(1 / 2 if d.tokens[t + 1] in liked else 1 / 8) for t, w in enumerate(d.weights["ce"]) if w
            )
            for d in datums
        ]  # fmt: skip


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Renderer:
    return Renderer.load(tiny_tokenizer(tmp_path_factory.mktemp("model")))


def ask(renderer: Renderer, likely: str, **item: Any) -> Any:
    whole: Any = Written(renderer, likely)
    (outcome,) = preference(Policy(learner=whole, sampler=whole), renderer, SPEC, [{"id": "0", **item}])
    return outcome


def test_the_margin_is_the_difference_of_mean_log_probabilities(renderer: Renderer) -> None:
    found = ask(renderer, "yes", prompt="on?", chosen="yes", rejected="012345")
    # Chosen: every token 1/2. Rejected: n tokens of 1/8 and the end of the turn of 1/2.
    n = len(renderer.tokenizer.encode("012345"))
    margin = math.log(1 / 2) - (n * math.log(1 / 8) + math.log(1 / 2)) / (n + 1)
    assert found.parts == pytest.approx({"margin": margin})
    assert found.value == pytest.approx(1 / (1 + math.exp(-margin)))
    assert (found.hard, found.chance) == (1.0, 0.5)
    assert (found.prompt, found.reference, found.reply) == ("on?", "yes", "yes")


def test_a_model_that_likes_the_other_answer_is_wrong_and_says_which(renderer: Renderer) -> None:
    found = ask(renderer, "012345", prompt="on?", chosen="yes", rejected="012345")
    assert found.hard == 0.0
    assert found.value < 0.5
    assert found.reply == "012345"


def test_length_alone_decides_nothing(renderer: Renderer) -> None:
    """Summed log-probabilities would prefer the short answer whatever it says."""
    found = ask(renderer, "yes", prompt="on?", chosen="yes" * 9, rejected="yes")
    assert found.parts["margin"] == pytest.approx(0.0)
    assert (found.value, found.hard) == (0.5, 0.0)


def test_a_pair_of_a_file_becomes_an_item_with_all_its_turns(renderer: Renderer, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "on?", "chosen": "yes", "rejected": "012345"}\n', encoding="utf-8")
    (row,) = open_table(path).rows()
    item: Mapping[str, Any] = {"messages": [{"role": "user", "content": "on?"}], **sides(row)}
    assert item["chosen"] == [{"role": "assistant", "content": "yes"}]
    assert not kinds.absent(kinds.kind("preference").needs, item)
    assert ask(renderer, "yes", **item) == ask(renderer, "yes", prompt="on?", chosen="yes", rejected="012345")
