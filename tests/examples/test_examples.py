"""Every recipe of examples/ runs from its first stage to its report: on a tiny random model, a few rows and steps.

The recipe is the example's own file; `--set` changes sizes, the model and the general probes. The rows are written here
in the shape that the example's `make_data.py` gives them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from temper.events import Choice, Event, GateReport, Measurement, Reused, Step, read
from tests.fakes.world import of
from tests.tiny import tiny_model
from tests.unit.cli.world import temper
from tests.unit.test_cpt_postgres import manual, script

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
ROOMS = ("kitchen", "bedroom", "attic", "office", "hall", "cellar", "garage", "garden")
ASKS = ("turn on the light in the {}", "turn off the light in the {}", "switch the lamp in the {}", "is the {} warm")
STAGE = {"replay": "null", "batch_tokens": "96", "checkpoints": "1", "epochs": "null", "steps": "2"}
"""What makes a stage small; a stage that counts no epochs or tokens leaves those out."""
NO_TOKENS = {"replay": "null", "checkpoints": "1", "steps": "2"}
LEARN = {**STAGE, "steps": "20", "lr": "4e-3", "adapter": "full", "guard": '"off"', "choose": "last"}
"""Long enough for a random model to answer in the form that all rows have."""
RFT = {**NO_TOKENS, "max_new_tokens": "24", "prompts": "2", "gate_tasks": "4", "group_size": "4", "held_out": "2"}
FORCED = ("--force",)
"""A random model has nothing to reinforce, and rows that are all alike make a bad reward: the gate says so."""

pytestmark = pytest.mark.slow


@dataclass(frozen=True, slots=True, kw_only=True)
class Small:
    """An example made small."""

    write: Callable[[Path], object]
    """Writes its rows; told the folder that stands for examples/."""
    stages: tuple[Mapping[str, str], ...]
    options: tuple[str, ...] = ()


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_home(examples: Path) -> None:
    """Calls of one form in which the intent alternates."""
    calls = [
        {"prompt": ask.format(room), "completion": {"intent": ("HassTurnOn", "HassTurnOff")[n % 2], "area": "kitchen"}}
        for n, (ask, room) in enumerate((ask, room) for ask in ASKS for room in ROOMS)
    ]
    data = examples / "smart-home" / "data"
    write_rows(data / "train.jsonl", calls[:20])
    write_rows(data / "exam.jsonl", calls[20:])


def write_pairs(examples: Path) -> None:
    write_home(examples)
    for side, name in (("train", "pairs"), ("exam", "pairs-exam")):
        lines = (examples / "smart-home" / "data" / f"{side}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines] * (8 if side == "train" else 1)
        pairs = [
            {"prompt": f"{r['prompt']} {n}", "chosen": r["completion"], "rejected": "Okay, done.", "kind": "words"}
            for n, r in enumerate(rows)
        ]
        write_rows(examples / "sft-dpo" / "data" / f"{name}.jsonl", pairs)


def write_prompts(examples: Path) -> None:
    write_home(examples)
    asked = [{"prompt": f"What is the capital of {room}?", "category": "knowledge"} for room in ROOMS]
    write_rows(examples / "repair" / "data" / "prompts.jsonl", asked)


def write_sums(examples: Path) -> None:
    """Sums whose answer is 7 or 8."""
    sums = [(a, 7 + n % 2 - a) for n, a in enumerate(range(-30, 34))]
    rows = [{"prompt": f"What is {a} + {b}? Answer with the number alone.", "reference": str(a + b)} for a, b in sums]
    data = examples / "rft-arithmetic" / "data"
    write_rows(data / "worked.jsonl", [{"prompt": r["prompt"], "completion": r["reference"]} for r in rows[:24]])
    write_rows(data / "tasks.jsonl", [{**r, "digits": 1 + n % 2} for n, r in enumerate(rows[24:48])])
    write_rows(data / "exam.jsonl", [{**r, "digits": 1} for r in rows[48:]])


def write_forms(examples: Path) -> None:
    """Half of the tasks ask for what a random model does now and then, so that tries differ."""
    rows = [
        {"prompt": f"Describe the {room} in {n} words. Do not use the letter e.", "reference": "A dark cold room.",
         "checks": [{"kind": "no_commas"}], "pattern": r"(?s)\A(?=.{20})(?=[^,]+\Z)", "kind": "no_commas"}
        for n in range(5) for room in ROOMS
    ]  # fmt: skip
    data = examples / "rft-format" / "data"
    write_rows(data / "worked.jsonl", [{"prompt": r["prompt"], "completion": r["reference"]} for r in rows[:24]])
    write_rows(data / "tasks.jsonl", rows[:24])
    write_rows(data / "exam.jsonl", rows[24:])


def write_manual(examples: Path) -> None:
    data = examples / "cpt-postgres" / "data"
    script().write(manual(examples / "html"), data)
    for n in range(12):  # the made-up manual is too short for a stage of text, and to be judged by
        for place, first, second in (("manual", "lock", "log"), ("held-out", "view", "page")):
            said = " ".join(f"A {first} of size {k * 17 + n} has the {second} {k}." for k in range(60))
            (data / place / f"more-{n}.txt").write_text(f"Chapter {n}. {said}", encoding="utf-8")


SMALL: Mapping[str, Small] = {
    "cpt-postgres/cpt.yaml": Small(write=write_manual, stages=(STAGE,)),
    "cpt-postgres/sft.yaml": Small(write=write_manual, stages=(STAGE,)),
    "cpt-postgres/cpt-sft.yaml": Small(write=write_manual, stages=(STAGE, STAGE)),
    "cpt-postgres/residual.yaml": Small(write=write_manual, stages=(STAGE,)),
    "smart-home/temper.yaml": Small(write=write_home, stages=(STAGE,)),
    "smart-home/naive.yaml": Small(write=write_home, stages=(STAGE,)),
    "sft-dpo/temper.yaml": Small(write=write_pairs, stages=(STAGE, STAGE)),
    "repair/temper.yaml": Small(write=write_prompts, stages=(STAGE, {**NO_TOKENS, "max_new_tokens": "8"})),
    "rft-arithmetic/temper.yaml": Small(write=write_sums, stages=(LEARN, RFT), options=FORCED),
    "rft-smart-home/temper.yaml": Small(write=write_home, stages=(LEARN, RFT), options=FORCED),
    "rft-format/temper.yaml": Small(write=write_forms, stages=(LEARN, RFT), options=FORCED),
}


@pytest.fixture(name="examples", scope="module")
def _examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that stands for examples/: the recipes, two tiny models of one lineage, general texts."""
    folder = tmp_path_factory.mktemp("examples")
    for recipe in EXAMPLES.glob("*/*.yaml"):
        (folder / recipe.parent.name).mkdir(exist_ok=True)
        shutil.copy(recipe, folder / recipe.parent.name)
    tiny_model(folder / "model")
    tiny_model(folder / "below", seed=1)
    texts = [{"text": f"The capital of France is Paris {n}. The quick brown fox jumps."} for n in range(16)]
    write_rows(folder / "text.jsonl", texts)
    for write in dict.fromkeys(small.write for small in SMALL.values()):
        write(folder)
    return folder


