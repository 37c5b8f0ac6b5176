"""The judge as a reward, against the server that the probe's tests use."""

from __future__ import annotations

from pathlib import Path

import pytest

from temper.data.row import Message
from temper.errors import RecipeError
from temper.probes import endpoint
from temper.rollout.grading import Limits, grade
from temper.rollout.judge import question
from temper.rollout.reward import load_reward
from temper.rollout.score import RewardError
from temper.rollout.task import Task
from tests.unit.probes.test_judge import Server, serving

GIVEN = Task(
    id="1", messages=(Message(role="user", content="Sell it."),), reference="Buy!", origin="ads.jsonl:1",
    fields={"rubric": "It is short."},
)  # fmt: skip


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(endpoint, "WAITS", (0.0,) * 4)


def test_a_mark_is_a_score_and_an_unreadable_one_an_error():
    marks = {"good": "[[10]]", "fair": "[[5.5]]", "bad": "[[1]]", "odd": "Well..."}
    with serving(Server(answer=lambda p: marks[next(w for w in marks if f"answer:\n{w}" in p)])) as server:
        reward = load_reward({"judge": {"base_url": server.url, "model": "m"}})
        scores = grade(reward, [GIVEN] * 4, list(marks))
    assert [s.value for s in scores[:3]] == [1.0, 0.5, 0.0]  # (10 - 1) / 9, (5.5 - 1) / 9, (1 - 1) / 9
    assert not scores[3].counts
    assert "reward judge on ads.jsonl:1: the judge's answer holds no mark such as [[5]]: 'Well...'" in scores[3].note


def test_a_judge_that_gives_no_marks_stops_the_run():
    with serving(Server(answer=lambda _: "I like it.")) as server:
        reward = load_reward({"judge": {"base_url": server.url, "model": "m"}})
        with pytest.raises(RewardError, match="2 of 2 replies could not be graded"):
            grade(reward, [GIVEN] * 2, ["a", "b"])


def test_it_stands_in_a_sum_beside_a_local_reward():
    with serving(Server(answer=lambda _: "[[10]]")) as server:
        value = {
            "sum": [
                {"reward": {"judge": {"base_url": server.url, "model": "m"}}, "weight": 0.25},
                {"reward": "exact", "weight": 0.75},
            ]
        }
        scores = grade(load_reward(value), [GIVEN] * 2, ["Buy!", "No."], limits=Limits(workers=1))
    assert [s.value for s in scores] == [1.0, 0.25]
    assert scores[1].parts == {"judge": 1.0, "exact": 0.0}


def test_the_judge_reads_the_conversation_the_reference_and_the_tasks_rubric():
    told = question(GIVEN, "Come in!", rubric="It is long.")
    assert all(part in told for part in ("[user]\nSell it.", "Buy!", "It is short.", "The answer:\nCome in!"))
    assert "It is long." not in told


def test_a_judge_without_address_or_key_is_refused_before_it_is_asked():
    with pytest.raises(RecipeError, match="base_url: found 'localhost:1'"):
        load_reward({"judge": {"base_url": "localhost:1", "model": "m"}})
    with pytest.raises(RecipeError, match="export TEMPER_NO_SUCH_KEY="):
        load_reward({"judge": {"base_url": "http://x", "model": "m", "key_env": "TEMPER_NO_SUCH_KEY"}})
    with pytest.raises(RecipeError, match="seconds -1"):
        load_reward({"judge": {"base_url": "http://x", "model": "m", "seconds": -1}})
    with pytest.raises(RecipeError, match="found no model"):
        load_reward({"judge": {"base_url": "http://x"}})
