"""Arithmetic on checkpoints, checked on the logits of what plain transformers and peft read back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer

from temper.errors import CheckpointError
from temper.model import merge
from temper.model.protocol import Blend, Checkpoint
from tests.tiny import tiny_model
from tests.unit.model import plain
from tests.unit.model.plain import CE, learner_of, plain_logits, plain_model, row

TOKENS = (5, 9, 200, 31, 7, 7, 100)


@pytest.fixture(scope="module", params=["full", "lora", "tied full", "tied lora"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("merge")
    base = plain.write_model(folder / "base", "tied llama" if "tied" in request.param else "llama")
    adapter = "lora" in request.param
    learner = learner_of(base, 4 if adapter else None)
    for _ in range(3):
        learner.forward_backward([row(TOKENS)], CE)
        learner.optim_step(5e-3)
    learner.save(folder / "trained")
    return plain.saved(folder / "trained", base, adapter=adapter)


def logits(folder: Path, checkpoint: Checkpoint) -> Tensor:
    """Of a folder in the format of the checkpoint, as plain transformers and peft read it."""
    if checkpoint.adapter:
        model = PeftModel.from_pretrained(plain_model(checkpoint.base), str(folder))
    else:
        model = plain_model(folder)
    with torch.no_grad():
        return plain_logits(model, TOKENS)


def start_logits(checkpoint: Checkpoint) -> Tensor:
    with torch.no_grad():
        return plain_logits(plain_model(checkpoint.base), TOKENS)


def test_the_ends_of_the_line_are_the_start_and_the_checkpoint(trained: Checkpoint, tmp_path: Path) -> None:
    start, end = start_logits(trained), logits(trained.path, trained)
    assert float((start - end).abs().max()) > 0.1
    for alpha, expected in ((0.0, start), (1.0, end)):
        merge.derive(Blend(parts=(trained,), alpha=alpha), tmp_path / str(alpha))
        torch.testing.assert_close(logits(tmp_path / str(alpha), trained), expected, rtol=0, atol=1e-5)
        assert not (tmp_path / str(alpha) / "trainer").exists()


def test_half_way_is_the_mean_of_the_weights(trained: Checkpoint, tmp_path: Path) -> None:
    merge.derive(Blend(parts=(trained,), alpha=0.5), tmp_path / "half")
    if trained.adapter:
        # The change is alpha / rank x B A, so half of B is half of the change; A stays.
        half, whole = (load_file(f / "adapter_model.safetensors") for f in (tmp_path / "half", trained.path))
        expected = {name: x * (0.5 if "lora_B" in name else 1.0) for name, x in whole.items()}
    else:
        half, whole, start = (
            load_file(f / "model.safetensors") for f in (tmp_path / "half", trained.path, trained.base)
        )
        expected = {name: (start[name] + x) / 2 for name, x in whole.items()}
    assert half.keys() == expected.keys()
    for name, x in expected.items():
        torch.testing.assert_close(half[name], x, rtol=1e-6, atol=1e-7)


def test_a_whole_model_answers_like_its_checkpoint_and_stands_alone(trained: Checkpoint, tmp_path: Path) -> None:
    merge.whole(trained, tmp_path / "whole")
    with torch.no_grad():
        found = plain_logits(plain_model(tmp_path / "whole"), TOKENS)
    torch.testing.assert_close(found, logits(trained.path, trained), rtol=0, atol=1e-4)
    assert not list((tmp_path / "whole").glob("adapter*"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "whole")
    messages = [{"role": "user", "content": "Turn the light on."}]
    assert "Turn the light on." in str(tokenizer.apply_chat_template(messages, tokenize=False))


def test_a_point_on_the_line_made_whole_answers_like_the_point(trained: Checkpoint, tmp_path: Path) -> None:
    merge.derive(Blend(parts=(trained,), alpha=0.3), tmp_path / "point")
    point = plain.saved(tmp_path / "point", trained.base, adapter=trained.adapter)
    merge.whole(point, tmp_path / "whole")
    with torch.no_grad():
        found = plain_logits(plain_model(tmp_path / "whole"), TOKENS)
    torch.testing.assert_close(found, logits(point.path, trained), rtol=0, atol=1e-4)


def test_an_adapter_is_not_merged_into_a_base_without_its_layers(tmp_path: Path) -> None:
    learner_of(tiny_model(tmp_path / "base"), rank=4).save(tmp_path / "adapter")
    other = tiny_model(tmp_path / "other", num_hidden_layers=1)
    with pytest.raises(CheckpointError, match=r"other: has no layer model\.layers\.1\."):
        merge.whole(plain.saved(tmp_path / "adapter", other, adapter=True), tmp_path / "whole")
    assert not (tmp_path / "whole").exists()


def test_shapes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    """The sum of tensors of unlike shapes used to end in torch's own error, or, with one row, in a broadcast."""
    base, other = tiny_model(tmp_path / "base"), tiny_model(tmp_path / "other", hidden_size=32)
    learner_of(base, rank=4).save(tmp_path / "adapter")
    learner_of(base).save(tmp_path / "full")
    with pytest.raises(CheckpointError, match="other: "):
        merge.whole(plain.saved(tmp_path / "adapter", other, adapter=True), tmp_path / "whole")
    with pytest.raises(CheckpointError, match="other: "):
        merge.derive(Blend(parts=(plain.saved(tmp_path / "full", other, adapter=False),)), tmp_path / "half")
    assert not (tmp_path / "whole").exists()
    assert not (tmp_path / "half").exists()
