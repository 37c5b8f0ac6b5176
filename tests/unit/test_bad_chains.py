"""Chains that cannot work, through the command line: refused before a step is taken, with the way out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from temper.model.protocol import TrainSpec
from temper.model.torch_backend import TorchBackend
from tests.tiny import GEMMA, tiny_model
from tests.unit.cli.world import Ended, make_world, temper, write_rows

SFT: Mapping[str, Any] = {"technique": "sft", "data": "train.jsonl", "replay": None, "steps": 2}
CPT: Mapping[str, Any] = {"technique": "cpt", "data": "manual", "replay": None, "steps": 2}
DPO: Mapping[str, Any] = {"technique": "dpo", "data": "pairs.jsonl", "replay": None, "steps": 2}
RESIDUAL: Mapping[str, Any] = {"instruct": "model", "base": "below"}
PAIR: Mapping[str, Any] = {"prompt": "light hall", "chosen": "yes", "rejected": "no"}


@pytest.fixture(name="folder", scope="module")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world with a chat model, its base, a model of another family, an adapter, and a manual."""
    folder = tmp_path_factory.mktemp("chains")
    make_world(folder)
    tiny_model(folder / "below", seed=1)
    tiny_model(folder / "other", template=GEMMA, hidden_size=32)
    backend = TorchBackend()
    start = backend.locate(str(folder / "model")).checkpoint
    backend.open(start, TrainSpec(rank=2)).learner.save(folder / "adapter")
    told = json.loads((folder / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    config = {**told, "base_model_name_or_path": str(folder / "other")}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "manual").mkdir()
    for n in range(24):
        said = " ".join(f"Pump {k * 31 + n} feeds valve {k}." for k in range(240))
        (folder / "manual" / f"{n}.txt").write_text(said, encoding="utf-8")
    (folder / "note.txt").write_text("The pump is on. The valve is shut. The tank is dry.", encoding="utf-8")
    exam = [json.loads(line) for line in (folder / "exam.jsonl").read_text(encoding="utf-8").splitlines()]
    asked = [{"prompt": row["prompt"].upper(), "reference": row["completion"]} for row in exam[1:4]]
    write_rows(folder / "asked.jsonl", [*({"prompt": f"sum {n}", "reference": "1"} for n in range(40)), *asked])
    write_rows(folder / "no-rejected.jsonl", [{k: v for k, v in PAIR.items() if k != "rejected"} for _ in range(40)])
    write_rows(folder / "one-less.jsonl", [*([dict(PAIR)] * 2), {**PAIR, "rejected": None}])
    return folder


def ran(folder: Path, out: Path, stages: Sequence[Mapping[str, Any]], base: str = "model") -> Ended:
    document = {
        "base": base, "tolerance": "50%", "stages": [dict(stage) for stage in stages],
        "probes": {"domain": ["exam.jsonl"], "general": ["text.jsonl"]}, "machine": {"threads": 1, "compile": "off"},
    }  # fmt: skip
    (folder / "chain.yaml").write_text(json.dumps(document), encoding="utf-8")
    return temper("run", folder / "chain.yaml", "--out", out)


CASES: Mapping[str, tuple[Sequence[Mapping[str, Any]], Sequence[str]]] = {
    "a residual behind another stage": (
        [SFT, {**CPT, "residual": RESIDUAL}],
        ("stages.1.residual", "starts from what another one made", "first stage", "move the stage to the front"),
    ),
    "a residual of another chat model": (
        [{**CPT, "residual": {"instruct": "below", "base": "model"}}],
        ("stages.0.residual.instruct", "expected the model that the run starts from", "in both places"),
    ),
    "a residual over another family": (
        [{**CPT, "residual": {"instruct": "model", "base": "other"}}],
        ("residual", "was not made from", "expected a chat model and its own base", "leave residual out"),
    ),
    "a residual and new tokens in one run": (
        [{**CPT, "residual": RESIDUAL}, {**CPT, "add_tokens": ["autovacuum"], "adapter": "full"}],
        ("stages.0.residual", "add_tokens (autovacuum)", "one vocabulary", "make two runs"),
    ),
    "documents where preferences belong": (
        [SFT, {**DPO, "data": "manual"}],
        ("manual", "found documents", "use `technique: cpt`", "expected preference pairs for technique dpo"),
    ),
    "answers where preferences belong": (
        [SFT, {**DPO, "data": "train.jsonl"}],
        ("train.jsonl", "found prompts with answers", "expected preference pairs for technique dpo"),
    ),
    "pairs without a rejected answer": (
        [SFT, {**DPO, "data": "no-rejected.jsonl"}],
        ("no-rejected.jsonl", "chosen", "rejected", "expected"),
    ),
    "one pair without a rejected answer": (
        [SFT, {**DPO, "data": "one-less.jsonl"}],
        ("one-less.jsonl:3", "the column 'rejected' is missing or null", "write it or delete the row"),
    ),
    "a corpus of three sentences": (
        [{**CPT, "data": "note.txt"}, SFT],
        ("note.txt: 51 characters of text", "expected about 96,000 or more", "technique: sft"),
    ),
    "a repair by a base that lacks the new tokens": (
        [
            {**CPT, "add_tokens": ["autovacuum"], "adapter": "full"},
            {"technique": "distill", "data": "train.jsonl", "steps": 2},
        ],
        ("stages.1.teacher", "beside add_tokens (autovacuum)", "leave add_tokens out", "remove this stage"),
    ),
    "tasks that the exam asks": (
        [SFT, {"technique": "rft", "data": "asked.jsonl", "reward": "exact", "replay": None, "steps": 2}],
        ("exam.jsonl:2", "[T003] 3 of 24 exam rows stand in the training data", "delete these rows"),
    ),
    "a teacher that is not there": (
        [SFT, {"technique": "distill", "data": "train.jsonl", "steps": 2, "teacher": "./nowhere"}],
        ("stages.1.teacher", "nowhere", "expected"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_chain_that_cannot_work_is_refused_before_training(
    folder: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPER_CACHE", str(folder / "cache"))
    stages, said = CASES[name]
    refused(ran(folder, tmp_path / "out", stages), *said)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("./runs/yesterday", ("base", "runs/yesterday", "model folder")),
        ("smollm2-135m-instrct", ("'smollm2-135m-instrct' is neither the built-in", "check the spelling")),
        ("manual", ("manual has no config.json", "expected a model folder", "name another folder")),
        ("adapter", ("it holds an adapter: export it as a whole model first",)),
    ],
    ids=["no folder", "a misspelt name", "no model", "an adapter"],
)
def test_an_unknown_starting_checkpoint_is_refused(
    folder: Path, tmp_path: Path, base: str, said: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEMPER_CACHE", str(folder / "cache"))
    refused(ran(folder, tmp_path / "out", [SFT], base), *said)
    assert not (tmp_path / "out").exists()


def test_an_adapter_on_another_base_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its configuration names a base with other sizes than the one that it was trained on."""
    monkeypatch.setenv("TEMPER_CACHE", str(folder / "cache"))
    ended = temper("eval", folder / "adapter", "--probes", folder / "text.jsonl")
    refused(ended, "adapter_model.safetensors", "does not fit this base", "use the base named in adapter_config.json")


def refused(ended: Ended, *told: str) -> None:
    """Exit code 2, one message that says these things, no traceback."""
    assert ended.code == 2, ended.out + ended.err
    assert ended.err.count("error: ") == 1 and "Traceback" not in ended.err
    said = " ".join(ended.err.split())
    for part in told:
        assert part in said, f"{part!r} is not in {said!r}"
