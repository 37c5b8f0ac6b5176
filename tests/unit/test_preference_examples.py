"""The examples of preference optimisation and repair: their data scripts, and their recipes run at small size."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from temper.events import Choice, Measurement, Step
from temper.recipe.load import load
from tests.fakes.world import ASKED, World, held, of

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ROOMS = ("kitchen", "bedroom", "attic", "office")
CALLS = [
    {"prompt": f"{ask} ({n})", "completion": {"intent": intent, "area": room}}
    for n, (ask, room) in enumerate((ask, room) for ask in ASKED[:12] for room in ROOMS)
    for intent in ("HassTurnOn" if n % 3 else "HassTurnOff",)
]


def script(name: str) -> ModuleType:
    path = EXAMPLES / name / "make_data.py"
    spec = importlib.util.spec_from_file_location(f"example_{name.replace('-', '_')}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world with the smart-home rows beside it and both recipes in their places."""
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    for name in ("sft-dpo", "repair"):
        (tmp_path / name).mkdir()
        shutil.copy(EXAMPLES / name / "temper.yaml", tmp_path / name)
    write(tmp_path / "smart-home" / "data" / "train.jsonl", CALLS[::2])
    write(tmp_path / "smart-home" / "data" / "exam.jsonl", CALLS[1::2])
    return World.make(tmp_path)


def small(world: World, name: str, *settings: str) -> Any:
    """The recipe of an example on the fake base, a few steps per stage."""
    common = (
        "base=../base",
        "probes.general=[../suite.toml]",
        "stages.0.replay=null",
        "stages.0.epochs=null",
        "stages.1.epochs=null",
        "stages.0.steps=2",
    )
    stages = tuple(f"stages.{n}.checkpoints=1" for n in (0, 1))
    return load(world.folder / name / "temper.yaml", (*common, *stages, "tolerance=50%", *settings))


def test_a_pair_is_the_right_call_and_another_one() -> None:
    make = script("sft-dpo").make
    pairs = make(CALLS)
    assert [pair["chosen"] for pair in pairs] == [row["completion"] for row in CALLS]
    assert not [pair for pair in pairs if pair["rejected"] == pair["chosen"]]
    assert {pair["kind"] for pair in pairs} == {"value", "intent", "missing", "words"}
    assert make(CALLS) == pairs
    assert make(CALLS, seed=1) != pairs


def test_only_one_thing_is_wrong_and_it_is_a_thing_of_the_data() -> None:
    for pair in script("sft-dpo").make(CALLS):
        chosen, rejected = pair["chosen"], pair["rejected"]
        if pair["kind"] == "words":
            assert isinstance(rejected, str)
            continue
        changed = [slot for slot in chosen if rejected.get(slot) != chosen[slot]]
        (slot,) = changed
        assert slot == "intent" or pair["kind"] != "intent"
        assert pair["kind"] == "missing" or any(row["completion"][slot] == rejected[slot] for row in CALLS)


def test_a_row_without_slots_still_has_a_near_miss() -> None:
    rows = [{"prompt": f"next {n}", "completion": {"intent": intent}} for n, intent in enumerate(("A", "B") * 8)]
    assert {pair["kind"] for pair in script("sft-dpo").make(rows)} == {"intent", "words"}


@pytest.mark.slow
def test_sft_then_dpo_runs_and_measures_both(home: World, monkeypatch: pytest.MonkeyPatch) -> None:
    data = home.folder / "sft-dpo" / "data"
    rows = str(home.folder / "smart-home" / "data")
    monkeypatch.setattr(sys, "argv", ["make_data.py", "--rows", rows, "--out", str(data)])
    script("sft-dpo").main()
    log = held(
        home.run(small(home, "sft-dpo", "stages.1.replay=null", "stages.1.steps=2", "stages.1.batch_tokens=120"))
    )
    assert {e.stage for e in of(log, Choice)} == {"01-sft", "02-dpo"}
    probes = {e.probe: e.metric for e in of(log, Measurement) if e.role == "domain"}
    assert probes == {"exam": "json", "preference": "soft preference"}
    assert [set(e.figures) for e in of(log, Step) if e.stage == "02-dpo"] == [
        {"right", "margin", "chosen_gain", "rejected_gain"}
    ] * 2


def test_the_repair_runs(home: World) -> None:
    write(home.folder / "repair" / "data" / "prompts.jsonl", [{"prompt": q, "category": "code"} for q in ASKED])
    settings = ("stages.1.steps=2", "stages.1.max_new_tokens=8", "stages.0.lr=1e-4")
    log = held(home.run(small(home, "repair", *settings)))
    assert len([e for e in of(log, Step) if e.stage == "02-distill"]) == 2


def test_the_prompts_of_a_repair_come_from_every_category(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("repair")
    asked: list[tuple[str, int]] = []

    def prompts(category: str, count: int, seed: int) -> list[Any]:
        asked.append((category, count))
        return [module.replay.Prompt(category=category, text=f"{category} {seed}")]

    monkeypatch.setattr(module.replay, "prompts", prompts)
    monkeypatch.setattr(sys, "argv", ["make_data.py", "--out", str(tmp_path), "--seed", "3"])
    module.main()
    assert dict(asked) == module.PARTS
    lines = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines[0] == {"prompt": "instruction 3", "category": "instruction"}
