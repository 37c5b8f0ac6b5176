"""New tokens: what is learnt with them is counted from the model as it was, over the same bytes."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from temper.data.render import Renderer
from temper.events import Candidate, Choice, Measurement, encode, read
from temper.model.protocol import Policy
from temper.model.tokens import extended
from temper.model.torch_backend import TorchBackend
from temper.probes.base import Probe, ProbeSpec, score_targets, target
from temper.recipe.load import load
from temper.run.fold import run
from temper.run.subject import as_base, find_run
from temper.techniques.cpt import on_same_bytes, without_new_tokens
from tests.fakes.world import of
from tests.tiny import tiny_model

WORDS = ("autovacuum", "tablespace")
TEXT = "The autovacuum of a tablespace is on, and the other tablespace is off. "


@pytest.fixture(name="folder")
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model and pages that use two words over and over, some held out."""
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    tiny_model(tmp_path / "model")
    for place, pages in (("manual", 12), ("held-out", 8)):
        (tmp_path / place).mkdir()
        for n in range(pages):
            said = "".join(f"{n} {k} {place}: {TEXT}" for k in range(40))
            (tmp_path / place / f"{n}.txt").write_text(said, encoding="utf-8")
    texts = [*(f"{n}: {TEXT}" for n in range(32)), *(f"autovacuum {n}: {TEXT}" for n in range(8))]
    rows = [{"id": str(n), "text": text} for n, text in enumerate(texts)]
    (tmp_path / "general.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


def bits_per_byte(policy: Policy, renderer: Renderer, text: str) -> float:
    """Of everything behind the first token."""
    tokens = renderer.text(text)
    (scores,) = score_targets(policy, [target(tokens[:1], tokens[1:])])
    return -sum(scores) / math.log(2) / len(text.encode()[len(renderer.decode(tokens[:1]).encode()) :])


@pytest.mark.slow
def test_the_base_is_measured_with_its_own_tokens(folder: Path) -> None:
    """It was measured with new tokens that nobody had trained, which counted their price as gained."""
    recipe = {
        "base": "model", "tolerance": "50%", "machine": {"threads": 1, "compile": "off"},
        "probes": {"domain": [{"file": "held-out", "metric": "loss"}], "general": ["general.jsonl"]},
        "stages": [{"technique": "cpt", "data": "manual", "replay": None, "adapter": "full", "steps": 2, "lr": 1e-4,
                    "batch_tokens": 128, "checkpoints": 1, "add_tokens": list(WORDS)}],
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(json.dumps(recipe), encoding="utf-8")
    backend = TorchBackend()
    result = run(load(folder / "recipe.yaml"), folder / "run", backend, listen=lambda _: None,
                 progress=lambda *_: None)  # fmt: skip
    log = read(result.folder.log)
    plain = backend.locate(str(folder / "model"))
    grown = extended(plain, WORDS)
    measured = [m for m in of(log, Measurement) if m.method == "loss" and m.split == "selection"]
    base = {m.probe: m for m in measured if m.checkpoint == "base"}
    trained = {m.probe: m for m in measured if m.checkpoint == of(log, Candidate)[0].checkpoint}
    assert base.keys() == trained.keys() == {"held-out", "general"}
    for name, before in base.items():
        assert before.ids == trained[name].ids and before.sizes == trained[name].sizes  # the same bytes on both sides

    found = base["general"]
    text = f"{found.ids[0]}: {TEXT}"
    own, new = (bits_per_byte(backend.open(b.checkpoint), Renderer.load(b.folder), text) for b in (plain, grown))
    assert found.items[0] / found.sizes[0] == pytest.approx(own, rel=1e-4)
    assert own != pytest.approx(new, rel=0.05)  # so that the two can be told apart
    # Of the 32 + 8 texts, those that begin with a new word leave other bytes uncounted and are not asked.
    assert all(int(item) < 32 for item in found.ids)
    (choice,) = of(log, Choice)
    tests = {m.checkpoint: m for m in of(log, Measurement) if m.split == "test" and m.probe == "held-out"}
    assert {"base", choice.checkpoint} == set(tests)
    assert len({m.sizes for m in tests.values()}) == 1
    subject = find_run(str(folder / "run"), backend)
    assert choice.verdict == "improved" and subject.base == grown and as_base(subject).base == plain
    (folder / "run" / "events.jsonl").write_text(
        "".join(encode(replace(e, checkpoint="base") if isinstance(e, Choice) else e) + "\n" for e in log)
    )
    assert find_run(str(folder / "run"), backend).checkpoint == plain.checkpoint  # a run that kept its base


def test_a_model_without_new_tokens_is_compared_with_itself(folder: Path) -> None:
    backend = TorchBackend()
    plain = backend.locate(str(folder / "model"))
    assert without_new_tokens(plain, "nowhere", backend) is plain
    grown = extended(plain, WORDS)
    assert without_new_tokens(grown, str(folder / "model"), backend) == plain
    renderer = Renderer.load(plain.folder)
    probe = Probe(spec=ProbeSpec(name="p", axis="a", kind="text", source="s"),
                  items=({"id": "0", "text": "autovacuum on"}, {"id": "1", "text": "the autovacuum"}))  # fmt: skip
    assert on_same_bytes((probe,), renderer, renderer) == (probe,)
    (kept,) = on_same_bytes((probe,), Renderer.load(grown.folder), renderer)
    assert [item["id"] for item in kept.items] == ["1"]
