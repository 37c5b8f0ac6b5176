"""Packed rows as a kernel for sequences of any length takes them.

torch's kernel runs on a GPU alone (`tests/gpu`); what is handed to it is tested here, with a plain function in its
place that does what the kernel's documentation says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen

from temper.data.datum import Datum
from temper.model import attention
from temper.model.layout import alike, pack
from tests.unit.model import plain
from tests.unit.model.plain import CE, SHAPES, learner_of, plain_loss, plain_model
from tests.unit.model.test_learner import assert_same_gradients


def documented(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int, *,
    scale: float, window_size: tuple[int, int], enable_gqa: bool,
) -> Tensor:  # fmt: skip
    """Every sequence by itself; the last query stands at the last key, and looks `window_size` keys to either side."""
    out = []
    assert (enable_gqa, window_size[1]) == (query.shape[1] != key.shape[1], 0)
    for n in range(len(cu_seq_q) - 1):
        q, k, v = (x[e[n] : e[n + 1]] for x, e in ((query, cu_seq_q), (key, cu_seq_k), (value, cu_seq_k)))
        assert len(q) <= max_q
        assert len(k) <= max_k
        k, v = (x.repeat_interleave(query.shape[1] // key.shape[1], 1) for x in (k, v))
        at = torch.arange(len(q))[:, None] + len(k) - len(q)
        distance = at - torch.arange(len(k))[None]
        seen = (distance >= 0) & ((window_size[0] < 0) | (distance <= window_size[0]))
        scores = torch.einsum("qhd,khd->hqk", q, k) * scale
        out.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, float("-inf")).softmax(-1), v))
    return torch.cat(out)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return {shape: plain.write_model(tmp_path_factory.mktemp("model"), shape) for shape in SHAPES}


@pytest.fixture(autouse=True)
def on_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", documented)
    monkeypatch.setattr(attention, "flat", lambda _model: True)


@pytest.mark.parametrize("batch", [plain.ragged, plain.alike, plain.groups])
@pytest.mark.parametrize("shape", SHAPES)
def test_loss_and_gradients_equal_the_plain_path(
    models: Mapping[str, Path], shape: str, batch: Callable[[], list[Datum]]
) -> None:
    """Windows too, and behind shared beginnings: there a window reaches into the root."""
    learner, reference, datums = learner_of(models[shape]), plain_model(models[shape]), batch()
    assert learner.forward_backward(datums, CE).loss == pytest.approx(plain_loss(reference, datums), rel=1e-4)
    assert_same_gradients(plain.gradients_of(learner.model), plain.gradients_of(reference))


def test_log_probabilities_and_replies_are_the_same_as_on_grids(
    models: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from temper.model.protocol import Sampling

    datums, prompts = plain.many(), [(5, 9, 200), tuple(range(20, 45)), (*range(20, 44), 7)]
    learner, sampler = learner_of(models["llama"]), plain.sampler_of(models["llama"])
    found = learner.logprobs(datums), sampler.generate(prompts, Sampling(max_new_tokens=6))
    monkeypatch.setattr(attention, "flat", lambda _model: False)
    expected = learner.logprobs(datums), sampler.generate(prompts, Sampling(max_new_tokens=6))
    for one, other in zip(found[0], expected[0], strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    assert [r.tokens for r in found[1]] == [r.tokens for r in expected[1]]


def test_spans_by_hand() -> None:
    """Two rows that share 16 tokens and go on with 1 and 2, and a row of 3: 22 tokens, filled up to 24."""
    root = list(range(100, 116))
    rows = [[*root, 1], [7, 8, 9], [*root, 2, 3]]
    layout = pack(rows, torch.device("cpu"), clusters=alike(rows), flat=True, rung=8)
    assert layout.tokens.tolist() == [[*root, 7, 8, 9, 1, 2, 3, 0, 0]]
    assert layout.positions.tolist() == [[*range(16), 0, 1, 2, 16, 16, 17, 0, 1]]
    spans = layout.spans
    assert spans is not None
    assert spans.queries.tolist() == [0, 16, 19, 20, 22, 24]  # root, row, branch, branch, filler
    assert spans.keys.tolist() == [0, 16, 19, 36, 54, 56]  # 16, 3, 16 + 1, 16 + 2, 2
    assert (spans.longest_query, spans.longest_key) == (16, 18)
    assert spans.gather is not None
    assert spans.gather.tolist() == [*range(19), *range(16), 19, *range(16), 20, 21, 22, 23]


def test_rows_without_a_common_beginning_need_no_second_copy_of_the_keys() -> None:
    layout = pack([[1, 2], [3]], torch.device("cpu"), flat=True)
    assert layout.spans is not None
    assert layout.spans.gather is None
    assert layout.branches is None