def ran(examples: Path, name: str, out: str) -> list[Event]:
    """The events of an example's run through the command line; it ends as a run may end."""
    small = SMALL[name]
    settings = [f"stages.{n}.{key}={value}" for n, stage in enumerate(small.stages) for key, value in stage.items()]
    settings += [f"base={examples / 'model'}", f"probes.general=[{examples / 'text.jsonl'}]", "tolerance=50%"]
    settings += ["machine={threads: 1, compile: off}"]
    if name.endswith("residual.yaml"):
        settings.append(f"stages.0.residual={{instruct: {examples / 'model'}, base: {examples / 'below'}}}")
    words = [word for setting in settings for word in ("--set", setting)]
    ended = temper("run", examples / name, "--out", examples / out, *words, *small.options)
    assert ended.code in (0, 4), ended.out + ended.err
    assert "Traceback" not in ended.err
    return read(examples / out / "events.jsonl")


def test_every_recipe_of_the_examples_is_here() -> None:
    found = {f"{recipe.parent.name}/{recipe.name}" for recipe in EXAMPLES.glob("*/*.yaml")}
    assert found == set(SMALL), "a new example needs a line in SMALL"


@pytest.mark.parametrize("name", [name for name in SMALL if "residual" not in name])
def test_the_example_runs_to_its_report(examples: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEMPER_CACHE", str(examples / "cache"))
    out = f"runs/{name.replace('/', '-')}"
    log = ran(examples, name, out)
    stages = SMALL[name].stages
    assert [len([e for e in of(log, Step) if e.stage == c.stage]) for c in of(log, Choice)] == [
        int(stage["steps"]) for stage in stages
    ]
    gated = [e.stage for e in of(log, GateReport)]
    assert gated == [c.stage for c in of(log, Choice) if c.stage.endswith("rft")]
    told = temper("report", examples / out)
    assert told.code == 0, told.err
    assert f"chain: {examples / 'model'}" in told.out
    page = (examples / out / "report.html").read_text(encoding="utf-8")
    assert all(choice.stage in page for choice in of(log, Choice))


def test_a_residual_is_done_once_and_again_when_its_base_has_changed(
    examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key of the stage held the base's name, so that other weights under the same name went unseen."""
    monkeypatch.setenv("TEMPER_CACHE", str(examples / "cache"))
    name = "cpt-postgres/residual.yaml"
    first = ran(examples, name, "residual/first")
    assert len(of(first, Step)) == 2 and not of(first, Reused)
    assert {m.method for m in of(first, Measurement)} == {"loss", "choice"}
    assert [e.run for e in of(ran(examples, name, "residual/second"), Reused)] == ["first"]
    tiny_model(examples / "below", seed=2)
    third = ran(examples, name, "residual/third")
    assert not of(third, Reused) and [e.loss for e in of(third, Step)] != [e.loss for e in of(first, Step)]
