"""The difference of a chat model and its base, added to what the base has become; told by weights and by logits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from temper.data.datum import Datum
from temper.errors import CheckpointError
from temper.losses import Term
from temper.model import residual
from temper.model.protocol import Checkpoint, Learner, Policy, Sampling, TrainSpec
from temper.model.torch_backend import TorchBackend
from tests.tiny import tiny_model

TOKENS = (5, 9, 20, 7, 33, 12, 8, 21)
DATUM = Datum(tokens=TOKENS, weights={"ce": (1.0,) * (len(TOKENS) - 1)})


def weights(folder: Path) -> Mapping[str, Tensor]:
    return load_file(folder / "model.safetensors")


def moved(folder: Path, by: float, seed: int) -> Path:
    """The model of a folder with noise on all weights."""
    torch.manual_seed(seed)
    noisy = {name: x + by * torch.randn_like(x) for name, x in weights(folder).items()}
    save_file(noisy, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def logits(folder: Path) -> Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(torch.tensor([TOKENS])).logits[0]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A chat model and its base."""
    return moved(tiny_model(tmp_path / "instruct"), 0.02, seed=1), tiny_model(tmp_path / "base")


def opened(pair: tuple[Path, Path], rank: int | None) -> Policy:
    instruct, base = pair
    start = Checkpoint(id="base", path=instruct, base=instruct)
    return residual.open_pair(TorchBackend().open, start, base, TrainSpec(rank=rank))


def learn(learner: Learner, steps: int) -> None:
    for _ in range(steps):
        learner.forward_backward([DATUM], (Term(loss="ce"),))
        learner.optim_step(1e-2)


def saved(path: Path, pair: tuple[Path, Path], rank: int | None) -> Checkpoint:
    return Checkpoint(id="01-cpt/step-3", path=path, base=pair[0], adapter=rank is not None)


def alone(tmp_path: Path, base: Path, rank: int | None) -> Checkpoint:
    """The base after three steps, trained by itself."""
    learner = TorchBackend().open(Checkpoint(id="b", path=base, base=base), TrainSpec(rank=rank)).learner
    learn(learner, 3)
    learner.save(tmp_path / "alone")
    return Checkpoint(id="x", path=tmp_path / "alone", base=base, adapter=rank is not None)


@pytest.mark.parametrize("rank", [None, 4])
def test_the_result_is_the_trained_base_with_the_whole_difference_added(
    tmp_path: Path, pair: tuple[Path, Path], rank: int | None
) -> None:
    """Worked out from the four models' weights: trained + (instruct - base), read back by plain transformers."""
    instruct, base = pair
    learner = opened(pair, rank).learner
    learner.load(Checkpoint(id="base", path=instruct, base=instruct))
    learn(learner, 3)
    learner.save(tmp_path / "step-3")
    TorchBackend().whole(saved(tmp_path / "step-3", pair, rank), tmp_path / "whole")
    TorchBackend().whole(alone(tmp_path, base, rank), tmp_path / "trained")
    before, chat, after = weights(base), weights(instruct), weights(tmp_path / "trained")
    expected = tiny_model(tmp_path / "expected")
    summed = {name: after[name] + chat[name] - before[name] for name in after}
    save_file(summed, expected / "model.safetensors", metadata={"format": "pt"})
    assert float((logits(tmp_path / "whole") - logits(expected)).abs().max()) < 1e-5
    for other in (instruct, base, tmp_path / "trained"):
        assert float((logits(tmp_path / "whole") - logits(other)).abs().max()) > 0.01
    assert AutoTokenizer.from_pretrained(tmp_path / "whole").chat_template
    plain = torch.log_softmax(logits(expected), dim=-1)
    wanted = [float(plain[t, TOKENS[t + 1]]) for t in range(len(TOKENS) - 1)]
    assert learner.logprobs([DATUM])[0] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("rank", [None, 4])
