"""The judge against a server of ours on this machine: what is sent, what is retried, and what never leaves."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from temper.errors import DataError, RecipeError
from temper.probes import endpoint
from temper.probes.base import ProbeSpec
from temper.probes.judge import judge, judge_pair, read_mark, read_winner
from tests.server import Asked, Reply, listening
from tests.unit.probes.bigram import Table, Words

KEY = "sk-very-secret"


@dataclass
class Server:
    """An endpoint whose answers a test writes down."""

    answer: Callable[[str], str]
    fail: list[int] = field(default_factory=list)
    """Statuses of the next replies, before it answers."""
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    url: str = ""
    said: dict[str, Any] | None = None
    """The whole document of every reply, instead of a chat completion."""
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    def answer(asked: Asked) -> Reply:
        with server.lock:
            server.asked.append(asked.body)
            server.keys.append(asked.key)
            server.paths.append(asked.path)
            status = server.fail.pop(0) if server.fail else 200
        text = server.answer(asked.body["messages"][-1]["content"])
        said = {"choices": [{"message": {"content": text}}]} if status == 200 else {"error": f"bad key {KEY}"}
        body = json.dumps(said if server.said is None else server.said).encode()
        return Reply(status=status, body=body, headers=server.headers)

    with listening(answer) as address:
        server.url = f"{address}/v1"
        yield server


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("JUDGE_KEY", KEY)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(endpoint, "WAITS", (0.0,) * 4)


def spec_for(server: Server, kind: str = "judge") -> ProbeSpec:
    options = {"base_url": server.url, "model": "m", "key_env": "JUDGE_KEY"}
    return ProbeSpec(name="taste", axis="behaviour", kind=kind, source="t", max_new_tokens=9, options=options)


def ask(server: Server, replies: dict[str, str], *, kind: str = "judge", **fields: Any) -> Any:
    model = Table(Words(), replies=replies)
    function = judge if kind == "judge" else judge_pair
    items = [{"id": p, "prompt": p, **fields} for p in replies]
    return function(model.policy, model.words, spec_for(server, kind), items)


def test_a_mark_from_1_to_10_becomes_a_share_and_is_asked_for_once():
    marks = {"good": "[[10]]", "fair": "[[5.5]]", "bad": "[[1]]"}
    replies = {"a": "good", "b": "fair", "c": "bad"}
    with serving(Server(answer=lambda p: marks[next(w for w in marks if f"answer:\n{w}" in p)])) as server:
        for _ in range(2):
            found = ask(server, replies, rubric="Be brief.", reference="42")
            assert [o.value for o in found] == [1.0, 0.5, 0.0]  # (10 - 1) / 9, (5.5 - 1) / 9, (1 - 1) / 9
        assert len(server.asked) == 3, "the second time everything is known"
        assert set(server.keys) == {f"Bearer {KEY}"}
        assert set(server.paths) == {"/v1/chat/completions"}
        told = server.asked[0]["messages"][0]["content"]
        assert "Be brief." in told and "42" in told and "[user]" in told
        assert (server.asked[0]["model"], server.asked[0]["temperature"]) == ("m", 0)


def test_a_judge_that_favours_the_first_place_adds_nothing_and_a_fair_one_decides():
    replies = {"a": "new words", "b": "same"}
    with serving(Server(answer=lambda _: "[[A]]")) as server:
        biased = ask(server, replies, kind="judge-pair", reply="same")
        assert [o.value for o in biased] == [0.5, 0.5]
        assert len(server.asked) == 2, "equal replies are not sent"
        assert [o.parts["same"] for o in biased] == [0.0, 1.0]
    with serving(Server(answer=lambda p: "[[A]]" if "Answer A:\nnew words" in p else "[[B]]")) as server:
        assert [o.value for o in ask(server, replies, kind="judge-pair", reply="same")] == [1.0, 0.5]
    with serving(Server(answer=lambda p: "[[C]]" if "Answer A:\nnew words" in p else "[[A]]")) as server:
        # equal in one order, lost in the other: (0.5 + 0) / 2
        assert ask(server, replies, kind="judge-pair", reply="same")[0].value == 0.25


@pytest.mark.parametrize(
    ("answer", "value", "read"),
    [
        ("Fine. [[7]]", 6 / 9, True),
        ("[[3]] ... no, [[4/10]]", 3 / 9, True),
        ("It is good.\nScore: 10/10", 1.0, True),
        ("**9**", 8 / 9, True),
        ("[[11]]", 0.5, False),
        ("very good", 0.5, False),
    ],
)
def test_marks_are_read_from_what_judges_write(answer: str, value: float, read: bool):
    found = read_mark(answer)
    assert (found.value, found.read) == (pytest.approx(value), read)


def test_winners_are_read_from_the_last_brackets():
    assert [read_winner(t).value for t in ("[[A]]", "[[A]] or rather [[B]]", "[[C]]", "A")] == [1.0, 0.0, 0.5, 0.5]
    assert not read_winner("A").read


def test_a_judge_that_gives_no_marks_is_an_error_not_a_result():
    with (
        serving(Server(answer=lambda _: "I like it.")) as server,
        pytest.raises(DataError, match=r"probe taste: 3 of 3 answers of the judge 'm' hold no mark"),
    ):
        ask(server, {"a": "x", "b": "y", "c": "z"})


@pytest.mark.parametrize("status", [429, 503])
def test_what_may_pass_is_tried_again(status: int):
    with serving(Server(answer=lambda _: "[[10]]", fail=[status, status], headers={"Retry-After": "0"})) as server:
        assert ask(server, {"a": "x"})[0].value == 1.0
        assert len(server.asked) == 3


def test_an_endpoint_that_stays_down_is_an_error_that_keeps_what_was_answered():
    with serving(Server(answer=lambda _: "[[10]]", fail=[500] * 99)) as server:
        with pytest.raises(RecipeError, match=r"no answer in 5 tries \(the last: HTTP 500 .*answers so far are kept"):
            ask(server, {"a": "x"})
        assert len(server.asked) == 5


def test_a_refusal_is_told_at_once_and_never_shows_the_key():
    with serving(Server(answer=lambda _: "", fail=[401] * 99)) as server:
        with pytest.raises(RecipeError, match=r"answers HTTP 401 .*bad key \*\*\*") as caught:
            ask(server, {"a": "x"})
        assert len(server.asked) == 1
        assert KEY not in str(caught.value)
        spec = spec_for(server)
        assert KEY not in repr(endpoint.Endpoint.of(spec))


def test_a_redirect_is_not_followed():
    """What the recipe did not name gets nothing: not the prompts, not the key."""
    with (
        serving(Server(answer=lambda _: "[[10]]")) as other,
        serving(
            Server(answer=lambda _: "", fail=[307], headers={"Location": f"{other.url}/chat/completions"})
        ) as server,
    ):
        with pytest.raises(RecipeError, match="HTTP 307"):
            ask(server, {"a": "x"})
        assert other.asked == []


def test_no_file_of_the_cache_holds_the_key(tmp_path: Path):
    with serving(Server(answer=lambda _: "[[10]]")) as server:
        ask(server, {"a": "x"})
    files = [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    assert files
    assert all(KEY not in p.read_text(encoding="utf-8") + p.name for p in files)


def test_a_key_that_is_not_set_is_told_before_anything_is_generated(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("JUDGE_KEY")
    model = Table(Words(), replies={"a": "x"})
    with pytest.raises(RecipeError, match=r"key_env names the environment variable JUDGE_KEY, which is not set"):
        judge(model.policy, model.words, spec_for(Server(answer=str, url="http://127.0.0.1:9/v1")), [])
    assert model.generated == 0


def test_what_does_not_speak_the_protocol_is_named():
    with (
        serving(Server(answer=str, said={"hello": "world"})) as server,
        pytest.raises(RecipeError, match=r"answers '\{\"hello\": \"world\"\}'; expected the JSON of a chat completion"),
    ):
        ask(server, {"a": "x"})


def test_an_address_that_is_none_is_named():
    bad = ProbeSpec(name="taste", axis="a", kind="judge", source="t", options={"base_url": "ftp://x", "model": "m"})
    with pytest.raises(RecipeError, match=r"base_url: found 'ftp://x'; expected an address such as"):
        judge(Table(Words()).policy, Words(), bad, [])


@pytest.mark.parametrize(
    ("key", "options", "said"),
    [
        ("sk-very\nsecret", {"key_env": "JUDGE_KEY"}, "names the environment variable JUDGE_KEY, whose content is no"),
        (KEY, {"seconds": float("inf")}, "probe taste: seconds inf; expected more than 0 and at most 86400"),
    ],
)
def test_a_key_or_limit_that_cannot_work_is_refused_before_anything_is_asked(
    key: str, options: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
):
    """They were tried; the error of http.client showed the key."""
    monkeypatch.setenv("JUDGE_KEY", key)
    options = {"base_url": "http://localhost:1", "model": "m", **options}
    spec = ProbeSpec(name="taste", axis="a", kind="judge", source="t", options=options)
    with pytest.raises(RecipeError, match=said) as told:
        judge(Table(Words()).policy, Words(), spec, [])
    assert "very" not in str(told.value)
