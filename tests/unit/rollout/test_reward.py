"""A reward of the user's own is run by somebody who expects the worst of it."""

from __future__ import annotations

import json
import math
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from temper.data.row import Message
from temper.errors import DataError, RecipeError, TemperError
from temper.rollout.grading import Grader, Limits, grade
from temper.rollout.reward import Reward, check_tasks, load_reward
from temper.rollout.score import Outcome, RewardError, Score, as_score
from temper.rollout.task import Task

BAD = """
import os, sys, time
import numpy as np
from temper.rollout.score import Score, reward

DEEDS = {
    "good": lambda: 0.25,
    "raise": lambda: 1 / 0,
    "none": lambda: None,
    "nan": lambda: float("nan"),
    "inf": lambda: float("-inf"),
    "text": lambda: "0.5",
    "true": lambda: True,
    "numpy": lambda: np.float32(0.25),
    "numpy true": lambda: np.float32(1) > 0,
    "array": lambda: np.array([0.25]),
    "whole": lambda: 1,
    "exit": lambda: sys.exit(0),
    "os exit": lambda: os._exit(7),
    "import": lambda: __import__("no_such_package"),
    "field": lambda: 1 / 0,
    "hang": lambda: time.sleep(60),
    "ask": lambda: input("well? "),
    "score": lambda: Score(value=0.5, outcome="unparsable", parts={"form": np.float64(0.5)}),
    "bad score": lambda: Score(value=float("nan")),
    "bad part": lambda: Score(value=0.5, parts={"form": "much"}),
    "bad outcome": lambda: Score(value=0.5, outcome="superb"),
}

def act(task, reply):
    if reply == "print":
        print("hello")
        os.write(1, b"loud\\n")
        return 0.25
    if reply == "missing":
        return task["amount"]
    return DEEDS[reply]()

def scaled(task, reply, *, factor: float, kind: str = "plain"):
    return factor * float(reply == task["reference"])

@reward(needs=("amount",), low=-1.0, high=2.0)
def declared(task, reply):
    return 2.0

def three(task, reply, third):
    return 0.0

async def later(task, reply):
    return 0.0

NUMBER = 5
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rewards.py").write_text(BAD, encoding="utf-8")
    return tmp_path


def task(number: int = 1, reference: str = "r", **fields: Any) -> Task:
    return Task(
        id=str(number), messages=(Message(role="user", content=f"q{number}"),), reference=reference,
        origin=f"claims.jsonl:{number}", fields=fields,
    )  # fmt: skip


def graded(reward: Reward, *replies: str, **limits: Any) -> list[Score]:
    tasks = [task(number) for number, _ in enumerate(replies, start=1)]
    return grade(reward, tasks, replies, limits=Limits(errors=1.0, workers=1, **limits))


def test_every_misdeed_is_an_error_of_its_own_reply_alone_and_says_what_happened(folder: Path):
    told = {
        "raise": "ZeroDivisionError: division by zero (rewards.py:8)",
        "none": "returned None; expected a number or a Score; is a return missing on some path?",
        "nan": "returned nan; expected a finite number",
        "inf": "returned -inf; expected a finite number",
        "text": "returned '0.5', a str; expected a number",
        "true": "returned True; expected a number or a Score; write float(...) around it",
        "numpy true": "returned True; expected a number",
        "array": "a ndarray; expected a number",
        "exit": "ended with sys.exit(0) (rewards.py:18)",
        "os exit": "ended its process (exit code 7)",
        "import": "ModuleNotFoundError: No module named 'no_such_package'",
        "missing": "KeyError: the task has no 'amount'; it has id, messages, prompt, reference",
        "ask": "EOFError",
        "bad score": "returned a Score whose value is wrong: nan",
        "bad part": "expected a finite number",
        "bad outcome": "'superb' is not a valid Outcome",
    }
    replies = [reply for deed in told for reply in (deed, "good")]
    scores = graded(load_reward("rewards.py:act", folder), *replies)
    for number, (deed, words) in enumerate(told.items()):
        wrong, sibling = scores[2 * number : 2 * number + 2]
        assert words in wrong.note, (deed, wrong.note)
        assert wrong.note.startswith(f"reward rewards.py:act on claims.jsonl:{2 * number + 1}: ")
        assert wrong.outcome is Outcome.ERRORED and math.isnan(wrong.value) and not wrong.counts
        assert sibling == Score(value=0.25), deed


def test_numbers_of_any_kind_and_scores_count(folder: Path):
    whole, numpy, score = graded(load_reward("rewards.py:act", folder), "whole", "numpy", "score")
    assert (whole.value, numpy.value) == (1.0, 0.25)
    assert score == Score(value=0.5, outcome=Outcome.UNPARSABLE, parts={"form": 0.5})
    assert all(type(s.value) is float for s in (whole, numpy, score))


def test_what_a_reward_prints_reaches_nobody_and_is_told(folder: Path, capfd: pytest.CaptureFixture[str]):
    (score,) = graded(load_reward("rewards.py:act", folder), "print")
    assert (score.value, score.note) == (0.25, "printed 'hello'")
    assert capfd.readouterr().out == ""


@pytest.mark.slow
def test_a_reward_that_hangs_costs_its_time_and_its_reply(folder: Path):
    started = time.monotonic()
    scores = graded(load_reward("rewards.py:act", folder), "good", "hang", "good", seconds=1.0)
    assert [s.counts for s in scores] == [True, False, True]
    assert "did not end in 1 s" in scores[1].note
    assert time.monotonic() - started < 20


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["os.waitpid(child, 0)", "os._exit(3)"])
def test_a_child_that_a_reward_has_forked_is_ended_with_it(folder: Path, ending: str):
    """It holds the pipe of the answers open: grading waited for the child, long after the worker was killed."""
    (folder / "forks.py").write_text(
        "import os, time\n"
        "def forks(task, reply):\n"
        "    child = os.fork() if reply == 'bad' else None\n"
        "    if child == 0:\n"
        "        time.sleep(25)\n"
        "        os._exit(0)\n"
        "    if child:\n"
        f"        {ending}\n"
        "    return 1.0\n",
        encoding="utf-8",
    )
    started = time.monotonic()
    scores = graded(load_reward("forks.py:forks", folder), "good", "bad", "good", seconds=1.0)
    assert time.monotonic() - started < 20
    assert [s.counts for s in scores] == [True, False, True] and "did not end in 1 s" in scores[1].note


@pytest.mark.slow
def test_rewards_that_go_on_hanging_stop_the_run(folder: Path):
    reward = load_reward("rewards.py:act", folder)
    with pytest.raises(RewardError, match=r"2 replies took more than 0\.3 s, the first on claims\.jsonl:2"):
        graded(reward, "good", "hang", "hang", "hang", seconds=0.3, hangs=1)


def test_more_errors_than_allowed_stop_the_run_and_quote_the_first(folder: Path):
    reward = load_reward("rewards.py:act", folder)
    tasks = [task(n) for n in range(1, 5)]
    assert len(grade(reward, tasks, ["good", "raise", "raise", "good"])) == 4, "half of them are allowed"
    with pytest.raises(RewardError, match=r"3 of 4 replies could not be graded(.|\n)*claims\.jsonl:2: ZeroDivision"):
        grade(reward, tasks, ["good", "raise", "none", "nan"])


@pytest.mark.slow
def test_results_come_in_order_from_several_processes(folder: Path):
    (folder / "slow.py").write_text(
        "import time\ndef slow(task, reply):\n    time.sleep(0.1)\n    return float(reply)\n", encoding="utf-8"
    )
    replies = [str(n) for n in range(16)]
    with Grader(load_reward("slow.py:slow", folder), limits=Limits(workers=2)) as grader:
        for _ in range(2):  # the processes stay
            scores = grader.grade([task()] * 16, replies)
            assert [s.value for s in scores] == [float(r) for r in replies]
            assert all(s.seconds >= 0.1 for s in scores)


def test_truncated_replies_are_graded_and_marked(folder: Path):
    reward = load_reward("rewards.py:act", folder)
    scores = grade(reward, [task()] * 3, ["good", "good", "raise"], [False, True, True])
    assert [s.outcome for s in scores] == [Outcome.GRADED, Outcome.TRUNCATED, Outcome.ERRORED]
    assert [s.value for s in scores[:2]] == [0.25, 0.25]


def test_keyword_only_arguments_are_parameters(folder: Path):
    reward = load_reward({"rewards.py:scaled": {"factor": 3}}, folder)
    assert [s.value for s in graded(reward, "r", "x")] == [3.0, 0.0]
    assert pickle.loads(pickle.dumps(reward)) == reward


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("reward.py:act", r"^stages\.0\.reward: .*no such file .*reward\.py; did you mean 'rewards\.py'"),
        ("rewards.py:acct", r"has no 'acct'; did you mean 'act'"),
        ("no_such_package.rewards:act", r"there is no module 'no_such_package'"),
        ("exakt", r"reward 'exakt' is not known; expected one of: .*did you mean 'exact'"),
        ("rewards.py:NUMBER", r"is 5; expected a function \(task, reply\)"),
        ("rewards.py:three", r"is called as \(task, reply, third\); expected \(task, reply\), further"),
        ("rewards.py:later", "async function; expected a plain one"),
        ({"rewards.py:scaled": {}}, r"stages\.0\.reward.*: found no factor; expected a value"),
        ({"rewards.py:scaled": {"factor": "much"}}, r"factor: found 'much'; expected float"),
        ({"rewards.py:scaled": {"factor": 1, "kid": 1}}, r"kid: found a parameter that is not known.*mean 'kind'"),
        ({"numeric": {"tolerance": -1}}, r"tolerance -1\.0; expected 0 or more"),
        ({"regex": {"pattern": "("}}, "is no regular expression"),
        ({"length": {"free": 9, "limit": 9}}, "expected 0 <= free < limit"),
        ({"length": {"free": 9}}, "found no limit"),
        ({"json_schema": {"valid": 0.7, "key": "a"}}, "found valid 0.7 and key_share 0.4"),
        ({"endpoint": {"url": "ftp://x"}}, r"found 'ftp://x'; expected an address"),
        ({"endpoint": {"url": "http://x", "token_env": "TEMPER_NO_SUCH"}}, "TEMPER_NO_SUCH, which is not set"),
        (5, r"found 5; expected a name or"),
        ({"exact": 5}, r"expected a name or"),
        ({"sum": []}, r"stages\.0\.reward\.sum: found \[\]; expected a list"),
        ({"sum": [{"reward": "exact", "wait": 2}]}, r"stages\.0\.reward\.sum\.0\.wait: not known"),
        ({"sum": [{"reward": "exact", "weight": 0}]}, r"weight: found 0; expected a number other than 0"),
        ({"sum": ["exact", "exact"]}, r"found 'exact' twice; expected a name of its own"),
        ({"sum": [{"sum": ["exact"]}]}, "a sum inside a sum"),
    ],
)
def test_what_cannot_be_loaded_is_told_before_anything_is_sampled(folder: Path, value: Any, told: str):
    with pytest.raises(RecipeError, match=told):
        load_reward(value, folder, where="stages.0.reward")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("import no_such_package\ndef act(t, r): return 0.0", "No module named 'no_such_package'"),
        ("def act(t, r) return 0.0", "SyntaxError"),
        ("import sys; sys.exit(3)", r"sys\.exit\(3\)"),
        ("import os; os.write(2, b'out of memory'); os._exit(9)", r"exit code 9\): out of memory"),
    ],
)
def test_a_file_that_does_not_import_is_told_with_its_reason(tmp_path: Path, text: str, told: str):
    (tmp_path / "rewards.py").write_text(text, encoding="utf-8")
    with pytest.raises(RewardError, match=rf"reward: (loading )?.*rewards\.py:act (.|\n)*{told}"):
        load_reward("rewards.py:act", tmp_path)
    assert not any(name.startswith("temper_file_rewards") for name in sys.modules), "never imported here"


def test_a_reward_may_import_what_stands_beside_it(tmp_path: Path):
    (tmp_path / "marks_of_mine.py").write_text("HALF = 0.5", encoding="utf-8")
    (tmp_path / "rewards.py").write_text(
        "from marks_of_mine import HALF\ndef act(task, reply):\n    return HALF\n", encoding="utf-8"
    )
    assert graded(load_reward("rewards.py:act", tmp_path), "x")[0].value == 0.5


def test_a_sum_weighs_its_parts_and_names_them(folder: Path):
    value = {
        "sum": [
            {"reward": "exact", "weight": 0.7},
            {"reward": {"regex": {"pattern": "^r"}}, "weight": 0.3, "name": "begins"},
            {"reward": {"length": {"free": 1, "limit": 3}}, "weight": 0.5},
        ]
    }
    reward = load_reward(value, folder)
    # a perfect answer: 0.7 + 0.3 + 0.5 x 0; the worst: 0 + 0 + 0.5 x -1
    assert (reward.high, reward.low) == (1.0, -0.5)
    right, begins, long = graded(reward, "r", "rx", "r r")
    assert right.value == pytest.approx(1.0)
    assert begins.value == pytest.approx(0.3)
    # "r r" has 2 words, half way from 1 to 3: 0.3 - 0.5 x 0.5
    assert long.value == pytest.approx(0.05)
    assert long.parts == {"exact": 0.0, "begins": 1.0, "length": -0.5}


def test_an_error_in_one_part_is_an_error_and_an_unreadable_reply_stays_one(folder: Path):
    reward = load_reward({"sum": ["rewards.py:act", "exact"]}, folder)
    wrong, right, odd = graded(reward, "raise", "good", "score")
    assert not wrong.counts and "rewards.py:act: ZeroDivisionError" in wrong.note
    assert right.outcome is Outcome.GRADED
    assert odd.outcome is Outcome.UNPARSABLE and odd.value == 0.5
    assert odd.parts == {"rewards.py:act": 0.5, "rewards.py:act.form": 0.5, "exact": 0.0}


def test_tasks_without_what_the_reward_needs_are_named_by_row(folder: Path):
    with pytest.raises(DataError, match=r"claims\.jsonl:2, claims\.jsonl:3: found no reference; .* reward exact"):
        check_tasks(load_reward("exact"), [task(1), task(2, reference=""), task(3, reference="")])
    reward = load_reward("rewards.py:declared", folder)
    assert (reward.needs, reward.low, reward.high) == (("amount",), -1.0, 2.0)
    check_tasks(reward, [task(amount=3)])
    with pytest.raises(DataError, match=r"and 2 more rows: found no amount"):
        check_tasks(reward, [task(n) for n in range(7)])
    (score,) = graded(reward, "x")
    assert "the task has no amount" in score.note


def test_an_entry_point_of_a_package_is_a_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    info = tmp_path / "acme-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[temper.reward]\nkind = acme_r:kind\n", encoding="utf-8")
    (tmp_path / "acme_r.py").write_text("def kind(task, reply):\n    return 0.75\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert graded(load_reward("kind"), "x")[0].value == 0.75


def test_no_replies_start_no_process():
    assert grade(load_reward("exact"), [], []) == []


def test_a_killed_worker_process_is_replaced(folder: Path):
    with Grader(load_reward("rewards.py:act", folder), limits=Limits(workers=1, errors=1.0)) as grader:
        assert not grader.grade([task()], ["os exit"])[0].counts
        assert grader.grade([task()], ["good"])[0].value == 0.25


def test_a_score_is_checked_wherever_it_comes_from():
    assert as_score(10**400).note.startswith("returned inf")
    assert as_score({"value": 1}).note.startswith("returned {'value': 1}, a dict")
    assert isinstance(RewardError("x"), TemperError) and RewardError("x").exit_code == 2
    assert json.loads(json.dumps(as_score(1).value)) == 1.0
