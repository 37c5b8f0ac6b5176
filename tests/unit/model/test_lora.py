"""The adapter: peft's arithmetic, peft's file format, and a clear refusal of what does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from temper.errors import CheckpointError
from temper.model import lora
from temper.model.load import open_model
from tests.tiny import tiny_model
from tests.unit.model import plain
from tests.unit.model.plain import learner_of, plain_logits, plain_model

TOKENS = (5, 9, 200, 31, 7, 7, 100)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain.write_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of rank 4, with values in B."""
    folder = tmp_path_factory.mktemp("trained") / "adapter"
    learner_of(base, rank=4).save(folder)
    return folder


@pytest.mark.parametrize("shape", [(11, 24), (2, 5, 24)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("input_trains", [False, True])
def test_a_layer_computes_what_peft_computes(shape: tuple[int, ...], bias: bool, input_trains: bool) -> None:
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(24, 40, bias=bias))
    wrapped = get_peft_model(model, LoraConfig(r=3, lora_alpha=7, target_modules=["0"], init_lora_weights=False))
    (layer,) = [m for m in wrapped.modules() if isinstance(m, lora.PeftLinear)]
    data, outside = torch.randn(shape), torch.randn(*shape[:-1], 40)
    results = []
    for forward in (layer.forward, lambda x: lora._forward(layer, x)):
        x = data.clone().requires_grad_(input_trains)
        wrapped.zero_grad()
        out = forward(x)
        (out * outside).sum().backward()
        a, b = layer.lora_A["default"].weight.grad, layer.lora_B["default"].weight.grad
        results.append([out.detach(), x.grad, a, b, layer.get_base_layer().weight.grad])
    for expected, found in zip(*results, strict=True):
        assert (found is None) == (expected is None)
        if expected is not None:
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_fresh_adapter_changes_nothing_and_sits_on_every_linear_layer_but_the_head(base: Path) -> None:
    model = open_model(base)
    with torch.no_grad():
        before = plain_logits(model, TOKENS)
    lora.attach(model, lora.config_for(4, 8.0))
    with torch.no_grad():
        torch.testing.assert_close(plain_logits(model, TOKENS), before)
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    layers = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj",
              "mlp.up_proj", "mlp.down_proj")  # fmt: skip
    assert trainable == {
        f"model.layers.{i}.{layer}.lora_{factor}.default.weight" for i in (0, 1) for layer in layers for factor in "AB"
    }


def test_what_starts_at_random_follows_the_seed_and_disturbs_no_other(base: Path) -> None:
    """A run killed before its first save used to begin again from another adapter: nothing fixed the draw of A."""
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    one = plain.weights_of(learner_of(base, rank=4, seed=5))
    assert torch.rand(1) == expected
    torch.manual_seed(2)
    same, other = (plain.weights_of(learner_of(base, rank=4, seed=s)) for s in (5, 6))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one if "lora_A" in name)


def test_plain_peft_reads_a_saved_adapter(base: Path, tmp_path: Path) -> None:
    learner = learner_of(base, rank=4)
    learner.save(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter/adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    foreign = PeftModel.from_pretrained(plain_model(base), str(tmp_path / "adapter"))
    with torch.no_grad():
        found = plain_logits(foreign, TOKENS).log_softmax(-1)
        start = plain_logits(plain_model(base), TOKENS).log_softmax(-1)
    own = learner.logprobs([plain.row(TOKENS)])[0]
    picked = [found[t, TOKENS[t + 1]].item() for t in range(len(TOKENS) - 1)]
    assert own == pytest.approx(picked, abs=1e-5)
    assert float((found - start).abs().max()) > 0.1  # the adapter does say something


def test_a_backend_answers_with_an_adapter(base: Path, adapter: Path) -> None:
    from temper.model.torch_backend import TorchBackend

    policy = TorchBackend().open(plain.saved(adapter, base, adapter=True))
    expected = learner_of(base, rank=4).logprobs([plain.row(TOKENS)])
    assert policy.learner.logprobs([plain.row(TOKENS)])[0] == pytest.approx(expected[0], abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"hidden_size": 32}, "of another shape"),
        ({"num_hidden_layers": 3}, "14 tensors missing, 0 too many"),
        ({"num_hidden_layers": 1}, "0 tensors missing, 14 too many"),
    ],
)
def test_an_adapter_of_another_base_is_refused(
    adapter: Path, tmp_path: Path, changes: dict[str, int], found: str
) -> None:
    """One of another width used to end in torch's list of size mismatches."""
    other = tiny_model(tmp_path / "other", **changes)
    with pytest.raises(CheckpointError, match=found) as error:
        learner_of(other, rank=4).load(plain.saved(adapter, other, adapter=True))
    assert str(error.value).startswith(f"{adapter}/adapter_model.safetensors: does not fit this base")
    assert "use the base named in adapter_config.json" in str(error.value)