def test_it_answers_with_what_was_learnt_by_now_before_anything_is_saved(
    pair: tuple[Path, Path], rank: int | None
) -> None:
    policy = opened(pair, rank)
    first = policy.learner.logprobs([DATUM])[0]
    plain = torch.log_softmax(logits(pair[0]), dim=-1)
    assert first == pytest.approx([float(plain[t, TOKENS[t + 1]]) for t in range(len(TOKENS) - 1)], abs=1e-4)
    learn(policy.learner, 8)
    assert sum(policy.learner.logprobs([DATUM])[0]) > sum(first) + 1
    prompt, sampling = TOKENS[:3], Sampling(max_new_tokens=4)
    (reply,) = policy.sampler.generate([prompt], sampling)
    scored = Datum(tokens=(*prompt, *reply.tokens), weights={"ce": (0.0,) * 2 + (1.0,) * len(reply.tokens)})
    assert policy.learner.logprobs([scored])[0] == pytest.approx(reply.logprobs, abs=1e-4)


@pytest.mark.parametrize("rank", [None, 4])
def test_training_goes_on_from_a_saved_state_as_if_nothing_had_happened(
    tmp_path: Path, pair: tuple[Path, Path], rank: int | None
) -> None:
    whole = opened(pair, rank).learner
    learn(whole, 4)
    stopped = opened(pair, rank).learner
    learn(stopped, 2)
    stopped.save(tmp_path / "step-2")
    again = opened(pair, rank).learner
    again.load(saved(tmp_path / "step-2", pair, rank), resume=True)
    assert again.step == 2
    assert json.loads((tmp_path / "step-2" / "trainer" / "state.json").read_text())["step"] == 2
    learn(again, 2)
    assert again.logprobs([DATUM]) == whole.logprobs([DATUM])


def test_the_start_is_the_chat_model_and_an_adapter_says_so(tmp_path: Path, pair: tuple[Path, Path]) -> None:
    learner = opened(pair, 4).learner
    first = learner.logprobs([DATUM])
    learn(learner, 3)
    learner.save(tmp_path / "step-3")
    told = json.loads((tmp_path / "step-3" / "adapter_config.json").read_text(encoding="utf-8"))
    assert told["base_model_name_or_path"] == str(pair[0])
    learner.load(Checkpoint(id="base", path=pair[0], base=pair[0]))
    assert learner.step == 0
    assert learner.logprobs([DATUM]) == first


def test_another_shape_is_refused_with_the_tensor(tmp_path: Path) -> None:
    base, wide = tiny_model(tmp_path / "base"), tiny_model(tmp_path / "wide", intermediate_size=96)
    with pytest.raises(CheckpointError, match=r"was not made from .*mlp.*96 x 64|64 x 96.* and .*128.*leave residual"):
        residual.require_kin(wide, base)
    deep = tiny_model(tmp_path / "deep", num_hidden_layers=3)
    with pytest.raises(CheckpointError, match=r"layers\.2.* and missing"):
        residual.require_kin(deep, base)


def test_another_architecture_is_refused_by_name(tmp_path: Path) -> None:
    base, other = tiny_model(tmp_path / "base"), tiny_model(tmp_path / "other", kind="qwen2")
    with pytest.raises(CheckpointError, match="model_type is qwen2 and llama"):
        residual.require_kin(other, base)


def test_another_vocabulary_is_refused_and_a_renamed_special_token_is_not(pair: tuple[Path, Path]) -> None:
    instruct, base = pair
    path = instruct / "tokenizer.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    (special,) = (token for token in document["added_tokens"] if token["content"] == "<end_of_turn>")
    vocabulary = document["model"]["vocab"]
    vocabulary["<turn>"] = vocabulary.pop("<end_of_turn>")
    special["content"] = "<turn>"
    path.write_text(json.dumps(document), encoding="utf-8")
    residual.require_kin(instruct, base)
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"the vocabularies differ in 4 entries, e\.g\. 'a'"):
        residual.require_kin(instruct, base)


def test_strangers_are_refused_when_they_are_opened(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="leave residual out"):
        opened((tiny_model(tmp_path / "wide", intermediate_size=96), tiny_model(tmp_path / "base")), 4)
