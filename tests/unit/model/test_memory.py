"""Which pass fits, and that layers computed twice give the gradients of layers that are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from temper.model import memory
from temper.model.memory import FEWEST, LEAST, MOST, choose, measure
from tests.unit.model import plain
from tests.unit.model.plain import CE, learner_of

GIB = 2**30


@pytest.mark.parametrize(
    ("free", "kept", "again", "tokens", "most_kept"),
    [
        # 135M: half a MiB a token; 100 GiB hold 204800 of them, more than a pass gains by
        (100 * GIB, GIB / 2048, GIB / 16384, MOST, 131072),
        # 8B with an adapter: 4 MiB; 90 GiB hold 23040, the next power of two below is 16384
        (90 * GIB, GIB / 256, GIB / 2048, 16384, 16384),
        # 8B whole: 12 GiB hold 3072 kept, too few to keep the GPU busy: 4096 with layers computed twice
        (12 * GIB, GIB / 256, GIB / 2048, FEWEST, 2048),
        # hardly anything: 1 GiB holds 256 kept, 2048 twice
        (GIB, GIB / 256, GIB / 2048, 2048, 256),
        # nothing: the least is tried, and torch says what is missing
        (0, GIB / 256, GIB / 2048, LEAST, 1),
    ],
)
def test_the_largest_pass_that_fits_is_taken_and_layers_are_computed_twice_only_for_want_of_memory(
    free: int, kept: float, again: float, tokens: int, most_kept: int
) -> None:
    room = choose(free, kept=kept, recomputed=again)
    assert (room.tokens, room.kept) == (tokens, most_kept)


def test_the_cost_of_a_token_lies_between_two_trials() -> None:
    # 1 GiB whatever the tokens, 1 MiB a token kept, 1/8 MiB computed twice; 85 % of 40 GiB hold 34816 tokens
    def peak(tokens: int, again: bool) -> int:
        return GIB + tokens * (GIB // 8192 if again else GIB // 1024)

    room = measure(peak, lambda: 40 * GIB)
    assert (room.tokens, room.kept) == (32768, 32768)
    assert "1024 KiB kept, 128 KiB computed twice" in room.reason


@pytest.mark.parametrize("rank", [None, 4])
@pytest.mark.parametrize("shape", ["llama", "qwen2"])
def test_layers_computed_twice_give_the_same_loss_and_gradients(tmp_path: Path, shape: str, rank: int | None) -> None:
    folder, datums = plain.write_model(tmp_path / "model", shape), plain.alike()
    kept, again = learner_of(folder, rank), learner_of(folder, rank)
    switch, calls = memory.Switch(on=True), []
    memory.install(again.model, switch)
    inner = again.model.base_model.layers[0].self_attn.q_proj  # pyright: ignore
    inner.register_forward_hook(lambda *_: calls.append(1))
    assert again.forward_backward(datums, CE).loss == kept.forward_backward(datums, CE).loss
    assert calls == [1, 1]  # forward, and again in backward
    expected = plain.gradients_of(kept.model)
    assert all(torch.equal(g, expected[n]) for n, g in plain.gradients_of(again.model).items())
    switch.on = False
    again.forward_backward(datums, CE)
    assert calls == [1, 1, 1]


def test_a_cpu_needs_no_measurement(tmp_path: Path) -> None:
    learner = learner_of(plain.write_model(tmp_path / "model"))
    room = learner.room(CE)
    assert (room.tokens, room.reason) == (plain.PASS_TOKENS, "cpu: fixed")
    assert room.kept >= room.tokens