def test_an_adapter_of_another_rank_is_refused_and_leaves_the_weights_alone(base: Path, adapter: Path) -> None:
    learner = learner_of(base, rank=8)
    before = plain.weights_of(learner)
    with pytest.raises(CheckpointError, match=r"does not fit this base and rank \(28 tensors of another shape, e\.g\."):
        learner.load(plain.saved(adapter, base, adapter=True))
    assert all(torch.equal(x, before[name]) for name, x in plain.weights_of(learner).items())


def test_an_adapter_folder_with_a_missing_tensor_a_missing_file_or_no_config_is_refused(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    (tmp_path / "part").mkdir()
    state = load_file(adapter / "adapter_model.safetensors")
    state.pop(min(state))
    save_file(state, tmp_path / "part" / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="1 tensors missing"):
        learner_of(base, rank=4).load(plain.saved(tmp_path / "part", base, adapter=True))
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors: no such file"):
        learner_of(base, rank=4).load(plain.saved(tmp_path, base, adapter=True))
    with pytest.raises(CheckpointError, match="not a LoRA adapter"):
        lora.read_config(tmp_path / "part")


def test_transposed_layers_are_refused(tmp_path: Path) -> None:
    """GPT-2 keeps its weights as [in, out]; where they are square, the product would have been wrong in silence."""
    folder = tiny_model(tmp_path / "gpt2", kind="gpt2", n_embd=64, n_layer=2, n_head=4)
    with pytest.raises(CheckpointError, match=r"gpt2: its layers hold transposed weights.*`adapter: full`"):
        learner_of(folder, rank=4)
    assert learner_of(folder).logprobs([plain.row(TOKENS)])


@pytest.mark.parametrize(
    ("field", "value"),
    [("use_dora", True), ("bias", "all"), ("modules_to_save", ["norm"]), ("trainable_token_indices", [5])],
)
def test_an_adapter_that_is_more_than_two_factors_is_refused(
    base: Path, tmp_path: Path, field: str, value: object
) -> None:
    """The magnitudes of a DoRA adapter were left out without a word, and its logits were those of another model."""
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], task_type="CAUSAL_LM", **{field: value})  # pyright: ignore[reportArgumentType]
    get_peft_model(plain_model(base), config).save_pretrained(tmp_path / "other")
    with pytest.raises(CheckpointError, match=rf"\({field}\).*merge_and_unload"):
        lora.read_config(tmp_path / "other")


def test_an_adapter_with_another_scale_per_layer_is_computed_as_peft_does(base: Path, tmp_path: Path) -> None:
    from temper.model.torch_backend import TorchBackend

    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], rank_pattern={"q_proj": 2}, use_rslora=True,
        alpha_pattern={"v_proj": 32}, init_lora_weights=False, task_type="CAUSAL_LM",
    )  # fmt: skip
    model = get_peft_model(plain_model(base), config).eval()
    model.save_pretrained(tmp_path / "other")
    policy = TorchBackend(dtype=torch.float32).open(plain.saved(tmp_path / "other", base, adapter=True))
    found = policy.learner.logprobs([plain.row(TOKENS)])[0]
    with torch.no_grad():
        expected = plain_logits(model, TOKENS).log_softmax(-1)
    assert found == pytest.approx([expected[t, TOKENS[t + 1]].item() for t in range(len(TOKENS) - 1)], abs=1e-5)
