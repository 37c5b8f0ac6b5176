"""A reward behind HTTP, against a server of ours on this machine."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from temper.data.row import Message
from temper.errors import RecipeError
from temper.rollout.endpoint import Remote
from temper.rollout.grading import Limits, grade
from temper.rollout.reward import load_reward
from temper.rollout.score import Outcome, RewardError
from temper.rollout.task import Task
from tests.server import Asked, Reply, listening

TOKEN = "tok-very-secret"


@dataclass
class Server:
    """An endpoint whose answers a test writes down."""

    score: Callable[[dict[str, Any]], Any]
    fail: list[int] = field(default_factory=list)
    """Statuses of the next replies, before it answers; 0 waits too long."""
    body: bytes = b""
    """Instead of an answer."""
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    def answer(asked: Asked) -> Reply:
        with server.lock:
            server.asked.append(asked.body)
            server.tokens.append(asked.key)
            status = server.fail.pop(0) if server.fail else 200
        if status == 0:
            time.sleep(0.5)
            status = 500
        said: Any = {"detail": f"bad token {TOKEN}"}
        if status == 200:
            said = {"scores": [server.score(item) for item in asked.body["items"]]}
        return Reply(status=status, body=server.body or json.dumps(said).encode(), headers=server.headers)

    with listening(answer) as address:
        server.url = f"{address}/score"
        yield server


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REWARD_TOKEN", TOKEN)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def tasks(count: int) -> list[Task]:
    return [
        Task(id=str(n), messages=(Message(role="user", content=f"q{n}"),), reference=str(n), origin=f"t.jsonl:{n}")
        for n in range(count)
    ]


def test_replies_are_sent_in_batches_and_scores_come_back_in_order():
    def score(item: dict[str, Any]) -> float:
        return float(item["reply"] == item["task"]["reference"])

    with serving(Server(score=score)) as server:
        reward = load_reward({"endpoint": {"url": server.url, "token_env": "REWARD_TOKEN", "batch": 4}})
        scores = grade(reward, tasks(10), [str(n - n % 2) for n in range(10)])
        assert [s.value for s in scores] == [1.0, 0.0] * 5
        assert sorted(len(body["items"]) for body in server.asked) == [2, 4, 4]
        assert set(server.tokens) == {f"Bearer {TOKEN}"}
        sent = server.asked[0]["items"][0]["task"]
        assert sent["prompt"].startswith("q") and sent["messages"][0]["role"] == "user"
        assert TOKEN not in repr(reward), "a recipe and a log may show it"


def test_scores_may_be_objects_and_what_is_none_is_an_error_of_that_reply():
    said: dict[str, Any] = {
        "number": 1,
        "object": {"value": 0.5, "parts": {"tone": 0.5}, "outcome": "unparsable"},
        "null": None,
        "failed": {"error": "model overloaded"},
        "text": "good",
        "outcome": {"value": 1.0, "outcome": "great"},
    }
    with serving(Server(score=lambda item: said[item["reply"]])) as server:
        reward = load_reward({"endpoint": {"url": server.url}})
        scores = dict(zip(said, grade(reward, tasks(6), list(said), limits=Limits(errors=1.0)), strict=True))
        assert server.tokens == [""], "no token, no header"
    assert scores["number"].value == 1.0
    assert (scores["object"].value, scores["object"].outcome) == (0.5, Outcome.UNPARSABLE)
    assert scores["object"].parts == {"tone": 0.5}
    assert [name for name, score in scores.items() if not score.counts] == ["null", "failed", "text", "outcome"]
    assert "model overloaded" in scores["failed"].note


def test_what_passes_is_tried_again_with_growing_waits():
    waits: list[float] = []
    with serving(Server(score=lambda _: 1.0, fail=[503, 0, 429, 500])) as server:
        remote = Remote(url=server.url, timeout=0.2, retries=4, sleep=waits.append)
        assert remote.score(tasks(1), ["x"], batch=8)[0].value == 1.0
        assert waits == [1.0, 2.0, 4.0, 8.0]
        server.fail[:] = [503]
        server.headers["Retry-After"] = "7"
        remote.score(tasks(1), ["x"], batch=8)
        assert waits[-1] == 7.0


def test_an_endpoint_that_stays_down_is_named():
    with serving(Server(score=lambda _: 1.0, fail=[500] * 9)) as server:
        remote = Remote(url=server.url, retries=2, sleep=lambda _: None)
        with pytest.raises(RewardError, match=r"/score gave no answer in 3 tries \(the last: HTTP 500"):
            remote.score(tasks(1), ["x"], batch=8)
        assert len(server.asked) == 3
        address = server.url
    with pytest.raises(RewardError, match=r"gave no answer in 1 tries \(the last: .*refused.*start it and run again"):
        Remote(url=address, retries=0).score(tasks(1), ["x"], batch=8)


@pytest.mark.parametrize("status", [400, 401, 302])
def test_a_refusal_is_final_and_does_not_repeat_the_token(status: int):
    with serving(Server(score=lambda _: 1.0, fail=[status] * 9)) as server:
        server.headers["Location"] = server.url
        remote = Remote(url=server.url, token=TOKEN, sleep=lambda _: None)
        with pytest.raises(RewardError, match=f"answers HTTP {status}") as told:
            remote.score(tasks(1), ["x"], batch=8)
        assert len(server.asked) == 1, "neither tried again nor followed"
        assert TOKEN not in str(told.value) and "***" in str(told.value)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"<html>", "'<html>'; expected"),
        (b"[]", r"'\[\]'; expected"),
        (b'{"scores": [1, 2]}', "answers 2 scores; expected .* with 1 scores"),
        (b'{"scores": 1}', "expected"),
    ],
)
def test_an_answer_in_another_form_is_refused(body: bytes, told: str):
    with serving(Server(score=lambda _: 1.0, body=body)) as server, pytest.raises(RewardError, match=told):
        Remote(url=server.url, sleep=lambda _: None).score(tasks(1), ["x"], batch=8)


@pytest.mark.parametrize(
    "url", ["localhost:80", "http://", "http://.x/", "http://x:abc/", "http://[::1/", "http://a b/", "http://x/\u00e9"]
)
def test_what_is_no_address_is_refused_before_anything_is_sampled(url: str):
    """Some of these ended the run with a traceback, others were tried five times."""
    with pytest.raises(RecipeError, match=r"endpoint: url: found .*expected an address such as"):
        load_reward({"endpoint": {"url": url}})


@pytest.mark.parametrize("token", ["tok-very\nsecret", "tok-very-secret\u0142"])
def test_a_token_that_no_header_carries_is_refused_and_not_shown(token: str, monkeypatch: pytest.MonkeyPatch):
    """The error of http.client showed it, in a traceback that is kept in a file."""
    monkeypatch.setenv("REWARD_TOKEN", token)
    with pytest.raises(RecipeError, match="variable REWARD_TOKEN, whose content is no secret") as told:
        load_reward({"endpoint": {"url": "http://localhost:1", "token_env": "REWARD_TOKEN"}})
    assert "very" not in str(told.value)


@pytest.mark.parametrize("params", [{"timeout": float("inf")}, {"timeout": 0}, {"batch": 0}, {"retries": -1}])
def test_a_limit_that_cannot_be_kept_is_refused(params: dict[str, Any]):
    with pytest.raises(RecipeError, match=f"endpoint: {next(iter(params))} .*; expected"):
        load_reward({"endpoint": {"url": "http://localhost:1", **params}})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "drop", "told"),
    [
        (200, b" ", "TimeoutError: the answer did not end in time"),
        (500, b"", r"HTTP 500 \(\)"),
        (500, b" ", r"HTTP 500 \(\)"),
    ],
)
def test_an_answer_that_trickles_in_is_given_up_in_time(status: int, drop: bytes, told: str):
    """The limit of the socket holds for each read, so that such an endpoint held a run for as long as it liked."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_trickle, args=(listener, status, drop), daemon=True).start()
        started = time.monotonic()
        with pytest.raises(RewardError, match=told):
            Remote(url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=1.0, retries=0).score(
                tasks(1), ["x"], batch=8
            )
        assert time.monotonic() - started < 4


def _trickle(listener: socket.socket, status: int, drop: bytes) -> None:
    """A blank every now and then, or not even that."""
    with suppress(OSError), listener.accept()[0] as line:
        line.recv(1 << 16)
        line.sendall(f"HTTP/1.1 {status} X\r\nContent-Length: 1000\r\n\r\n".encode())
        for _ in range(50):
            line.sendall(drop)
            time.sleep(0.1)
