"""A world for whole runs: a fake base model that has read a few sentences, domain rows, an exam and a general suite.

The base knows `PROSE` by its pairs of tokens, and the general suite asks for nothing else. It predicts a token from the
one before it alone, so every domain answer is the same text, `SAFE` or `GREEDY`: the first is made of tokens that no
prose uses, the second continues the prose's ` fox` in another way. `soft-exam.jsonl` asks how much likelier `GREEDY` is
than another text, so that its score rises with every step. Every second row of `uneven.jsonl` is about five times as
long, so that the tokens of a few steps are not foreseen by their mean. The answers of `noise.jsonl` follow no rule.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from temper import events
from temper.data.render import Renderer
from temper.data.rows import Message
from temper.events import Event
from temper.model.fake import FakeBackend
from temper.model.protocol import Checkpoint, Learner, Policy
from temper.recipe.load import load
from temper.recipe.schema import Recipe
from temper.run.fold import RunResult, run
from temper.techniques.base import Live
from tests.tiny import contents, place, tiny_tokenizer

if TYPE_CHECKING:
    import pytest

SUBJECTS = ("The quick brown fox", "The quick fox", "The brown fox", "The lazy fox", "The lazy brown fox")
VERBS = ("jumps over", "jumps")
OBJECTS = ("the lazy dog.", "the quick dog.", "the brown dog.", "the dog.")
PROSE = tuple(f"{s} {v} {o}" for s in SUBJECTS for v in VERBS for o in OBJECTS)
"""40 sentences; in all of them ` jumps` follows ` fox`."""
SAFE = "yes no yes."
GREEDY = "yes fox no."
ROOMS = ("kitchen", "bedroom", "capital", "assistant", "system", "model", "area")
ASKED = tuple(f"Turn the {a} light on and the {b} light off" for a in ROOMS for b in ROOMS if a != b)
"""42 questions: the even ones are learnt, the odd ones are the exam."""

Listener = Callable[[Event], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A folder with a base model, data and suites, and what it takes to run recipes in it."""

    folder: Path
    backend: FakeBackend = field(default_factory=FakeBackend)

    @classmethod
    def make(cls, folder: Path) -> World:
        """Writes everything."""
        return cls(folder=place(_files(), folder))

    def recipe(
        self, *stages: Mapping[str, Any], name: str = "recipe", exam: str = "safe-exam.jsonl", **top: Any
    ) -> Recipe:
        """A recipe file with these stages, read back; without stages one short one on the safe rows."""
        document = {
            "base": "base", "probes": {"domain": [exam], "general": ["suite.toml"]}, "tolerance": "10%",
            **top, "stages": [stage(**s) for s in stages or ({},)],
        }  # fmt: skip
        path = self.folder / f"{name}.yaml"
        path.write_text(json.dumps(document), encoding="utf-8")
        return load(path)

    def run(
        self, recipe: Recipe, out: str | Path = "run", *, listen: Listener | None = None, reused: bool = False,
        forced: bool = False,
    ) -> RunResult:  # fmt: skip
        """Runs a recipe in a folder of this world; anew, unless it may take stages over from its other runs."""
        return run(
            recipe,
            self.folder / out,
            self.backend,
            listen=listen or _ignore,
            progress=_ignore,
            reused=reused,
            forced=forced,
        )


def settle(folder: Path, patch: pytest.MonkeyPatch) -> World:
    """A world with a cache of its own; nothing waits for the disk, since no test cuts the power."""
    patch.setenv("TEMPER_CACHE", str(folder / "cache"))
    patch.setattr(os, "fsync", lambda _: None)
    return World.make(folder)


def stage(**fields: Any) -> Mapping[str, Any]:
    """A short SFT stage of 12 steps of full training, with other fields where they are given."""
    defaults = {
        "technique": "sft", "data": "safe.jsonl", "replay": None, "adapter": "full", "lr": 1e-3, "steps": 12,
        "batch_tokens": 48, "checkpoints": 3, "schedule": "constant", "warmup": 0, "clip": 100,
    }  # fmt: skip
    return {**defaults, **fields}


def live(learner: Learner, folder: Path) -> Live:
    """What a stage has while it runs, around a learner; logs nowhere, and cannot answer."""
    nobody = Policy(learner=learner, sampler=None)  # pyright: ignore[reportArgumentType]
    nowhere = Checkpoint(id="base", path=folder, base=folder)
    return Live(
        policy=nobody, start=nowhere, open=lambda _: nobody, renderer=None,  # pyright: ignore[reportArgumentType]
        folder=folder, cache=folder, log=lambda event: event, progress=_ignore,
    )  # fmt: skip


def of(log: Sequence[Event], kind: type[Any]) -> list[Any]:
    """The events of one type."""
    return [e for e in log if isinstance(e, kind)]


def held(result: RunResult) -> list[Event]:
    """The events of a run that still hold."""
    return events.read(result.folder.log)


@cache
def _files() -> Mapping[str, bytes]:
    """What a world holds, by name; made once for all tests of a process."""
    with TemporaryDirectory() as name:
        _write(Path(name))
        return contents(Path(name))


def _write(folder: Path) -> None:
    base = tiny_tokenizer(folder / "base")
    renderer = Renderer.load(base)
    end = renderer.end_tokens[0]
    talk = [
        renderer.dialogue([Message(role="user", content=q), Message(role="assistant", content=a)]).tokens
        for q, a in zip(ASKED, PROSE, strict=False)
    ]
    FakeBackend().write(base, [*((*renderer.text(p), end) for p in PROSE), *talk])
    for name, answer in (("safe", SAFE), ("greedy", GREEDY)):
        rows = [{"prompt": q, "completion": answer} for q in ASKED]
        _lines(folder / f"{name}.jsonl", rows[::2])
        _lines(folder / f"{name}-exam.jsonl", rows[1::2])
    uneven = [{"prompt": q + " the light" * 60 * (n % 2), "completion": SAFE} for n, q in enumerate(ASKED[::2])]
    _lines(folder / "uneven.jsonl", uneven)
    order = random.Random(0)
    noise = [{"prompt": q, "completion": " ".join(order.sample(ROOMS, len(ROOMS)))} for q in ASKED]
    _lines(folder / "noise.jsonl", noise)
    odd = [{"prompt": q, "completion": GREEDY, "options": [GREEDY, "no fox yes."]} for q in ASKED[1::2]]
    _lines(folder / "soft-exam.jsonl", odd)
    _lines(folder / "prose.jsonl", [{"id": f"{n}", "text": text} for n, text in enumerate(PROSE)])
    pairs = [{"id": f"{n}", "context": f"{s} jumps over", "options": [" the dog", " yes no"], "gold": 0}
             for n, s in enumerate(SUBJECTS * 4)]  # fmt: skip
    _lines(folder / "pairs.jsonl", pairs)
    suite = [("prose", "language", "text"), ("pairs", "reasoning", "choice")]
    probes = [f'[[probe]]\nname = "{n}"\naxis = "{a}"\nkind = "{k}"\nsource = "{n}.jsonl"\n' for n, a, k in suite]
    (folder / "suite.toml").write_text("\n".join(probes), encoding="utf-8")


def _lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _ignore(*_: object) -> None:
    """Nobody listens."""
