"""The sampler behind a server: what it sends, what it makes of the answers, and what it says when they are wrong."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from temper.errors import RecipeError
from temper.model.protocol import Completion, Sampling
from temper.rollout.server import VllmServer

SAMPLING = Sampling(max_new_tokens=3, temperature=1.0, seed=1, stop=(9,))
Answer = tuple[int, Any]


class Served:
    """A server that answers as it is told and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.answers: dict[str, Callable[[Any], Answer]] = {
            "/v1/models": lambda _: (200, {"data": [{"id": "base"}]}),
            "/v1/completions": self.complete,
            "/v1/load_lora_adapter": lambda _: (200, "Success: LoRA adapter added."),
            "/v1/unload_lora_adapter": lambda _: (200, "Success: LoRA adapter removed."),
        }
        self.url = ""

    def complete(self, body: Mapping[str, Any]) -> Answer:
        """The last token of the prompt three times, or once and then the end where it is even."""
        last = body["prompt"][-1]
        tokens = [last, 9] if last % 2 == 0 else [last] * 3
        values = [-0.5 * n for n in range(len(tokens))]
        logprobs = {"tokens": [f"token_id:{t}" for t in tokens], "token_logprobs": values}
        return 200, {"choices": [{"text": "", "logprobs": logprobs}]}


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(None)

        def do_POST(self) -> None:
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, body: Any) -> None:
            served.asked.append((self.path, body))
            code, told = served.answers[self.path](body)
            said = (told if isinstance(told, str) else json.dumps(told)).encode()
            self.send_response(code)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing is printed."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}"
    yield served
    server.shutdown()
    thread.join()
    server.server_close()


def sampler(served: Served) -> VllmServer:
    return VllmServer(url=f"{served.url}/v1", where="stages.0.sampler", sleep=lambda _: None)


@pytest.mark.slow
def test_tokens_come_back_in_order_with_their_log_probabilities(served: Served):
    heard: list[tuple[int, int]] = []
    found = sampler(served).generate([(5, 7), (5, 4)], SAMPLING, on_token=lambda *told: heard.append(told))
    assert found == [
        Completion(tokens=(7, 7, 7), logprobs=(0.0, -0.5, -1.0), finished=False),
        Completion(tokens=(4,), logprobs=(0.0, -0.5), finished=True),
    ]
    assert heard == [(0, 7), (0, 7), (0, 7), (1, 4)]
    bodies = [body for path, body in served.asked if path == "/v1/completions"]
    assert {body["model"] for body in bodies} == {"base"} and len({body["seed"] for body in bodies}) == 2
    assert all(body["stop_token_ids"] == [9] and body["return_tokens_as_token_ids"] for body in bodies)


@pytest.mark.slow
def test_an_adapter_is_loaded_answers_and_makes_room_for_the_next(served: Served, tmp_path: Path):
    found = sampler(served)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        found.follow(tmp_path / name)
    found.generate([(1,)], SAMPLING)
    loaded = [body for path, body in served.asked if path == "/v1/load_lora_adapter"]
    unloaded = [body for path, body in served.asked if path == "/v1/unload_lora_adapter"]
    assert [body["lora_path"] for body in loaded] == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert [body["lora_name"] for body in unloaded] == [loaded[0]["lora_name"]]
    assert served.asked[-1][1]["model"] == loaded[1]["lora_name"] != loaded[0]["lora_name"]


@pytest.mark.slow
def test_nothing_is_asked_for_nothing(served: Served):
    found = sampler(served)
    assert found.generate([], SAMPLING) == []
    assert found.generate([(1,)], Sampling(max_new_tokens=0)) == [Completion(tokens=(), logprobs=(), finished=False)]
    assert [path for path, _ in served.asked] == ["/v1/models"]


@pytest.mark.slow
def test_a_server_that_is_busy_is_asked_again(served: Served):
    answers = iter([(503, "busy"), (429, "slow down")])
    served.answers["/v1/completions"] = lambda body: next(answers, None) or served.complete(body)
    assert sampler(served).generate([(2,)], SAMPLING)[0].finished


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "answer", "message"),
    [
        ("/v1/models", (200, {"models": []}), r"something else than a list of models; expected a server of vLLM"),
        ("/v1/completions", (400, "too long"), r"HTTP 400 \(too long\); expected .* vllm serve MODEL --enable-lora"),
        ("/v1/completions", (200, {"choices": [{"text": "hi", "logprobs": None}]}), r"than a completion whose tokens"),
        ("/v1/completions", (200, {"choices": [{"logprobs": {"tokens": ["hi"], "token_logprobs": [0.0]}}]}), r"ids"),
        ("/v1/completions", (500, "lost"), r"gave no answer in 4 tries \(the last: HTTP 500 \(lost\)\)"),
        ("/v1/load_lora_adapter", (404, "Not Found"), r"/v1/load_lora_adapter answers HTTP 404 .*LORA_UPDATING=1"),
    ],
)
def test_an_answer_of_another_kind_is_named(served: Served, tmp_path: Path, path: str, answer: Answer, message: str):
    served.answers[path] = lambda _: answer
    with pytest.raises(RecipeError, match=rf"stages.0.sampler: {served.url}.*{message}"):
        found = sampler(served)
        found.follow(tmp_path)
        found.generate([(1,)], SAMPLING)


def test_a_server_that_is_down_is_named():
    with pytest.raises(RecipeError, match=r"127.0.0.1:9/v1/models gave no answer in 4 tries .* is up; start it with"):
        VllmServer(url="http://127.0.0.1:9", where="stages.0.sampler", sleep=lambda _: None)
