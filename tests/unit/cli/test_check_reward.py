"""`temper check` of a stage of reinforcement: what is read when a reward, a task or an environment is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.cli.world import COLOURS, ROOMS, Ended, make_world, temper, write_rows

RECIPE = """\
base: ./model
probes: {domain: [exam.jsonl], general: [text.jsonl]}
tolerance: 50%
stages:
  - {technique: rft, data: tasks.jsonl, GRADED, replay: null, adapter: lora, steps: 2, group_size: 2, prompts: 2,
     max_new_tokens: 4, gate_tasks: 4, reward_seconds: 0.5}
"""
GAME = """
from temper.data.row import Message
from temper.rollout.environment import Turn

class Game:
    def reset(self, task):
        return list(task.messages)

    def step(self, reply):
        return Turn(reward=0.5, messages=(Message(role="user", content="again"),))
"""
MINE = "reward: 'rewards.py:mine'"


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("rewards")
    make_world(folder)
    (folder / "game.py").write_text(GAME, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEMPER_CACHE", str(folder / "cache"))
        patch.chdir(folder)
        yield folder


def check(folder: Path, graded: str, body: str = "return 0.0", *options: str, reference: bool = True) -> Ended:
    """Checks a recipe whose own reward has this body."""
    rows = [{"prompt": f"dim {room} {colour}", "reference": "yes no"} for room in ROOMS for colour in COLOURS[:2]]
    write_rows(folder / "tasks.jsonl", rows if reference else [{"prompt": row["prompt"]} for row in rows])
    (folder / "rewards.py").write_text(f"def mine(task, reply):\n    {body}\n", encoding="utf-8")
    (folder / "temper.yaml").write_text(RECIPE.replace("GRADED", graded), encoding="utf-8")
    return temper("check", folder / "temper.yaml", *options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("graded", "body", "code", "told"),
    [
        (
            MINE, "raise RuntimeError('my own')", 3,
            ("no rollout was graded: reward rewards.py:mine on", ": RuntimeError: my own (rewards.py:2)"),
        ),
        (MINE, "return None", 3, ("returned None; expected a number or a Score; is a return missing",)),
        pytest.param(MINE, "return 'good'", 3, ("returned 'good', a str; expected a number",), marks=pytest.mark.slow),
        pytest.param(
            MINE, "import time; time.sleep(60)", 2, ("took more than 0.5 s, the first on", "tasks.jsonl:", "a loop"),
            marks=pytest.mark.slow,
        ),
        (MINE, "import no_such_module", 3, ("No module named 'no_such_module' (rewards.py:2)",)),
        (MINE, "return 0.5", 3, ("every rollout of every task has the same reward, 0.5", "empty replies earn 50 %")),
        (
            "environment: 'game.py:Game', max_turns: 2", "", 3,
            ("100 % of the episodes never end: they reach the limit of turns", "have the environment say done"),
        ),
        ("reward: {endpoint: {url: 'http://127.0.0.1:9', retries: 0, timeout: 1}}", "", 2, ("http://127.0.0.1:9",)),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_where_it_is(folder: Path, graded: str, body: str, code: int, told: tuple[str, ...]):
    ended = check(folder, graded, body or "return 0.0")
    said = " ".join((ended.out + ended.err).split())
    assert ended.code == code, said
    assert "Traceback" not in said
    for part in told:
        assert part in said


@pytest.mark.slow
def test_a_reward_that_prints_prints_nothing(folder: Path):
    ended = check(folder, MINE, "print('SHOUT'); return float(len(reply) % 2)")
    assert "SHOUT" not in ended.out + ended.err


def test_tasks_without_a_reference_are_named(folder: Path):
    ended = check(folder, "reward: exact", reference=False)
    assert ended.code == 2
    assert "tasks.jsonl:1, " in ended.err and "found no reference; expected one in every task" in ended.err


@pytest.mark.slow
def test_the_gate_holds_the_reward_against_the_exam(folder: Path):
    """Half of the rewards are high and every reply of a random model fails the exam; the JSON says the same."""
    ended = check(folder, MINE, "return float(bool(reply)) if reply != task.reference else 1.0", "--json")
    gate = json.loads(ended.out)["gate"]
    assert ended.code == 3 and gate["verdict"] == "FIX REWARD"
    assert (gate["exam"], gate["hollow"]) == ("exam (exact)", 8)
    assert any("a high reward where the domain probe exam (exact) says failed" in r for r in gate["reasons"])
    shown = check(folder, MINE, "return float(bool(reply)) if reply != task.reference else 1.0")
    assert "rewarded, failed by exam (exact)" in " ".join(shown.out.split())
