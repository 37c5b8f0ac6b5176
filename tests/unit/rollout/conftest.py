"""A fake model that answers every question with one word of three, and tasks about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from temper.data.render import Renderer
from temper.data.row import Message
from temper.events import Event
from temper.model.fake import FakeBackend
from temper.model.protocol import Base, Policy, TrainSpec
from temper.rollout.asking import Asker, Asking
from temper.rollout.grading import Grader
from temper.rollout.reward import Reward, load_reward
from temper.rollout.task import Task
from temper.techniques.base import Live
from tests.tiny import tiny_tokenizer

WORDS = (" yes", " no", " fox")
"""What it says, each a third of the time: it has read as many answers of each."""


@dataclass(kw_only=True)
class Bench:
    """A model in a folder, with what it takes to ask it; `log` keeps what a stage logs."""

    folder: Path
    base: Base
    renderer: Renderer
    policy: Policy
    log: list[Event] = field(default_factory=list)

    def live(self, past: Sequence[Event] = ()) -> Live:
        """What a running stage gives its feed."""
        return Live(
            policy=self.policy, start=self.base.checkpoint, open=lambda _: self.policy, renderer=self.renderer,
            folder=self.folder / "stage", cache=self.folder / "cache", log=self._keep, progress=lambda *_: None,
            past=past,
        )  # fmt: skip

    def asker(self, asking: Asking, grader: Grader | None = None) -> Asker:
        """The model with a grader."""
        return Asker(policy=self.policy, renderer=self.renderer, asking=asking, grader=grader)

    def again(self) -> Bench:
        """The same model untrained, in the same folder, as after a kill before the first update."""
        policy = FakeBackend().open(self.base.checkpoint, TrainSpec(rank=None, clip=100.0))
        return Bench(folder=self.folder, base=self.base, renderer=self.renderer, policy=policy)

    def _keep(self, event: Event) -> Event:
        self.log.append(event)
        return event


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A fresh one."""
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    folder = tiny_tokenizer(tmp_path / "base")
    renderer = Renderer.load(folder)
    last, end = renderer.prompt([Message(role="user", content="light")])[-1], renderer.end_tokens[0]
    FakeBackend().write(folder, [(last, *renderer.text(word), end) for word in WORDS] * 1000)
    base = FakeBackend().locate(str(folder))
    policy = FakeBackend().open(base.checkpoint, TrainSpec(rank=None, clip=100.0))
    return Bench(folder=tmp_path, base=base, renderer=renderer, policy=policy)


def tasks(count: int, reference: str = "yes", **fields: object) -> tuple[Task, ...]:
    """Questions with one and the same right answer."""
    return tuple(
        Task(
            id=f"t{n}", messages=(Message(role="user", content=f"light {n}"),), reference=reference,
            origin=f"tasks.jsonl:{n + 1}", fields={"prompt": f"light {n}", "reference": reference, **fields},
        )
        for n in range(count)
    )  # fmt: skip


@pytest.fixture
def write_reward(tmp_path: Path) -> Callable[[str], Reward]:
    """A reward of the user's own, from the body of its function."""

    def write(body: str, head: str = "") -> Reward:
        (tmp_path / "rewards.py").write_text(f"{head}\ndef mine(task, reply):\n    {body}\n", encoding="utf-8")
        return load_reward("rewards.py:mine", tmp_path)

    return write
